"""The network as integers, and how the mapper put it onto the accelerator."""

import numpy as np

from popshift.firmware_py.program import LayerRecord, Program
from popshift.gen.graph import Add, Convolution, Graph, Operator, Window
from popshift.gen.mapping.order import as_mapped
from popshift.gen.mapping.tiling import assign_taps
from popshift.gen.report.memory_map import memory_map
from popshift.gen.report.page import Block, Cell, Figure, Paragraph, Section, Table, percent
from popshift.gen.report.taps import tap_grid

PICTURED_LAYERS = 2
"""Convolutions whose taps are drawn."""


def network_section(graph: Graph) -> Section:
    """Every operator with its shapes and its quantisation."""
    rows = [_operator_row(graph, operator) for operator in graph.operators]
    inputs = [graph.tensors[name] for name in graph.inputs]
    first: list[list[Cell]] = [
        [
            tensor.name,
            "input",
            "",
            _shape(tensor.shape),
            None,
            None,
            f"{tensor.scale:.4g}",
            tensor.zero_point,
            "int8",
        ]
        for tensor in inputs
    ]
    text = (
        "Batch norm and ReLU are folded into the convolutions. A real number is scale × (integer − zero "
        "point); weights have one scale per output channel. The compiler has proved from the weights that no "
        f"accumulator can overflow. Requantisation is {graph.mode}."
    )
    columns = ["layer", "operation", "window", "output", "weights", "MACs", "scale", "zero point", "code"]
    weights = sum(operator.weight.size for operator in graph.operators if isinstance(operator, Convolution))
    macs = sum(row[5] or 0 for row in rows if isinstance(row[5], int))
    total: list[Cell] = ["network", "", "", "", weights, macs, "", "", ""]
    return Section(
        title="The network",
        blocks=[Paragraph(text), Table(columns=columns, rows=[*first, *rows], total=total)],
    )


def _operator_row(graph: Graph, operator: Operator) -> list[Cell]:
    tensor = graph.tensors[operator.output]
    window = Window((1, 1)) if isinstance(operator, Add) else operator.window
    weights = macs = None
    code, kind = "", "sum" if isinstance(operator, Add) else f"{getattr(operator, 'operation', '')} pool"
    if isinstance(operator, Convolution):
        weights, code = operator.weight.size, "int8" if operator.factors is None else "SmartDeal"
        whole = window.kernel == graph.tensors[operator.input].shape[1:]
        kind = "fully connected" if whole else "convolution"
        macs = weights * int(np.prod(tensor.shape[1:]))
    details = f"{window.kernel[0]} × {window.kernel[1]}"
    details += f", stride {window.stride[0]}" if window.stride != (1, 1) else ""
    details += f", padding {max(window.padding)}" if any(window.padding) else ""
    shown = _shape(tensor.shape)
    return [
        operator.name,
        kind,
        details,
        shown,
        weights,
        macs,
        f"{tensor.scale:.4g}",
        tensor.zero_point,
        code,
    ]


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def mapping_section(graph: Graph, program: Program) -> Section:
    """How each layer lies on the array, which taps its rows hold, and where the tensors live."""
    config = program.config
    text = (
        f"Each of the {config.rows} rows of the array reads one bank of the activation memory, each of the "
        f"{config.cols} columns computes one output channel. A tap is one input channel at one place of the "
        "kernel; it may sit in any row whose bank holds its channel. Channel c lies in bank c modulo the "
        "period, and small tensors are stored several times side by side, so that a layer with few channels "
        "still fills the rows. A layer with more taps than rows takes several K tiles, one after the other; "
        "with more output channels than columns, several N tiles. Rows and columns: how many of them work."
    )
    columns = ["layer", "unit", "period × copies", "K × N tiles", "pixel tiles", "rows"]
    columns += ["columns", "weight words", "limited by"]
    blocks: list[Block] = [
        Paragraph(text),
        Table(columns=columns, rows=[_mapping_row(layer) for layer in program.layers]),
    ]
    dense = {layer.output for layer in program.layers if layer.mapping.get("execution") == "dense"}
    convolutions = [
        operator
        for operator in graph.operators
        if isinstance(operator, Convolution) and operator.output in dense
    ]
    blocks += [_taps(operator, program) for operator in convolutions[:PICTURED_LAYERS]]
    return Section(title="On the array", blocks=blocks)


def _mapping_row(layer: LayerRecord) -> list[Cell]:
    mapping = layer.mapping
    tiles = f"{mapping['row_tiles']} × {mapping['column_tiles']}" if "row_tiles" in mapping else ""
    pixels = ""
    if "tile_height" in mapping:
        pixels = f"{mapping['pixel_tiles']} of {mapping['tile_height']} × {mapping['tile_width']}"
    banks = f"{mapping['input_period']} × {mapping['input_copies']}" if "input_period" in mapping else ""
    fill = percent(mapping.get("row_fill"), 0), percent(mapping.get("column_fill"), 0)
    words = mapping.get("weight_words")
    return [
        layer.name,
        ", ".join(str(mapping[key]) for key in ("unit", "execution") if key in mapping),
        banks,
        tiles,
        pixels,
        *fill,
        words,
        layer.bottleneck,
    ]


def _taps(operator: Convolution, program: Program) -> Figure:
    layout, rows = program.tensor(operator.input), program.config.rows
    taps = assign_taps(layout.shape[0], operator.window.kernel, layout.period, layout.copies, rows)
    channels, (height, width) = layout.shape[0], operator.window.kernel
    caption = (
        f"{operator.name}: {channels} input channel{'s' if channels > 1 else ''} × {height} × {width} = "
        f"{channels * height * width} taps in the {rows} rows of {len(taps)} K "
        f"tile{'s' if len(taps) > 1 else ''}; {percent(float((taps >= 0).mean()), 0)} of the rows work. A "
        "cell: input channel, and the tap's row and column in the kernel."
    )
    return Figure(picture=tap_grid(taps, operator.window.kernel), caption=caption, wide=True)


def memory_section(graph: Graph, program: Program) -> Section:
    """Which tensor lies where in the activation memory, and how long."""
    picture, used = memory_map(as_mapped(graph, program), program)
    depth = program.config.activation_depth
    text = (
        f"A word of the activation memory holds one byte in each of {program.config.rows} banks. Tensors "
        f"never needed at the same time share words: the network takes {used:,} of {depth:,} words."
    )
    caption = (
        "From left to right the layers in order of execution, downwards the word address; padding included."
    )
    return Section(
        title="Activation memory",
        blocks=[Paragraph(text), Figure(picture=picture, caption=caption, wide=True)],
    )
