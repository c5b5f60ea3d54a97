"""Where the cycles of an image went, layer by layer, as the hardware counted them."""

from dataclasses import dataclass

from popshift.firmware_py.program import LayerRecord, Program
from popshift.gen.execution import Execution
from popshift.gen.report.charts import Bar, stacked_bars
from popshift.gen.report.page import Block, Cell, Figure, Paragraph, Section, Table, percent
from popshift.hw.isa import CYCLE_CAUSES, Counter

CAUSES = {
    Counter.MATRIX: "matrix unit streams activations",
    Counter.CHANNEL: "channel unit reads",
    Counter.WEIGHTS: "waiting for weights",
    Counter.ACCUMULATORS: "waiting for free accumulators",
    Counter.DRAIN: "only the post unit works",
    Counter.CONTROL: "fetch, pipeline filling, barriers",
}
_COLOURS = {name: f"var(--{cause.name.lower()})" for cause, name in CAUSES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedLayer:
    """One layer, one image.

    Attributes
    ----------
    name, kind, macs, bottleneck: as the compiler gives them.
    cycles: counted from mark to mark.
    predicted: by the cycle model.
    utilisation: MACs per cycle as a fraction of the array's peak; None for a layer without MACs,
        or one that runs beside the layer in front.
    causes: cycles by cause, in the order of `CAUSES`; None if the configuration has no performance counters.
    """

    name: str
    kind: str
    macs: int
    bottleneck: str
    cycles: int
    predicted: int
    utilisation: float | None
    causes: tuple[int, ...] | None

    @property
    def error(self) -> float:
        """Of the prediction, as a fraction of the counted cycles; negative if it was too low."""
        return (self.predicted - self.cycles) / self.cycles


def counted_layers(program: Program, execution: Execution) -> list[CountedLayer]:
    """The layers of an execution at ``rtl``."""
    assert execution.layer_counters is not None, "only hardware counts"
    peak, counts = program.config.peak_macs_per_cycle, program.config.performance_counters
    return [
        CountedLayer(
            name=layer.name,
            kind=layer.kind,
            macs=layer.macs,
            bottleneck=layer.bottleneck,
            cycles=entry.counters[Counter.CYCLES],
            predicted=layer.predicted_cycles,
            utilisation=_utilisation(layer, entry.counters[Counter.CYCLES] * peak),
            causes=tuple(entry.counters[cause] for cause in CYCLE_CAUSES) if counts else None,
        )
        for layer, entry in zip(program.layers, execution.layer_counters, strict=True)
    ]


def _utilisation(layer: LayerRecord, at_peak: int) -> float | None:
    if not layer.macs or "beside" in layer.mapping:
        return None
    return layer.macs / at_peak


def cycles_section(program: Program, execution: Execution, predicted: int) -> Section:
    """Bars by cause beside the prediction, and the figures behind them.

    Parameters
    ----------
    execution: at ``rtl``.
    predicted: cycles of the whole image.
    """
    assert execution.counters is not None
    layers = counted_layers(program, execution)
    counted = all(layer.causes is not None for layer in layers)
    legend = _COLOURS if counted else {"cycles": "var(--matrix)"}
    bars = [
        Bar(
            name=layer.name,
            parts=layer.causes or (layer.cycles,),
            mark=layer.predicted,
            text=f"{layer.cycles:,} cycles, predicted {layer.predicted:,}"
            + ("" if layer.utilisation is None else f"; {percent(layer.utilisation)} of the array's peak"),
        )
        for layer in layers
    ]
    caption = (
        "Cycles of one image by cause, from the accelerator's own counters; the thin line is the prediction. "
        "Layers are counted in a run that stops after each; in one that does not they overlap a little."
    )
    if not counted:
        caption += " This configuration has no counters by cause."
    total = execution.counters[Counter.CYCLES]
    macs, peak = sum(layer.macs for layer in layers), program.config.peak_macs_per_cycle
    text = (
        f"One image takes {total:,} cycles ({predicted:,} predicted) for {macs:,} multiply-accumulates: "
        f"{percent(macs / (total * peak))} of what the array could do in that time. A cycle counts for the "
        "matrix unit when a row of activations enters the array; else for the first other cause that holds."
    )
    blocks: list[Block] = [
        Paragraph(text),
        Figure(picture=stacked_bars(legend, bars, unit="cycles"), caption=caption),
        _table(layers, total, predicted, macs, peak),
    ]
    return Section(title="Where the cycles went", blocks=blocks)


def _table(layers: list[CountedLayer], total: int, predicted: int, macs: int, peak: int) -> Table:
    counted = all(layer.causes is not None for layer in layers)
    titles = [cause.name.lower() for cause in CYCLE_CAUSES] if counted else []
    rows: list[list[Cell]] = [
        [
            layer.name,
            layer.cycles,
            layer.predicted,
            percent(layer.error, 2),
            *(layer.causes or ()),
            layer.macs,
            percent(layer.utilisation),
        ]
        for layer in layers
    ]
    sums = [sum((layer.causes or ())[index] for layer in layers) for index in range(len(titles))]
    last: list[Cell] = ["one image", total, predicted, percent((predicted - total) / total, 2), *sums]
    return Table(
        columns=["layer", "cycles", "predicted", "error", *titles, "MACs", "of peak"],
        rows=rows,
        total=[*last, macs, percent(macs / (total * peak))],
    )
