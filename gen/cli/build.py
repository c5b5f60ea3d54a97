"""`popshift build`: synthesis, place and route, and what they found."""

from typing import TYPE_CHECKING, Annotated

import typer

from popshift.gen.cli.output import Json, print_json, print_table

if TYPE_CHECKING:
    from popshift.gen.implement.build import Build
    from popshift.gen.implement.place_route import Report


def build(
    config: Annotated[str, typer.Argument(help="Configuration, by name or as a .toml file.")],
    device: Annotated[str, typer.Option("--device", "-d", help="Device, e.g. lfe5u-25f, up5k, gw2ar-18.")],
    seeds: Annotated[
        int, typer.Option(help="Place and route with this many seeds and report the median.")
    ] = 3,
    clock: Annotated[
        float | None, typer.Option(help="Clock to aim for, in MHz; by default the configuration's.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Give a seed up after this time.")] = 120,
    unit: Annotated[
        str | None,
        typer.Option(help="Build this part alone, between registers, e.g. mesh; by default the whole."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Place and route the accelerator: LUT, FF, block RAM, DSP, Fmax and the critical path.

    Out of context: clock and UART go to any pins of the device. Results are cached by content.
    """
    from popshift.gen.implement.build import build as place_and_route
    from popshift.gen.implement.devices import device as device_named
    from popshift.hw.config import load_config

    done = place_and_route(
        load_config(config), device_named(device), seeds=seeds, clock_mhz=clock, minutes=minutes, unit=unit
    )
    if as_json:
        print_json(done)
        return
    _print(done)


def _print(done: "Build") -> None:
    report = done.median
    rows = [
        [name, f"{use.used:,}", f"{use.available:,}", f"{100 * use.used / use.available:.0f} %"]
        for name, use in (
            ("LUT", report.lut),
            ("FF", report.ff),
            ("block RAM", report.block_ram),
            ("DSP", report.dsp),
            ("SPRAM", report.spram),
        )
        if use is not None
    ]
    built = done.config if done.unit is None else f"{done.unit} of {done.config}"
    print_table(f"{built} on {done.device}", ["resource", "used", "available", "share"], rows)
    netlist = done.resources
    print(f"netlist: {netlist.lut4:,} LUT4 ({netlist.carry:,} carry cells), {netlist.ff:,} FF")
    clocks = ", ".join(f"seed {run.seed}: {run.slowest_mhz:.1f}" for run in done.runs)
    print(f"Fmax {report.slowest_mhz:.1f} MHz (median; {clocks}); wanted {report.clock_mhz:g} MHz")
    print(f"with {', '.join(f'{name} {version}' for name, version in done.tools.items())}")
    for seed, reason in done.failed.items():
        print(f"seed {seed} failed: {reason}")
    _print_path(report)


def _print_path(report: "Report") -> None:
    rows = [[step.signal, f"{step.logic_ns:.2f}", f"{step.routing_ns:.2f}"] for step in report.critical_path]
    print_table("Critical path", ["signal", "logic ns", "routing ns"], rows)
    print(f"log: {report.log}")
