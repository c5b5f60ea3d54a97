"""Counters on the command line."""

from typing import TYPE_CHECKING, Any

import typer

from popshift.gen.cli.output import print_table
from popshift.hw.status import CYCLE_CAUSES

if TYPE_CHECKING:
    from popshift.firmware_py.program import LayerRecord


def layer_values(layer: "LayerRecord", counted: "dict[str, int]") -> dict[str, Any]:
    """What the hardware counted and the model predicted of a layer, for JSON and `print_counters`."""
    return {"layer": layer.name, "predicted_cycles": layer.predicted_cycles, **counted}


def print_counters(layers: list[dict[str, Any]]) -> None:
    """Where the cycles of one image went, layer by layer, and the sum."""
    causes = [cause.name.lower() for cause in CYCLE_CAUSES if cause.name.lower() in layers[0]]
    columns = ["layer", "cycles", "predicted", *causes]
    rows = [
        [entry["layer"], *(f"{entry[name]:,}" for name in ("cycles", "predicted_cycles", *causes))]
        for entry in layers
    ]
    sums = [sum(entry[name] for entry in layers) for name in ("cycles", "predicted_cycles", *causes)]
    rows.append(["together", *(f"{number:,}" for number in sums)])
    title = "Cycles of one image, counted by the hardware in a run that stops behind each layer"
    print_table(title, columns, rows)
    if not causes:
        typer.echo(
            "where the cycles went is not counted: this configuration has performance_counters = false; "
            "a copy of it that has true takes the same cycles (popshift configs NAME > mine.toml)"
        )
