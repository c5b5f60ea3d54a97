"""A network in a form of its own beside one of the same layers with int8 weights."""

from popshift.firmware_py.program import Program
from popshift.gen.compress.smartdeal.report import FLOAT_BITS
from popshift.gen.demo import ZERO_ROWS, Demo, Form, Int8Twin, counted, weight_bytes
from popshift.gen.execution import Execution
from popshift.gen.report.charts import Bar, stacked_bars
from popshift.gen.report.cycles import counted_layers
from popshift.gen.report.page import Figure, Paragraph, Section, Table, percent
from popshift.hw.isa import Counter
from popshift.hw.numerics import WEIGHT_BITS

_TEXTS = {
    Form.SMARTDEAL: "Every filter is a basis of 3 × 3 bytes times coefficients that are powers of two or "
    f"zero, and {percent(ZERO_ROWS, 0)} of the rows of coefficients are zero in all filters that share the "
    "array: they are neither stored nor computed, but count as multiply-accumulates wherever a share of the "
    "peak is given. Storage counts indices and bases.",
    Form.BINARY: "Weights and activations between the first and the last layer are 1 or -1: eight channels "
    "to a byte, eight multiply-accumulates to a processing element and cycle, so that more than 100 % of the "
    "int8 peak is possible. Batch norm and Hardtanh have become one threshold for each channel.",
}


def twin_section(demo: Demo, twin: Int8Twin) -> Section:
    """Accuracy, storage, cycles and traffic, and the cycles of every layer."""
    text = (
        f"{_TEXTS[demo.form]} Both networks ran on the same accelerator. Cycles and bytes from the weight "
        "memory are its own counters for one image; "
        f"{', '.join(twin.storage.plain) or 'no layer'} stayed int8."
    )
    rows = [
        _row("int8", twin.accuracy, FLOAT_BITS / WEIGHT_BITS, demo, twin.compiled.program, twin),
        _row(demo.form, demo.accuracy, twin.storage.ratio, demo, demo.compiled.program, demo),
    ]
    columns = ["weights", "accuracy", "bits a weight", "smaller than float32", "cycles", "weight bytes read"]
    before = _cycles(twin.compiled.program, twin.profile)
    bars = [
        Bar(
            name=tensor,
            parts=(cycles,),
            mark=before[tensor],
            text=f"{cycles:,} cycles, {before[tensor]:,} with int8 weights: "
            f"{before[tensor] / cycles:.2f} times fewer",
        )
        for tensor, cycles in _cycles(demo.compiled.program, demo.profile).items()
        if tensor in before
    ]
    figure = Figure(
        picture=stacked_bars({str(demo.form): "var(--matrix)"}, bars, unit="cycles"),
        caption="Cycles of every layer, by the tensor it makes; the thin line is the same with int8 weights.",
    )
    return Section(
        title=f"Weights: {demo.form}", blocks=[Paragraph(text), Table(columns=columns, rows=rows), figure]
    )


def _row(
    name: str, accuracy: float, ratio: float, demo: Demo, program: Program, run: Demo | Int8Twin
) -> list[str | int | None]:
    cycles = counted(run.profile, Counter.CYCLES)
    read = weight_bytes(run.profile, program.config)
    return [name, percent(accuracy, 2), f"{FLOAT_BITS / ratio:.2f}", f"{ratio:.2f}", cycles, read]


def _cycles(program: Program, run: Execution) -> dict[str, int]:
    """By output tensor: a layer may be in several parts."""
    found: dict[str, int] = {}
    for layer, entry in zip(program.layers, counted_layers(program, run), strict=True):
        found[layer.output] = found.get(layer.output, 0) + entry.cycles
    return found
