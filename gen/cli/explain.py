"""`popshift explain`: what becomes of each layer, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from popshift.gen.cli.arrays import read_array
from popshift.gen.cli.counters import layer_values, print_counters
from popshift.gen.cli.output import Json, print_json, print_table
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.errors import EXIT_FAILED, InputError

if TYPE_CHECKING:
    from popshift.gen.explain import Explanation

PROGRAM_SUFFIX = ".pop"
MODEL_HELP = "A .pt2, .onnx or int8 .tflite file, module:function, or a program file (.pop)."


def explain(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Configuration, by name or as a .toml file; a .pop has its own."),
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="Typical inputs, batch first, as .npy.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Count the cycles of an image on the simulated hardware, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Per layer: supported or not and why, mapping, cycles, bottleneck; exit 1 if anything does not map."""
    explanation = _explanation(model, config, calibration, measure=measure)
    if as_json:
        print_json(explanation.to_dict())
    else:
        _print(explanation)
    if not explanation.maps:
        raise typer.Exit(EXIT_FAILED)


def required_config(name: str | None, model: str) -> AcceleratorConfig:
    """The configuration to map `model` on.

    Raises
    ------
    InputError: none is named. ConfigError: there is none of that name.
    """
    if name is None:
        remedy = "give one with -c NAME; `popshift configs` lists them"
        raise InputError("no configuration to map it on", where=model, remedy=remedy)
    return load_config(name)


def _explanation(model: str, config: str | None, calibration: Path | None, *, measure: bool) -> "Explanation":
    if model.endswith(PROGRAM_SUFFIX):
        from popshift.firmware_py.program import Program
        from popshift.gen.explain import explain_program

        program = Program.load(model)
        if config is not None:
            program.require(load_config(config))
        return explain_program(program, measure=measure)
    target = required_config(config, model)
    samples = None if calibration is None else read_array(calibration)
    from popshift.gen.explain import explain_model

    return explain_model(model, target, samples, measure=measure)


def _print(explanation: "Explanation") -> None:
    if explanation.operators:
        rows = [
            [finding.layer, finding.operator, "yes" if finding.supported else "NO", _reason(finding)]
            for finding in explanation.operators
        ]
        print_table(f"Operators of {explanation.network}", ["layer", "operator", "supported", "why"], rows)
    if explanation.layers:
        print_layers(explanation)
    for note in explanation.notes:
        typer.echo(f"note: {note}")
    if explanation.refused:
        number = len(explanation.refused)
        typer.echo(f"{number} operator{'s' * (number > 1)} cannot run on an accelerator.")
    if explanation.problem:
        typer.echo(f"It does not map onto {explanation.config}: {explanation.problem}")


def _reason(finding) -> str:
    return f"{finding.reason}; {finding.remedy}" if finding.remedy else finding.reason


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.1f}"


def print_layers(explanation: "Explanation") -> None:
    """The layer table of a program."""
    from popshift.gen.explain import mapping_text
    from popshift.gen.mapping.eyexam import STEPS

    rows = [
        [
            layer.name,
            layer.kind,
            f"{layer.macs:,}",
            mapping_text(layer),
            f"{layer.predicted_cycles:,}",
            f"{100 * layer.utilisation:.1f} %",
            layer.bottleneck,
        ]
        for layer in explanation.layers
    ]
    columns = ["layer", "kind", "MACs", "mapping", "cycles", "of peak", "bottleneck"]
    print_table(f"{explanation.network} on {explanation.config}", columns, rows)
    chains = [layer for layer in explanation.layers if "chain" in layer.mapping]
    if chains:
        rows = [
            [
                layer.name,
                *(_short(layer.mapping["chain"][step]) for step in STEPS),
                layer.mapping["largest_loss"],
            ]
            for layer in chains
        ]
        titles = ["layer", "all at once", *STEPS[1:], "most is lost by"]
        print_table("Multiply-accumulates a cycle, limit by limit (Eyexam)", titles, rows)
    if explanation.measured:
        pairs = zip(explanation.layers, explanation.measured, strict=True)
        print_counters([layer_values(layer, counted) for layer, counted in pairs])
    loads = explanation.segments
    again = ""
    if loads > 1:
        again = f"; the memories are loaded {loads} times for every image, {explanation.loaded_bytes:,} bytes"
    share = f"{100 * explanation.utilisation:.1f} % of the array's peak"
    one_by_one = sum(layer.predicted_cycles for layer in explanation.layers)
    overlap = f"; its layers one by one take {one_by_one:,}" if one_by_one > explanation.cycles else ""
    mhz, milliseconds = explanation.clock_hz / 1e6, 1e3 * explanation.cycles / explanation.clock_hz
    time = f"{milliseconds:.3g} ms at {mhz:g} MHz"
    typer.echo(f"predicted: {explanation.cycles:,} cycles an image ({time}), {share}{overlap}{again}")
    if explanation.measured:
        typer.echo(f"counted: {explanation.measured_cycles:,} cycles an image")
