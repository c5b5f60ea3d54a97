"""Convolutions and fully connected layers on the matrix unit: one MATRIX and one POST for each pixel tile."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popshift.gen.graph import Convolution
from popshift.gen.mapping.parameters import convolution_parameters, pack_parameters
from popshift.gen.mapping.placement import Placed
from popshift.gen.mapping.schemes import Candidate, Scheme, candidates, obstacles
from popshift.gen.mapping.sections import (
    Section,
    bank_groups,
    copy_mask,
    fill_padding,
    part_name,
    post_rectangle,
    tile_ranges,
    window_base,
    words_of,
)
from popshift.gen.mapping.tiling import ABOUT_AS_LONG, Rectangle
from popshift.gen.mapping.weight_tiles import ColumnTile, basis_lanes, runs
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import Instruction, Lane, Opcode, Source, instruction
from popshift.hw.numerics import BASIS_SIZE
from popshift.sim.cycles import predict

MAX_TILES = 1 << 16
"""Row or column tiles that an instruction can count."""


def convolution_sections(
    layer: Convolution, source: Placed, target: Placed, config: AcceleratorConfig
) -> list[Section]:
    """The layer's sections: one, unless a memory forces more.

    Of several ways to execute it, the first of `candidates` that takes about as few cycles as any of them, by
    the cycle model: those in front read fewer weight words.

    Raises
    ------
    ModelError: a single column tile exceeds the weight memory, or a number could overflow.
    """
    found: dict[str, list[Section]] = {}
    refused: list[ModelError] = []
    for candidate in candidates(layer, source.layout, *target.layout.shape[1:], config):
        try:
            found[candidate.scheme.name] = _sections(layer, source, target, candidate, config)
        except ModelError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    cycles = {name: sum(_cycles(section, config) for section in parts) for name, parts in found.items()}
    fewest = min(cycles.values())
    best = next(name for name in cycles if cycles[name] <= fewest * ABOUT_AS_LONG)
    for section in found[best]:
        section.mapping["other_executions"] = {name: cycles[name] for name in cycles if name != best}
        section.mapping["impossible_executions"] = obstacles(layer, source.layout, config)
    return found[best]


def _smaller(layer: Convolution) -> str:
    if layer.factors is None:
        return "make the kernel or the input smaller"
    return "leave the layer out of the decomposition (SmartDealConfig.skip)"


def _cycles(section: Section, config: AcceleratorConfig) -> int:
    return predict([*section.instructions, instruction(Opcode.MARK, layer=0)], config)[0]


def _sections(
    layer: Convolution, source: Placed, target: Placed, choice: Candidate, config: AcceleratorConfig
) -> list[Section]:
    """The sections of one way to execute it."""
    layout, scheme = source.layout, choice.scheme
    channels = layer.weight.shape[0]
    whole = scheme.tiles(0, channels)
    parameters = convolution_parameters(layer, layout.zero_point, config, whole)
    tile_words = max(len(tile.words) for tile in whole)
    if tile_words > config.weight_depth or max(tile.fields["k_tiles"] for tile in whole) > MAX_TILES:
        raise ModelError(
            f"one column of output channels takes {tile_words} weight words, there are {config.weight_depth}",
            where=f"layer {layer.name}",
            remedy=f"raise weight_depth to at least {tile_words}, or {_smaller(layer)}",
        )
    fills = fill_padding(target, config)
    rows = 1 if scheme.source is Source.MATRIX else BASIS_SIZE
    most = min(
        min(config.weight_depth // tile_words, MAX_TILES) * scheme.channels,
        config.parameter_depth // rows * config.post_lanes,
    )
    ranges = channel_ranges(channels, most, target.layout.period, scheme.channels, config)
    parts = []
    for start, stop in ranges:
        columns = whole if len(ranges) == 1 else scheme.tiles(start, stop)
        words = len(runs(columns)) * isa.LENGTHS[Opcode.MATRIX] + isa.LENGTHS[Opcode.POST]
        for piece in tile_ranges(choice.pixels, words, words_of(fills), config.program_depth):
            parts.append(((start, stop), columns, piece))
    kernel_taps = layer.window.kernel[0] * layer.window.kernel[1]
    sections = []
    for index, (chosen, columns, piece) in enumerate(parts):
        start, stop = chosen
        pixels = sum(tile.pixels for tile in piece)
        sections.append(
            Section(
                name=part_name(layer.name, index, len(parts)),
                kind="convolution",
                output=layer.output,
                macs=(stop - start) * layout.shape[0] * kernel_taps * pixels,
                instructions=_instructions(
                    layer, source, target, config, scheme, columns, chosen, piece, [] if index else fills
                ),
                weights=np.concatenate([tile.words for tile in columns]),
                parameters=_parameters(config, columns, parameters[start:stop]),
                mapping=_details(source, target, choice, columns, chosen, piece, config),
            )
        )
    return sections


def _parameters(
    config: AcceleratorConfig, columns: Sequence[ColumnTile], lanes: list[Lane]
) -> NDArray[np.uint8]:
    """Parameter words of consecutive channels, with their basis if the post unit needs it."""
    if columns[0].basis is not None:
        basis = np.concatenate([tile.basis for tile in columns if tile.basis is not None])
        lanes = basis_lanes(lanes, basis, config)
    return pack_parameters(config, lanes)


def channel_ranges(
    channels: int, most: int, period: int, tile_channels: int, config: AcceleratorConfig
) -> list[tuple[int, int]]:
    """Ranges of output channels of at most `most` each, for which one POST can write every column tile.

    A range begins a plane, or stays within one: the post unit's mask starts again only at the end of a plane.
    """
    if channels <= most:
        return [(0, channels)]
    if most < period:
        most -= most % config.post_lanes
        return [
            (start, min(start + most, plane + period, channels))
            for plane in range(0, channels, period)
            for start in range(plane, min(plane + period, channels), most)
        ]
    whole = int(np.lcm(period, tile_channels))
    most -= most % (whole if whole <= most else period)
    return [(start, min(start + most, channels)) for start in range(0, channels, most)]


def _instructions(
    layer: Convolution,
    source: Placed,
    target: Placed,
    config: AcceleratorConfig,
    scheme: Scheme,
    columns: Sequence[ColumnTile],
    channels: tuple[int, int],
    tiles: Sequence[Rectangle],
    fills: list[Instruction],
) -> list[Instruction]:
    """The MATRIXes and the POST of every tile; the FILLs run beside the first MATRIX."""
    window, pitch = layer.window, source.layout.row_pitch
    start, stop = channels
    plane, within = divmod(start, target.layout.period)
    group = within // config.post_lanes
    starts = np.cumsum([0, *(len(tile.words) for tile in columns)]).tolist()
    items: list[Instruction] = []
    for tile in tiles:
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
        rectangle = {**post_rectangle(target, tile, plane), **scheme.post_fields(layer, tile)}
        post = instruction(
            Opcode.POST,
            period=bank_groups(target, config),
            uniform=0,
            zero_point=target.layout.zero_point,
            low=layer.requantisation.low,
            high=layer.requantisation.high,
            chunks=-(-(stop - start) // config.post_lanes),
            parameter_base=0,
            mask=copy_mask(target, config) << group,
            **rectangle,
        )
        items += [matrices[0], *(fills if not items else []), post, *matrices[1:]]
    return items


def _details(
    source: Placed,
    target: Placed,
    choice: Candidate,
    columns: Sequence[ColumnTile],
    channels: tuple[int, int],
    tiles: Sequence[Rectangle],
    config: AcceleratorConfig,
) -> dict[str, Any]:
    """Plain values for `explain` and the reports."""
    number = channels[1] - channels[0]
    passes = sum(tile.fields["k_tiles"] for tile in columns)
    return {
        "unit": "matrix",
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
