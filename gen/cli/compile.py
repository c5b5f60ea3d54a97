"""`popshift compile`: from a model to a program file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from popshift.gen.cli.arrays import read_array
from popshift.gen.cli.explain import print_layers, required_config
from popshift.gen.cli.output import Json, print_json, print_table, require_writable

if TYPE_CHECKING:
    from popshift.gen.compilation import Compiled

MODEL_HELP = "A .pt2, .onnx or int8 .tflite file, or module:function."


def compile_(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Configuration, by name or as a .toml file.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Program file; by default the model's name with .pop."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Typical inputs, batch first, as .npy; they decide the int8 ranges.")
    ] = None,
    ranges: Annotated[str, typer.Option(help="How ranges are chosen: minmax, percentile or mse.")] = "minmax",
    percentile: Annotated[
        float, typer.Option(help="Share of the values, in percent, that --ranges percentile keeps.")
    ] = 99.99,
    as_json: Json = False,
) -> None:
    """Quantise a network to int8 if it is not yet, map it onto an accelerator, and write the program file."""
    target = required_config(config, model)
    require_writable(output)
    samples = None if calibration is None else read_array(calibration)

    from popshift.gen.compilation import compile_model, model_name
    from popshift.gen.compress.ranges import QuantisationOptions

    options = QuantisationOptions(ranges=ranges, percentile=percentile)
    compiled = compile_model(model, target, samples, options=options)
    path = output or Path(f"{model_name(model)}.pop")
    compiled.program.save(path)
    if as_json:
        print_json(_values(compiled, path))
        return
    _print(compiled, path)


def _values(compiled: "Compiled", path: Path) -> dict:
    from popshift.sim.cycles import predicted_cycles

    program = compiled.program
    return {
        "file": path,
        "bytes": path.stat().st_size,
        "network": program.name,
        "config": program.config.name,
        "digest": f"{program.config.digest:016x}",
        "segments": len(program.segments),
        "predicted_cycles": predicted_cycles(program),
        "layers": program.layers,
        "quantisation": compiled.quantisation_report(),
        "notes": compiled.notes,
    }


def _print(compiled: "Compiled", path: Path) -> None:
    from popshift.gen.explain import explain_program

    print_layers(explain_program(compiled.program))
    report = compiled.quantisation_report()
    if report is not None:
        titles, *rows = report.table()
        title = f"Quantisation on {report.samples} calibration samples"
        print_table(title, list(titles), [list(row) for row in rows])
    for note in compiled.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"wrote {path} ({path.stat().st_size:,} bytes)")
