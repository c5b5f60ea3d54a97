"""How the channel unit walks over a plane of a depthwise layer.

It streams lines of columns: a column is as many bytes as the kernel is high, a byte a cycle, and takes part
in three windows at once (`popshift.hw.channel.columns`). Lines are rows of the image or columns.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popshift.gen.graph import Convolution, Window
from popshift.gen.mapping.tiling import MAX_COUNT
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import WINDOW, Opcode

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

    def fields(self, pitch: int) -> dict[str, int]:
        """The loops of a DEPTHWISE that makes the whole of a plane, from `pitch` words from row to row."""
        across, along = self.pair(pitch, 1)
        height, width = self.pair(*self.window.kernel)
        dilation, stride = self.pair(*self.window.dilation), self.pair(*self.window.stride)
        back = (height - 1) * dilation[0] * across  # what the taps of a column moved
        return {
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

    def post_fields(self, pitch: int) -> dict[str, int]:
        """Of the POST that writes it, in the same order."""
        across, along = self.pair(pitch, 1)
        lines, pixels = self.pair(*self.output)
        return {
            **{"x_count": pixels, "x_step": along},
            **{"y_count": lines, "y_step": across - (pixels - 1) * along},
        }


def column_walk(layer: Convolution, output: tuple[int, int], config: AcceleratorConfig) -> ColumnWalk | None:
    """The way with the fewest words for an `output` of (height, width), if the channel unit can do it."""
    channels, inputs, *_ = layer.weight.shape
    if not config.depthwise or inputs > 1 or channels != layer.groups or layer.factors or layer.sum:
        return None
    walks = [ColumnWalk(layer.window, down, output) for down in (False, True)]
    return min((walk for walk in walks if walk.possible), key=lambda walk: walk.taps, default=None)
