"""Pooling on the channel unit, and the filling of an input's padding: sections without weights."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from popshift.gen.graph import Pool, Pooling
from popshift.gen.mapping.in_turn import windows_in_turn
from popshift.gen.mapping.parameters import pack_parameters, pool_parameters
from popshift.gen.mapping.placement import Placed
from popshift.gen.mapping.sections import (
    CHANNEL_TILE_WORDS,
    Section,
    bank_groups,
    channel_rectangle,
    copy_mask,
    fill_padding,
    no_words,
    part_name,
    post_rectangle,
    tile_ranges,
    words_of,
)
from popshift.gen.mapping.signs import sign_sections
from popshift.gen.mapping.tiling import Rectangle, countable, cut
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import ChannelOperation, Instruction, Lane, Opcode, Source, instruction

MAX_KERNEL = 1 << 6
"""Turns of a kernel loop that an instruction can hold."""
MAX_PLANES = 1 << 12
OPERATIONS = {Pooling.MAX: ChannelOperation.MAX, Pooling.AVERAGE: ChannelOperation.SUM}


def pool_sections(
    layer: Pool, sources: Sequence[Placed], target: Placed, config: AcceleratorConfig
) -> list[Section]:
    """The layer's sections: one, unless a memory forces more.

    Raises
    ------
    ModelError: a kernel beyond 64 x 64, or the parameters of one plane exceed the parameter memory.
    """
    (source,) = sources
    if target.layout.bits and not source.layout.bits:
        return sign_sections(layer, source, target, config)
    if (taps := layer.window.kernel[0] * layer.window.kernel[1]) > config.pool_window:
        raise ModelError(
            f"its pooling window has {taps} taps, configuration {config.name} allows {config.pool_window}",
            where=f"layer {layer.name}",
            remedy="raise pool_window, or pool in two steps",
        )
    if max(layer.window.kernel) > MAX_KERNEL:
        size = " x ".join(map(str, layer.window.kernel))
        raise ModelError(
            f"the pooling window is {size}, larger than {MAX_KERNEL} x {MAX_KERNEL}",
            where=f"layer {layer.name}",
            remedy="pool in two steps",
        )
    assert source.layout.period == target.layout.period, "a pool keeps every channel in its banks"
    groups, planes = bank_groups(source, config), source.layout.planes
    classes = _classes(layer, source.layout.shape)
    counts = list(dict.fromkeys(classes.values()))
    numbers = {tile: counts.index(inside) for tile, inside in classes.items()}
    tables = [pool_parameters(layer, source.layout.zero_point, config, inside) for inside in counts]
    uniform = all(len(set(lanes)) == 1 for lanes in tables)
    needed = len(tables) * (1 if uniform else groups)
    if needed > config.parameter_depth:
        raise ModelError(
            f"the parameters of one plane take {needed} words, there are {config.parameter_depth}",
            where=f"layer {layer.name}",
            remedy=f"raise parameter_depth to at least {needed}",
        )
    fills = fill_padding(target, config)
    at_once = MAX_PLANES if uniform else min(MAX_PLANES, config.parameter_depth // needed)
    parts = [
        (start, min(start + at_once, planes), piece)
        for start in range(0, planes, at_once)
        for piece in tile_ranges(list(numbers), CHANNEL_TILE_WORDS, words_of(fills), config.program_depth)
    ]
    window = layer.window.kernel[0] * layer.window.kernel[1]
    return [
        Section(
            name=part_name(layer.name, index, len(parts)),
            kind=f"{layer.operation} pool",
            output=layer.output,
            macs=0,
            instructions=_instructions(
                layer, source, target, config, (start, stop), piece, numbers, uniform, [] if index else fills
            ),
            weights=no_words(config.weight_word_bytes),
            parameters=np.concatenate(
                [
                    _parameters(
                        config, lanes, uniform, start * source.layout.period, stop * source.layout.period
                    )
                    for lanes in tables
                ]
            ),
            mapping=_details(source, target, (start, stop), piece, window),
        )
        for index, (start, stop, piece) in enumerate(parts)
    ]


def _classes(layer: Pool, shape: tuple[int, ...]) -> dict[Rectangle, int | None]:
    """Rectangles of the output, of windows with so many pixels inside each; None: that changes nothing."""
    rows, columns = (along if layer.partial else 0 * along for along in layer.window.inside(*shape[1:]))
    lengths = [
        [part for _, alike in groupby(along) for part in countable(len(list(alike)))]
        for along in (rows, columns)
    ]
    return {tile: int(rows[tile.y] * columns[tile.x]) if layer.partial else None for tile in cut(*lengths)}


def padding_section(placed: Placed, config: AcceleratorConfig) -> Section:
    """Fill the padding of an input tensor. A section of its own: its readers must wait until it is there."""
    padding = placed.buffer.padding
    return Section(
        name=f"padding of {placed.layout.name}",
        kind="padding",
        output=placed.layout.name,
        macs=0,
        instructions=fill_padding(placed, config),
        weights=no_words(config.weight_word_bytes),
        parameters=no_words(config.parameter_word_bytes),
        mapping={
            "unit": "post",
            "output_period": placed.layout.period,
            "output_copies": placed.layout.copies,
            "words": placed.buffer.words
            - placed.layout.planes * placed.layout.shape[1] * placed.layout.shape[2],
            "value": padding.value,
        },
    )


def _parameters(config: AcceleratorConfig, lanes: list[Lane], uniform: bool, start: int, stop: int):
    if uniform:
        return pack_parameters(config, lanes[:1] * config.post_lanes)
    # Every plane has words for all its groups, also for those beyond the last channel.
    return pack_parameters(config, [*lanes, *[Lane()] * (stop - len(lanes))][start:stop])


def _instructions(
    layer: Pool,
    source: Placed,
    target: Placed,
    config: AcceleratorConfig,
    planes: tuple[int, int],
    tiles: Sequence[Rectangle],
    tables: dict[Rectangle, int],
    uniform: bool,
    fills: list[Instruction],
) -> list[Instruction]:
    pairs: list[tuple[Instruction, Instruction]] = []
    count = planes[1] - planes[0]
    words = 1 if uniform else bank_groups(source, config) * count
    for tile in tiles:
        channel = instruction(
            Opcode.CHANNEL,
            operation=ChannelOperation.OR if source.layout.bits else OPERATIONS[layer.operation],
            planes=count,
            **channel_rectangle(source, layer.window, tile, config, first=planes[0]),
        )
        post = instruction(
            Opcode.POST,
            source=Source.CHANNEL,
            period=bank_groups(source, config),
            uniform=int(uniform),
            zero_point=0 if layer.raw else target.layout.zero_point,
            low=layer.requantisation.low,
            high=layer.requantisation.high,
            chunks=count,
            parameter_base=words * tables[tile],
            mask=copy_mask(target, config),
            **post_rectangle(target, tile, planes[0]),
        )
        pairs.append((channel, post))
    return windows_in_turn(pairs, fills)


def _details(
    source: Placed,
    target: Placed,
    planes: tuple[int, int],
    tiles: Sequence[Rectangle],
    window: int,
) -> dict[str, Any]:
    """Plain values for `explain` and the reports."""
    return {
        "unit": "channel",
        "input_period": source.layout.period,
        "input_copies": source.layout.copies,
        "output_period": target.layout.period,
        "output_copies": target.layout.copies,
        "planes": list(planes),
        "window": window,
        "pixel_tiles": len(tiles),
    }
