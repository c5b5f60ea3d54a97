"""Convolutions and fully connected layers on the matrix unit: a MATRIX for each pixel tile, a POST for
several.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.bits import packed_size
from popshift.firmware_py.weight_words import passes
from popshift.gen.graph import Convolution
from popshift.gen.mapping.edges import EdgePlan, Region, plan_edges, without_edges
from popshift.gen.mapping.in_turn import Drained, drained_in_turn, in_strips
from popshift.gen.mapping.parameters import convolution_parameters, never, pack_parameters
from popshift.gen.mapping.placement import Placed
from popshift.gen.mapping.schemes import Candidate, Scheme, candidates, obstacles
from popshift.gen.mapping.sections import (
    Section,
    bank_groups,
    copy_mask,
    cycles_alone,
    fill_padding,
    part_name,
    post_rectangle,
    tile_ranges,
    weight_reads,
    window_base,
    words_of,
)
from popshift.gen.mapping.sums import scales_result, sum_lanes
from popshift.gen.mapping.tiling import ABOUT_AS_LONG, Rectangle
from popshift.gen.mapping.weight_tiles import ColumnTile, basis_lanes, runs
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import Instruction, Kind, Lane, Opcode, Source, instruction
from popshift.hw.numerics import BASIS_SIZE, LANE_CHANNELS

_EARLY = 2
"""MATRIXes in front of a POST: there are as many accumulator halves."""
MAX_TILES = 1 << 16
"""Row or column tiles that an instruction can count."""


def convolution_sections(
    layer: Convolution,
    sources: Sequence[Placed],
    target: Placed,
    config: AcceleratorConfig,
    *,
    whole: bool = False,
    first: int = 0,
) -> list[Section]:
    """The layer's sections: one, unless a memory forces more. `whole`: a pixel tile has all pixels, where the
    accumulators hold them, so that planes are done one after the other. `first`: only output channels from
    this on, with which a plane begins; a section for those in front fills the padding.

    Of the ways to execute it that take about as few cycles as any, by the cycle model, the one that reads the
    fewest weight words; of several the fastest.

    Raises
    ------
    ModelError: a single column tile exceeds the weight memory, or a number could overflow.
    """
    source, other = sources[0], sources[1] if len(sources) > 1 else None
    found: dict[str, list[Section]] = {}
    refused: list[ModelError] = []
    for candidate in candidates(layer, source.layout, target.buffer.tensor, config):
        if whole and candidate.scheme.name == "dense":
            candidate = _in_one_tile(candidate, target, config)
        try:
            found[candidate.scheme.name] = _sections(layer, source, other, target, candidate, config, first)
        except ModelError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    cycles = {name: sum(cycles_alone(section, config) for section in parts) for name, parts in found.items()}
    fewest = min(cycles.values())
    reads = {
        name: sum(weight_reads(section.instructions, config) for section in parts)
        for name, parts in found.items()
    }
    about = [name for name in cycles if cycles[name] <= fewest * ABOUT_AS_LONG]
    best = min(about, key=lambda name: (reads[name], cycles[name]))
    for section in found[best]:
        section.mapping["other_executions"] = {name: cycles[name] for name in cycles if name != best}
        section.mapping["impossible_executions"] = obstacles(layer, source.layout, config)
    return found[best]


def _in_one_tile(candidate: Candidate, target: Placed, config: AcceleratorConfig) -> Candidate:
    _, height, width = target.layout.shape
    if height * width > config.accumulator_depth:
        return candidate
    return replace(candidate, pixels=[Rectangle(0, 0, height, width)])


def _smaller(layer: Convolution) -> str:
    if layer.factors is None:
        return "make the kernel or the input smaller"
    return "leave the layer out of the decomposition (SmartDealConfig.skip)"


def _sections(
    layer: Convolution,
    source: Placed,
    other: Placed | None,
    target: Placed,
    choice: Candidate,
    config: AcceleratorConfig,
    first: int,
) -> list[Section]:
    """The sections of one way to execute it, from channel `first` on; `other`: the tensor that is added."""
    layout, scheme = source.layout, choice.scheme
    channels = layer.weight.shape[0]
    if scheme.pixels > 1 and target.layout.planes > 1:
        raise ModelError("its output takes more than one plane", where=f"layer {layer.name}")
    edges = without_edges(choice.pixels)
    if layout.bits:
        edges = plan_edges(layer.window, layout.shape[1:], choice.pixels)
    whole = scheme.tiles(0, channels)
    parameters = convolution_parameters(layer, layout, config, whole)
    tile_words = max(len(tile.words) for tile in whole)
    if tile_words > config.weight_depth or max(tile.fields["k_tiles"] for tile in whole) > MAX_TILES:
        raise ModelError(
            f"one column of output channels takes {tile_words} weight words, there are {config.weight_depth}",
            where=f"layer {layer.name}",
            remedy=f"raise weight_depth to at least {tile_words}, or {_smaller(layer)}",
        )
    fills = fill_padding(target, config)
    rows = 1 if scheme.source is Source.MATRIX else BASIS_SIZE
    rows *= sum(len(table) for table in edges.tables)
    most = min(
        min(config.weight_depth // tile_words, MAX_TILES) * scheme.channels,
        (config.parameter_depth - _words_in_front(layer) * len(edges.tables)) // rows * config.post_lanes,
    )
    ranges = [
        (max(start, first), stop)
        for start, stop in _ranges(layer, target, most, scheme.channels, config)
        if stop > first
    ]
    parts = []
    for start, stop in ranges:
        columns = whole if (start, stop) == (0, channels) else scheme.tiles(start, stop)
        words = len(runs(columns)) * isa.LENGTHS[Opcode.MATRIX] + isa.LENGTHS[_opcode(layer)]
        for piece in tile_ranges(edges.regions, words, words_of(fills), config.program_depth):
            parts.append(((start, stop), columns, piece))
    kernel_taps = layer.window.kernel[0] * layer.window.kernel[1]
    in_front = int(first > 0)
    sections = []
    for index, (chosen, columns, piece) in enumerate(parts):
        start, stop = chosen
        pixels = sum(region.rectangle.pixels for region in piece)
        lanes = parameters[start:stop]
        if scheme.pixels > 1:
            lanes = [*lanes, *[Lane()] * (scheme.channels - len(lanes))] * scheme.pixels
        packed_parameters = _parameters(config, layer, other, target, columns, lanes, edges, chosen)
        placed = (source, other, target)
        of_part = [] if start or index else fills
        items = _instructions(layer, placed, config, scheme, columns, chosen, edges, piece, of_part)
        sections.append(
            Section(
                name=part_name(layer.name, index + in_front, len(parts) + in_front),
                kind="convolution",
                output=layer.output,
                macs=(stop - start) * layer.weight.shape[1] * kernel_taps * pixels,
                instructions=items,
                weights=np.concatenate([tile.words for tile in columns]),
                parameters=packed_parameters,
                first_reads=[region.rectangle.seen(layer.window) for region in piece for _ in runs(columns)][
                    :_EARLY
                ],
                last_writes=piece[-1].rectangle,
                spares_last_plane=_spares_last_plane(source, items[0], columns[0].words, config),
                mapping=_details(layer, source, target, choice, columns, chosen, piece, config),
            )
        )
    return sections


def _parameters(
    config: AcceleratorConfig,
    layer: Convolution,
    other: Placed | None,
    target: Placed,
    columns: Sequence[ColumnTile],
    lanes: list[Lane],
    edges: EdgePlan,
    channels: tuple[int, int],
) -> NDArray[np.uint8]:
    """Parameter words of consecutive channels, for all classes of pixels one after the other, with their
    basis if the post unit needs it; those of a sum in front of every table of classes.
    """
    if columns[0].basis is not None:
        basis = np.concatenate([tile.basis for tile in columns if tile.basis is not None])
        return pack_parameters(config, basis_lanes(lanes, basis, config))
    if target.layout.bits:  # bits that no channel has are 0
        lanes = [*lanes, *[never(config)] * (-len(lanes) % LANE_CHANNELS)]
    front = []
    if layer.sum is not None and other is not None:
        words = sum_lanes(layer.sum, other.layout.zero_point, config)
        front = [pack_parameters(config, word) for word in words]
    blocks = []
    for table in edges.tables:
        blocks += front
        for pixel_class in table:
            block = lanes
            if pixel_class is not None:
                missing = pixel_class.outside(layer.weight[slice(*channels)]).tolist()
                pairs = zip(lanes, missing, strict=False)
                own = [replace(lane, bias=lane.bias + more) for lane, more in pairs]
                block = own + lanes[len(own) :]
            blocks.append(pack_parameters(config, block))
    return np.concatenate(blocks)


def _spares_last_plane(
    source: Placed, matrix: Instruction, words: NDArray[np.uint8], config: AcceleratorConfig
) -> bool:
    """Whether of its passes with the `words` of a column tile only the last reads the input's last plane."""
    if matrix.opcode is not Opcode.MATRIX or matrix["kind"] != Kind.DENSE:
        return False
    early = [step.offsets for step in passes(matrix, config, words)[:-1]]
    return bool(early) and int(np.max(early)) < (source.layout.planes - 1) * source.layout.plane_step


