"""`popshift build`: synthesis, place and route, and what they found; for a board, a bitstream."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from popshift.gen.cli.output import Json, print_json, print_table
from popshift.hw.errors import InputError

if TYPE_CHECKING:
    from popshift.gen.implement.build import Build
    from popshift.gen.implement.place_route import Report

MINUTES = 120
Minutes = Annotated[float, typer.Option(help="Give a seed up after this time.")]
BOARD_HELP = "Board, e.g. ulx3s-85f, icebreaker; popshift boards lists them."
_FOLDER = Path("popshift-build")


def build(
    config: Annotated[
        str | None,
        typer.Argument(help="Configuration, by name or as a .toml file; by default the board's."),
    ] = None,
    board: Annotated[str | None, typer.Option("--board", "-b", help=BOARD_HELP)] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="A bare device instead, e.g. lfe5u-25f, up5k: figures alone."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Place and route with so many seeds; by default 3 for a device, for a board until one is "
            "fast enough."
        ),
    ] = None,
    clock: Annotated[
        float | None, typer.Option(help="Clock to aim for, in MHz; by default the configuration's.")
    ] = None,
    minutes: Minutes = MINUTES,
    unit: Annotated[
        str | None,
        typer.Option(help="Build this part alone on a device, between registers, e.g. mesh."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for bitstream and report of a board [popshift-build]."),
    ] = None,
    network: Annotated[
        Path | None, typer.Option(help="Program file (.pop): report how fast it will be, too.")
    ] = None,
    accept_slow: Annotated[
        bool, typer.Option("--accept-slow", help="Write a bitstream that is too slow for its clock, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the bitstream for a board, with a report: LUT, FF, block RAM, DSP, Fmax, critical path.

    Several seeds: the fastest is kept, the median reported. Results are cached by content.
    """
    if board is not None and device is not None:
        raise InputError("--board and --device together", remedy="give one of them: a board has its device")
    if board is None and device is None:
        raise InputError("say what to build for", remedy="give --board (or --device for figures alone)")
    if board is None and network is not None:
        raise InputError("--network needs a board", remedy="give --board")
    if board is None:
        _on_device(config, str(device), seeds, clock, minutes, unit, as_json)
        return
    if unit is not None:
        raise InputError("a part alone has no bitstream", where="--unit", remedy="give --device")
    from popshift.boards import board as board_named
    from popshift.firmware_py.program import Program
    from popshift.gen.implement.build import build_for_board
    from popshift.gen.implement.products import network_figures, write_products
    from popshift.hw.config import load_config

    target = board_named(board)
    program = None if network is None else Program.load(network)
    chosen = load_config(config or target.configuration)
    if program is not None:
        program.require(chosen)
    done = build_for_board(chosen, target, seeds=seeds, clock_mhz=clock, minutes=minutes)
    if not accept_slow:
        done.require_timing()
    files = write_products(done, target, output or _FOLDER, program=program)
    if as_json:
        print_json(done.to_dict() | {"files": files})
        return
    _print(done)
    if program is not None:
        speed = network_figures(done, program)
        time = f"{speed['milliseconds']:.3g} ms, {speed['gmacs']:.3g} GMAC/s"
        print(f"{program.name}: {speed['cycles']:,} cycles an image, {time} without the time on the link")
    for path in files:
        print(f"wrote {path} ({path.stat().st_size:,} bytes)")


def _on_device(
    config: str | None,
    device: str,
    seeds: int | None,
    clock: float | None,
    minutes: float,
    unit: str | None,
    as_json: bool,
) -> None:
    from popshift.gen.implement.build import build as place_and_route
    from popshift.gen.implement.devices import device as device_named
    from popshift.hw.config import load_config

    if config is None:
        raise InputError("no configuration", remedy="name one (popshift configs lists them)")
    done = place_and_route(
        load_config(config),
        device_named(device),
        seeds=3 if seeds is None else seeds,
        clock_mhz=clock,
        minutes=minutes,
        unit=unit,
    )
    if as_json:
        print_json(done)
        return
    _print(done)


def _print(done: "Build") -> None:
    report = done.median
    rows = [
        [name, f"{use.used:,}", f"{use.available:,}", f"{100 * use.used / use.available:.0f} %"]
        for name, use in report.resources().items()
    ]
    built = done.config.name if done.unit is None else f"{done.unit} of {done.config.name}"
    print_table(f"{built} on {done.board or done.device}", ["resource", "used", "available", "share"], rows)
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
