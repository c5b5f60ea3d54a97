"""Depthwise layers on the channel unit: a DEPTHWISE and a POST for every plane, beside the matrix unit.

The unit streams lines of columns: a column is as many bytes as the kernel is high, a byte a cycle, and takes
part in three windows at once (`popshift.hw.channel.columns`). Lines are rows of the image or columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popshift.gen.graph import Convolution, Window
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
from popshift.gen.mapping.tiling import MAX_COUNT, Rectangle
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import WINDOW, Lane, Opcode, Source, instruction

_MAX_EVERY = isa.PLACEMENTS[Opcode.DEPTHWISE]["x_every"].field.high


@dataclass(frozen=True, slots=True)
class ColumnWalk:
    """How the pixels of a plane are streamed.

    Attributes
    ----------
    down: lines are columns of the image. All pairs below are (across lines, along a line).
    """

    window: Window
    down: bool
    output: tuple[int, int]

    def pair(self, vertical: int, horizontal: int) -> tuple[int, int]:
        """(across, along) of a pair in the usual order."""
        return (horizontal, vertical) if self.down else (vertical, horizontal)

    @property
    def columns(self) -> int:
        """Of a line."""
        stride, outputs = self.pair(*self.window.stride)[1], self.pair(*self.output)[1]
        return (outputs - 1) * stride + self.pair(*self.window.kernel)[1]

    @property
    def taps(self) -> int:
        """Words read of a plane."""
        return self.pair(*self.output)[0] * self.columns * self.pair(*self.window.kernel)[0]

    @property
    def possible(self) -> bool:
        """Whether an instruction can say it."""
        apart = self.pair(*self.window.dilation)[1] == 1 and self.pair(*self.window.stride)[1] <= _MAX_EVERY
        return max(self.window.kernel) <= WINDOW and apart and max(self.columns, *self.output) <= MAX_COUNT

    def weights(self, weight: NDArray[np.integer]) -> NDArray[np.integer]:
        """Of the filters (channels, 1, kernel rows, columns): (channels, rows of a column, columns)."""
        turned = weight[:, 0].transpose(0, 2, 1) if self.down else weight[:, 0]
        found = np.zeros((len(weight), WINDOW, WINDOW), np.int64)
        found[:, : turned.shape[1], WINDOW - turned.shape[2] :] = turned
        return found

    def fields(self, source: Placed) -> dict[str, int]:
        """The loops of a DEPTHWISE that makes the whole of plane 0."""
        across, along = self.pair(source.layout.row_pitch, 1)
        height, width = self.pair(*self.window.kernel)
        dilation, stride = self.pair(*self.window.dilation), self.pair(*self.window.stride)
        back = (height - 1) * dilation[0] * across  # what the taps of a column moved
        whole = Rectangle(0, 0, *self.output)
        return {
            "base": window_base(source, self.window.padding, self.window.stride, whole),
            "x_count": self.columns,
            "x_first": width - 1,
            "x_every": stride[1],
            "y_count": self.pair(*self.output)[0],
            "kx_count": 1,
            "ky_count": height,
            "kx_step": 0,
            "ky_step": dilation[0] * across,
            "x_step": along - back,
            "y_step": stride[0] * across - (self.columns - 1) * along - back,
        }

    def post_fields(self, target: Placed, plane: int) -> dict[str, int]:
        """Of the POST that writes them, in the same order."""
        across, along = self.pair(target.layout.row_pitch, 1)
        lines, pixels = self.pair(*self.output)
        whole = Rectangle(0, 0, *self.output)
        return {
            **post_rectangle(target, whole, plane),
            **{"x_count": pixels, "x_step": along},
            **{"y_count": lines, "y_step": across - (pixels - 1) * along},
        }


def depthwise_sections(
    layer: Convolution, sources: Sequence[Placed], target: Placed, config: AcceleratorConfig
) -> list[Section]:
    """The layer on the channel unit, one section; none if this cannot do it, or the parameters or
    instructions exceed their memories.
    """
    source = sources[0]
    channels, planes = len(layer.weight), source.layout.planes
    one_each = layer.weight.shape[1] == 1 and source.layout.shape[0] == channels == layer.groups
    plain = layer.factors is None and layer.sum is None and not (source.layout.bits or target.layout.bits)
    if not (config.depthwise and one_each and plain and source.layout.period == target.layout.period):
        return []
    _, height, width = target.layout.shape
    walks = [ColumnWalk(layer.window, down, (height, width)) for down in (False, True)]
    walks = [walk for walk in walks if walk.possible]
    if not walks:
        return []
    walk = min(walks, key=lambda one: one.taps)
    groups = bank_groups(source, config)
    lanes = convolution_parameters(layer, source.layout, config)
    lanes += [Lane()] * (planes * source.layout.period - channels)
    taps = list(_tap_words(walk.weights(layer.weight), source, config))
    parameters = np.concatenate([pack_parameters(config, lanes), *taps])
    fills = fill_padding(target, config)
    pairs = [
        (
            instruction(
                Opcode.DEPTHWISE,
                operation=0,
                planes=1,
                plane_step=0,
                period=groups,
                parameter_base=planes * groups + plane * len(taps[0]),
                **_of_plane(walk.fields(source), plane * source.layout.plane_step),
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
                **walk.post_fields(target, plane),
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


def _of_plane(fields: dict[str, int], further: int) -> dict[str, int]:
    return {**fields, "base": fields["base"] + further}


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
