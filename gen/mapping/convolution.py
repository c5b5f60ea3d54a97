"""Convolutions and fully connected layers on the matrix unit: one MATRIX and one POST for each pixel tile."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popshift.gen.graph import Convolution
from popshift.gen.mapping import tiling
from popshift.gen.mapping.parameters import convolution_parameters, pack_parameters
from popshift.gen.mapping.placement import Placed
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
from popshift.gen.mapping.tiling import Rectangle
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import Instruction, Opcode, Source, instruction

MAX_TILES = 1 << 16
"""Row or column tiles that an instruction can count."""
TILE_WORDS = isa.LENGTHS[Opcode.MATRIX] + isa.LENGTHS[Opcode.POST]


def convolution_sections(
    layer: Convolution, source: Placed, target: Placed, config: AcceleratorConfig
) -> list[Section]:
    """The layer's sections: one, unless a memory forces more.

    Raises
    ------
    ModelError: a single column tile exceeds the weight memory, or a number could overflow.
    """
    layout = source.layout
    channels = layer.weight.shape[0]
    taps = tiling.assign_taps(layout.shape[0], layer.window.kernel, layout.period, layout.copies, config.rows)
    tile_words = taps.size
    if tile_words > config.weight_depth or len(taps) > MAX_TILES:
        raise ModelError(
            f"one column of output channels takes {tile_words} weight words, there are {config.weight_depth}",
            where=f"layer {layer.name}",
            remedy=f"raise weight_depth to at least {tile_words}, or make the kernel or the input smaller",
        )
    parameters = convolution_parameters(layer, layout.zero_point, config)
    tiles, _ = tiling.pixel_tiles(*target.layout.shape[1:], len(taps), channels, config)
    fills = fill_padding(target, config)
    most = min(
        min(config.weight_depth // tile_words, MAX_TILES) * config.cols,
        config.parameter_depth * config.post_lanes,
    )
    parts = [
        (start, stop, piece)
        for start, stop in channel_ranges(channels, most, target.layout.period, config)
        for piece in tile_ranges(tiles, TILE_WORDS, words_of(fills), config.program_depth)
    ]
    kernel_taps = layer.window.kernel[0] * layer.window.kernel[1]
    sections = []
    for index, (start, stop, piece) in enumerate(parts):
        pixels = sum(tile.pixels for tile in piece)
        sections.append(
            Section(
                name=part_name(layer.name, index, len(parts)),
                kind="convolution",
                output=layer.output,
                macs=(stop - start) * layout.shape[0] * kernel_taps * pixels,
                instructions=_instructions(
                    layer, source, target, config, taps, (start, stop), piece, [] if index else fills
                ),
                weights=pack_weights(layer, source, config, taps, start, stop),
                parameters=pack_parameters(config, parameters[start:stop]),
                mapping=_details(source, target, taps, (start, stop), piece, config),
            )
        )
    return sections


def channel_ranges(channels: int, most: int, period: int, config: AcceleratorConfig) -> list[tuple[int, int]]:
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
    whole = int(np.lcm(period, config.cols))
    most -= most % (whole if whole <= most else period)
    return [(start, min(start + most, channels)) for start in range(0, channels, most)]


def pack_weights(
    layer: Convolution,
    source: Placed,
    config: AcceleratorConfig,
    taps: NDArray[np.int64],
    start: int,
    stop: int,
) -> NDArray[np.uint8]:
    """Weight words (words, bytes) of output channels ``start .. stop - 1``: column tiles outside, row tiles,
    rows.

    A word is the row's address offset (two bytes, little endian) and one weight for each column. Empty rows
    hold offset 0 and weights 0.
    """
    layout, window = source.layout, layer.window
    column_tiles = -(-(stop - start) // config.cols)
    kernel_taps = window.kernel[0] * window.kernel[1]
    channel, tap = np.divmod(np.maximum(taps, 0), kernel_taps)  # tap 0 has offset 0
    ky, kx = np.divmod(tap, window.kernel[1])
    offset = (
        channel // layout.period * layout.plane_step
        + ky * window.dilation[0] * layout.row_pitch
        + kx * window.dilation[1]
    )
    weight = np.zeros((column_tiles * config.cols, layout.shape[0] * kernel_taps + 1), np.int8)
    weight[: stop - start, :-1] = layer.weight[start:stop].reshape(stop - start, -1)
    chosen = weight[:, taps].reshape(column_tiles, config.cols, *taps.shape)  # tap -1 is the column of zeros
    words = np.empty((column_tiles, *taps.shape, config.weight_word_bytes), np.uint8)
    words[..., :2] = offset.astype("<u2")[..., None].view(np.uint8)
    words[..., 2:] = chosen.transpose(0, 2, 3, 1).view(np.uint8)
    return words.reshape(-1, config.weight_word_bytes)


def _instructions(
    layer: Convolution,
    source: Placed,
    target: Placed,
    config: AcceleratorConfig,
    taps: NDArray[np.int64],
    channels: tuple[int, int],
    tiles: Sequence[Rectangle],
    fills: list[Instruction],
) -> list[Instruction]:
    """MATRIX and POST of every tile; the FILLs run beside the first MATRIX."""
    window, pitch = layer.window, source.layout.row_pitch
    start, stop = channels
    plane, within = divmod(start, target.layout.period)
    group = within // config.post_lanes
    items: list[Instruction] = []
    for tile in tiles:
        matrix = instruction(
            Opcode.MATRIX,
            kind=config.pe_kinds.index("mul"),
            x_count=tile.width,
            y_count=tile.height,
            k_tiles=len(taps),
            n_tiles=-(-(stop - start) // config.cols),
            weight_base=0,
            base=window_base(source, window.padding, window.stride, tile),
            x_step=window.stride[1],
            y_step=window.stride[0] * pitch - (tile.width - 1) * window.stride[1],
        )
        post = instruction(
            Opcode.POST,
            source=Source.MATRIX,
            period=bank_groups(target, config),
            uniform=0,
            zero_point=target.layout.zero_point,
            low=layer.requantisation.low,
            high=layer.requantisation.high,
            chunks=-(-(stop - start) // config.post_lanes),
            parameter_base=0,
            mask=copy_mask(target, config) << group,
            **post_rectangle(target, tile, plane),
        )
        items += [matrix, *(fills if not items else []), post]
    return items


def _details(
    source: Placed,
    target: Placed,
    taps: NDArray[np.int64],
    channels: tuple[int, int],
    tiles: Sequence[Rectangle],
    config: AcceleratorConfig,
) -> dict[str, Any]:
    """Plain values for `explain` and the reports."""
    number = channels[1] - channels[0]
    column_tiles = -(-number // config.cols)
    return {
        "unit": "matrix",
        "input_period": source.layout.period,
        "input_copies": source.layout.copies,
        "output_period": target.layout.period,
        "output_copies": target.layout.copies,
        "output_channels": list(channels),
        "row_tiles": len(taps),
        "column_tiles": column_tiles,
        "pixel_tiles": len(tiles),
        "tile_height": max(tile.height for tile in tiles),
        "tile_width": max(tile.width for tile in tiles),
        "row_fill": round(float((taps >= 0).mean()), 4),
        "column_fill": round(number / (column_tiles * config.cols), 4),
        "weight_words": column_tiles * taps.size,
    }
