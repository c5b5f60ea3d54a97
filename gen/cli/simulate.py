"""`popshift simulate`: run a program at a level and compare it with the golden model."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from popshift.gen.cli.arrays import (
    outputs_summary,
    print_outputs,
    read_arrays,
    warn_clipped,
    write_outputs,
)
from popshift.gen.cli.counters import layer_values, print_counters
from popshift.gen.cli.output import Json, print_json, require_writable
from popshift.gen.level import Level
from popshift.hw.config import load_config
from popshift.hw.errors import EXIT_FAILED
from popshift.hw.status import plain_counters

if TYPE_CHECKING:
    from popshift.firmware_py.program import Program
    from popshift.gen.execution import Difference, Execution

INPUTS_HELP = "Images, batch first, as .npy or .npz: floating point, or int8 that is already quantised."


def simulate(
    program: Annotated[Path, typer.Argument(help="Program file (.pop).")],
    inputs: Annotated[Path, typer.Option("--inputs", "-i", help=INPUTS_HELP)],
    level: Annotated[
        Level,
        typer.Option(
            help="golden: PyTorch. isa: the program's executor. rtl: the Verilated hardware. netlist: it "
            "after synthesis (small configurations)."
        ),
    ] = Level.RTL,
    family: Annotated[
        str, typer.Option("--technology", "-t", help="What a netlist is synthesised for: ecp5 or ice40.")
    ] = "ecp5",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the outputs as .npz.")] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Make sure that the program is for this configuration."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a program without a board; name the first tensor and index that differs from golden (exit 1)."""
    from popshift.firmware_py.program import Program

    require_writable(output)
    loaded = Program.load(program)
    if config is not None:
        loaded.require(load_config(config))
    values = read_arrays(inputs)

    from popshift.gen.compilation import GRAPH
    from popshift.gen.execution import execute, verify

    compared = GRAPH in loaded.attachments and level != Level.GOLDEN
    difference = None
    if compared:
        done, difference = verify(loaded, values, level, progress=not as_json, family=family)
    else:
        done = execute(loaded, values, level, progress=not as_json, family=family)
    if output is not None:
        write_outputs(output, loaded, done.outputs)
    warn_clipped(loaded, values)
    found = _values(loaded, done, compared, difference)
    if as_json:
        print_json(found)
    else:
        _print(found, output)
    if difference is not None:
        raise typer.Exit(EXIT_FAILED)


def _values(
    program: "Program", done: "Execution", compared: bool, difference: "Difference | None"
) -> dict[str, Any]:
    from popshift.sim.cycles import predicted_cycles

    counted, by_cause = done.counters, program.config.performance_counters
    pairs = zip(program.layers, done.layer_counters or (), strict=False)
    layers = [
        layer_values(layer, plain_counters(entry.counters, by_cause=by_cause)) for layer, entry in pairs
    ]
    return {
        "network": program.name,
        "config": program.config.name,
        "level": str(done.level),
        "images": len(next(iter(done.outputs.values()))),
        "seconds": done.seconds,
        "outputs": outputs_summary(program, done.outputs),
        "predicted_cycles": predicted_cycles(program),
        "counters": None if counted is None else plain_counters(counted, by_cause=by_cause),
        "layers": layers or None,
        "compared_with_golden": compared,
        "difference": None if difference is None else asdict(difference),
    }


def _print(found: dict[str, Any], output: Path | None) -> None:
    print_outputs(found["outputs"])
    if output is not None:
        typer.echo(f"wrote {output}")
    if found["layers"]:
        print_counters(found["layers"])
    if found["counters"]:
        cycles = found["counters"]["cycles"]
        typer.echo(f"{cycles:,} cycles an image, predicted {found['predicted_cycles']:,}")
    typer.echo(f"{found['images']} images at level {found['level']} in {found['seconds']:.2f} s")
    difference = found["difference"]
    if difference is not None:
        place = f"tensor {difference['tensor']}, index {tuple(difference['index'])}"
        typer.echo(f"differs from golden: {place} is {difference['got']}, should be {difference['wanted']}")
    elif found["compared_with_golden"]:
        what = "output" if Level(found["level"]).is_hardware else "tensor"
        typer.echo(f"every {what} equals the golden model's, to the last integer")
    elif found["level"] != "golden":
        typer.echo("not compared: the file does not carry the network it was compiled from")
