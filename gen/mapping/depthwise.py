"""Depthwise layers on the channel unit: a DEPTHWISE and a POST for every plane."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from popshift.gen.graph import Convolution
from popshift.gen.mapping.columns import ColumnWalk, column_walk
from popshift.gen.mapping.in_turn import windows_in_turn
from popshift.gen.mapping.parameters import convolution_parameters, pack_parameters
from popshift.gen.mapping.placement import Placed
from popshift.gen.mapping.sections import (
    Section,
    bank_groups,
    copy_mask,
    fill_padding,
    no_words,
    post_rectangle,
    window_base,
)
from popshift.gen.mapping.tiling import Rectangle
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Lane, Opcode, Source, instruction


def depthwise_sections(
    layer: Convolution, sources: Sequence[Placed], target: Placed, config: AcceleratorConfig
) -> list[Section]:
    """The layer on the channel unit, one section; none if this cannot do it, or the parameters or
    instructions exceed their memories.
    """
    source = sources[0]
    channels, planes = len(layer.weight), source.layout.planes
    _, height, width = target.layout.shape
    walk = column_walk(layer, (height, width), config)
    if walk is None or source.layout.bits or source.layout.period != target.layout.period:
        return []
    groups = bank_groups(source, config)
    lanes = convolution_parameters(layer, source.layout, config)
    lanes += [Lane()] * (planes * source.layout.period - channels)
    taps = list(_tap_words(walk.weights(layer.weight), source, config))
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
        mapping=_details(layer, source, target, walk, config),
        pairs=pairs,
    )
    too_long = section.program_words + isa.LENGTHS[Opcode.END] > config.program_depth
    return [] if too_long or len(parameters) > config.parameter_depth else [section]


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
    layer: Convolution, source: Placed, target: Placed, walk: ColumnWalk, config: AcceleratorConfig
) -> dict:
    """Plain values for `explain` and the reports."""
    return {
        "unit": "channel",
        "execution": "channel unit, down" if walk.down else "channel unit",
        "other_executions": {},
        "impossible_executions": {},
        "weights": layer.weight.size,
        "least_passes": source.layout.planes * walk.pair(*layer.window.kernel)[0],
        "input_period": source.layout.period,
        "input_copies": source.layout.copies,
        "output_period": target.layout.period,
        "output_copies": target.layout.copies,
        "planes": [0, source.layout.planes],
        "window": layer.weight[0].size,
        "weight_words": source.layout.planes * config.bank_groups * isa.tap_words(config),
    }
