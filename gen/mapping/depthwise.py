"""Depthwise layers on the channel unit: a DEPTHWISE and a POST for every plane."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from popshift.gen.graph import Convolution
from popshift.gen.mapping.columns import ColumnWalk, column_walk
from popshift.gen.mapping.convolution import convolution_sections
from popshift.gen.mapping.in_turn import windows_in_turn
from popshift.gen.mapping.parameters import convolution_parameters, pack_parameters
from popshift.gen.mapping.placement import Placed
from popshift.gen.mapping.sections import (
    Section,
    bank_groups,
    copy_mask,
    fill_padding,
    no_words,
    part_name,
    post_rectangle,
    window_base,
)
from popshift.gen.mapping.tiling import Rectangle
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import Lane, Opcode, Source, instruction


def depthwise_ways(
    layer: Convolution, source: Placed, target: Placed, config: AcceleratorConfig
) -> Iterator[list[Section]]:
    """The sections of the layer on the channel unit; and with its first planes there, the others on the array
    behind them: nothing if the channel unit cannot do it.
    """
    planes, period = source.layout.planes, source.layout.period
    for number in (planes, *sorted({1, planes // 4, planes // 2, planes * 3 // 4} - {0, planes})):
        section = _section(layer, source, target, config, number)
        if section is None:
            continue
        rest: list[Section] = []
        if number < planes:
            try:
                rest = convolution_sections(layer, [source], target, config, first=number * period)
            except ModelError:
                continue
        yield [replace(section, name=part_name(layer.name, 0, 1 + len(rest))), *rest]


def _section(
    layer: Convolution, source: Placed, target: Placed, config: AcceleratorConfig, planes: int
) -> Section | None:
    """The first planes on the channel unit; None if this cannot do it, or the parameters or instructions
    exceed their memories.
    """
    channels = min(len(layer.weight), planes * source.layout.period)
    _, height, width = target.layout.shape
    walk = column_walk(layer, (height, width), config)
    if walk is None or source.layout.bits or source.layout.period != target.layout.period:
        return None
    groups = bank_groups(source, config)
    lanes = convolution_parameters(layer, source.layout, config)[:channels]
    lanes += [Lane()] * (planes * source.layout.period - channels)
    taps = list(_tap_words(walk.weights(layer.weight[:channels]), source, config))
    parameters = np.concatenate([pack_parameters(config, lanes), *taps])
    fills = fill_padding(target, config)
    whole = Rectangle(0, 0, height, width)
    first = window_base(source, layer.window.padding, layer.window.stride, whole)
    pairs = [
        (
            instruction(
                Opcode.DEPTHWISE,
                operation=0,
                planes=1,
                plane_step=0,
                period=groups,
                parameter_base=planes * groups + plane * len(taps[0]),
                base=first + plane * source.layout.plane_step,
                **walk.fields(source.layout.row_pitch),
            ),
            instruction(
                Opcode.POST,
                source=Source.CHANNEL,
                period=groups,
                uniform=0,
                zero_point=target.layout.zero_point,
                low=layer.requantisation.low,
                high=layer.requantisation.high,
                chunks=1,
                parameter_base=plane * groups,
                mask=copy_mask(target, config),
                **post_rectangle(target, whole, plane) | walk.post_fields(target.layout.row_pitch),
            ),
        )
        for plane in range(planes)
    ]
    kernel_taps = layer.weight[0].size
    section = Section(
        name=layer.name,
        kind="convolution",
        output=layer.output,
        macs=channels * kernel_taps * height * width,
        instructions=windows_in_turn(pairs, fills),
        weights=no_words(config.weight_word_bytes),
        parameters=parameters,
        mapping=_details(layer, source, target, walk, channels, planes),
        pairs=pairs,
    )
    too_long = section.program_words + isa.LENGTHS[Opcode.END] > config.program_depth
    return None if too_long or len(parameters) > config.parameter_depth else section


def _tap_words(
    weights: NDArray[np.integer], source: Placed, config: AcceleratorConfig
) -> Iterator[NDArray[np.uint8]]:
    """Of each plane the words of all bank groups."""
    period = source.layout.period
    for start in range(0, len(weights), period):
        banks = np.zeros((config.rows, weights[0].size), np.int64)
        own = weights[start : start + period].reshape(-1, weights[0].size)
        banks[: len(own)] = own
        words = []
        for first in range(0, config.rows, config.post_lanes):
            words += isa.pack_taps(config, banks[first : first + config.post_lanes].tolist())
        yield np.frombuffer(b"".join(words), np.uint8).reshape(len(words), -1)


def _details(
    layer: Convolution, source: Placed, target: Placed, walk: ColumnWalk, channels: int, planes: int
) -> dict:
    """Plain values for `explain` and the reports."""
    return {
        "unit": "channel",
        "execution": "channel unit, down" if walk.down else "channel unit",
        "other_executions": {},
        "impossible_executions": {},
        "weights": channels * layer.weight[0].size,
        "least_passes": planes * walk.pair(*layer.window.kernel)[0],
        "input_period": source.layout.period,
        "input_copies": source.layout.copies,
        "output_period": target.layout.period,
        "output_copies": target.layout.copies,
        "planes": [0, planes],
        "window": layer.weight[0].size,
    }