def _ranges(
    layer: Convolution, target: Placed, most: int, tile_channels: int, config: AcceleratorConfig
) -> list[tuple[int, int]]:
    """Ranges of output channels, of at most `most` each; of whole bytes if the output is binary.

    Raises
    ------
    ModelError: not even one column tile, or one bank group, has room for its parameters.
    """
    channels, period = len(layer.weight), target.layout.period
    unit, group = (LANE_CHANNELS, 1) if target.layout.bits else (1, config.post_lanes)
    if most < group * unit:
        raise ModelError(
            f"its parameters do not fit {config.parameter_depth} words",
            where=f"layer {layer.name}",
            remedy="raise parameter_depth, or use less padding",
        )
    whole = channel_ranges(-(-channels // unit), most // unit, period, max(1, tile_channels // unit), group)
    return [(start * unit, min(stop * unit, channels)) for start, stop in whole]


def channel_ranges(
    channels: int, most: int, period: int, tile_channels: int, group: int
) -> list[tuple[int, int]]:
    """Ranges of output channels of at most `most` each, for which one POST can write every column tile.

    A range begins a plane, or stays within one: the post unit's mask starts again only at the end of a plane.
    `group`: of channels that are written together.
    """
    if channels <= most:
        return [(0, channels)]
    if most < period:
        most -= most % group
        return [
            (start, min(start + most, plane + period, channels))
            for plane in range(0, channels, period)
            for start in range(plane, min(plane + period, channels), most)
        ]
    whole = int(np.lcm(period, tile_channels))
    most -= most % (whole if whole <= most else period)
    return [(start, min(start + most, channels)) for start in range(0, channels, most)]


def _opcode(layer: Convolution) -> Opcode:
    """Of the instruction that drains it."""
    return Opcode.POST if layer.sum is None else Opcode.ADD


def _words_in_front(layer: Convolution) -> int:
    """Parameter words in front of those of its channels, in every table of classes."""
    return 0 if layer.sum is None else isa.ADDEND_WORDS


def _instructions(
    layer: Convolution,
    placed: tuple[Placed, Placed | None, Placed],
    config: AcceleratorConfig,
    scheme: Scheme,
    columns: Sequence[ColumnTile],
    channels: tuple[int, int],
    edges: EdgePlan,
    regions: Sequence[Region],
    fills: list[Instruction],
) -> list[Instruction]:
    """The MATRIXes of every region and the POSTs that drain them; the FILLs run beside the first MATRIX.

    `placed`: its input, what is added, its output.
    """
    source, other, target = placed
    window, pitch = layer.window, source.layout.row_pitch
    starts = np.cumsum([0, *(len(tile.words) for tile in columns)]).tolist()
    place = _place(target, channels, config)
    class_words = place["chunks"] * (config.groups_of_byte if target.layout.bits else 1)
    plane = place.pop("plane")
    found: list[Drained] = []
    for region in regions:
        tile = region.rectangle
        matrices = [
            instruction(
                Opcode.MATRIX,
                **columns[first].fields,
                **scheme.matrix_fields(layer, tile, pitch),
                n_tiles=number,
                weight_base=starts[first],
                base=window_base(source, window.padding, window.stride, tile),
            )
            for first, number in runs(columns)
        ]
        rectangle = {
            **post_rectangle(target, tile, plane),
            **scheme.post_fields(layer, tile, target.layout.row_pitch),
        }
        last = layer.requantisation if layer.sum is None else layer.sum.requantisation
        tables = class_words * sum(map(len, edges.tables[: region.table]))
        post = instruction(
            _opcode(layer),
            uniform=0,
            zero_point=target.layout.zero_point,
            low=last.low,
            high=last.high,
            parameter_base=_words_in_front(layer) * (region.table + 1) + tables,
            edges=region.edges,
            class_words=class_words if region.edges else 0,
            **{**place, **scheme.groups(config)},
            **rectangle,
            **_addend(layer, other, tile, plane, channels[0], config, scheme),
        )
        found.append((matrices, post))
    return drained_in_turn(in_strips(found), fills, fills_first=config.paired_banks)


def _addend(
    layer: Convolution,
    other: Placed | None,
    tile: Rectangle,
    plane: int,
    first: int,
    config: AcceleratorConfig,
    scheme: Scheme,
) -> dict[str, int]:
    """Fields of an ADD that no POST has, for channels from `first` on."""
    if layer.sum is None or other is None:
        return {}
    steps = {**post_rectangle(other, tile, plane), **scheme.post_fields(layer, tile, other.layout.row_pitch)}
    return {
        "inner_zero_point": layer.sum.result.zero_point,
        "inner_low": layer.requantisation.low,
        "inner_high": layer.requantisation.high,
        "scale_result": int(scales_result(layer.sum, config)),
        "addend_group": first % other.layout.period // config.post_lanes,
        **{f"addend_{name}": steps[name] for name in ("base", "y_step", "plane_step")},
    }


def _place(target: Placed, channels: tuple[int, int], config: AcceleratorConfig) -> dict[str, int]:
    """Fields of a POST that say to which banks it writes these channels, and the plane it begins with."""
    start, stop = channels
    if not target.layout.bits:
        plane, within = divmod(start, target.layout.period)
        return {
            "plane": plane,
            "period": bank_groups(target, config),
            "chunks": -(-(stop - start) // config.post_lanes),
            "mask": copy_mask(target, config) << within // config.post_lanes,
        }
    plane, within = divmod(start // LANE_CHANNELS, target.layout.period)
    group, first_bank = divmod(within, config.post_lanes)
    return {
        "plane": plane,
        "packed": 1,
        "period": target.layout.period,
        "chunks": packed_size(stop - start),
        "mask": copy_mask(target, config) << group,
        "first_bank": first_bank,
    }


def _inputs(layer: Convolution, source: Placed, start: int, stop: int) -> int:
    """Numbers (or bytes of bits) that the filters ``start .. stop - 1`` read for a pixel."""
    taps = layer.window.kernel[0] * layer.window.kernel[1]
    if source.layout.bits:
        return source.layout.shape[0] * taps
    outputs = len(layer.weight) // layer.groups
    groups = (stop - 1) // outputs - start // outputs + 1
    return groups * layer.weight.shape[1] * taps


def _details(
    layer: Convolution,
    source: Placed,
    target: Placed,
    choice: Candidate,
    columns: Sequence[ColumnTile],
    channels: tuple[int, int],
    regions: Sequence[Region],
    config: AcceleratorConfig,
) -> dict[str, Any]:
    """Plain values for `explain` and the reports."""
    tiles = [region.rectangle for region in regions]
    number = channels[1] - channels[0]
    passes = sum(tile.fields["k_tiles"] for tile in columns)
    rows_of_filters = [
        _inputs(layer, source, start, min(start + choice.scheme.channels, channels[1]))
        for start in range(*channels, choice.scheme.channels)
    ]
    return {
        "unit": "matrix",
        "weights": number * layer.weight[0].size * choice.scheme.pixels,
        "least_passes": passes
        if choice.scheme.walk is not None or choice.scheme.pixels > 1
        else sum(-(-rows // config.rows) for rows in rows_of_filters),
        "execution": choice.scheme.name,
        "input_period": source.layout.period,
        "input_copies": source.layout.copies,
        "output_period": target.layout.period,
        "output_copies": target.layout.copies,
        "output_channels": list(channels),
        "row_tiles": max(tile.fields["k_tiles"] for tile in columns),
        "column_tiles": len(columns),
        "pixel_tiles": len(tiles),
        "tile_height": max(tile.height for tile in tiles),
        "tile_width": max(tile.width for tile in tiles),
        "row_fill": round(sum(tile.used for tile in columns) / (passes * config.rows), 4),
        "column_fill": round(number / (len(columns) * choice.scheme.channels), 4),
        "weight_words": sum(len(tile.words) for tile in columns),
    }
