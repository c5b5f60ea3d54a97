"""Depthwise layers on columns that keep windows (`popshift.hw.matrix.windows`): every column of the array is
a channel, every row a tap.

The input pixels of a tile are streamed once, line by line; lines are rows of the image or columns. What of
the kernel is larger than the windows takes further passes, each for a block of taps.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.layout import TensorLayout
from popshift.gen.graph import Convolution, Window
from popshift.gen.mapping.cost import ConvolutionCost
from popshift.gen.mapping.tiling import MAX_COUNT, Rectangle, cut, fewest_tiles, sizes, strips, tile_sizes
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Kind, Opcode

Passes = list[tuple[tuple[int, int], list[tuple[int, int]]]]
_MAX_EVERY = isa.PLACEMENTS[Opcode.MATRIX]["x_every"].field.high


def depthwise(layer: Convolution, source: TensorLayout, config: AcceleratorConfig) -> bool:
    """Whether the layer can run with windows: a filter for each channel, and every channel's bank is that of
    its column.
    """
    channels, period = len(layer.weight), source.period
    one_each = layer.weight.shape[1] == 1 and source.shape[0] == channels == layer.groups
    in_place = period == config.cols or channels <= period <= config.cols
    near = max(layer.window.stride) <= _MAX_EVERY and layer.factors is None
    return bool(config.window_depth) and Kind.DENSE in isa.kinds(config) and one_each and in_place and near


@dataclass(frozen=True, slots=True)
class WindowWalk:
    """How the pixels of a depthwise layer are streamed.

    Attributes
    ----------
    down: lines are columns of the image. All pairs below are (along lines, along the pixels of a line).
    """

    window: Window
    down: bool
    config: AcceleratorConfig

    def pair(self, vertical: int, horizontal: int) -> tuple[int, int]:
        """(along lines, along pixels) of a pair in the usual order."""
        return (horizontal, vertical) if self.down else (vertical, horizontal)

    @property
    def extent(self) -> tuple[int, int]:
        """Of the dilated kernel."""
        kernel, dilation = self.window.kernel, self.window.dilation
        return self.pair(*((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)))

    @property
    def block(self) -> tuple[int, int]:
        """Of the kernel, what a pass covers."""
        lines, pixels = (
            min(extent, built)
            for extent, built in zip(self.extent, isa.window_block(self.config), strict=True)
        )
        return lines, pixels

    @property
    def possible(self) -> bool:
        """Whether the lines of a single output fit."""
        return self.block[1] <= self.config.window_depth

    def steps(self, pitch: int) -> tuple[int, int]:
        """Address distances from line to line and from pixel to pixel."""
        return self.pair(pitch, 1)

    def passes(self) -> "Passes":
        """Of every pass where its block begins in the dilated kernel, and its taps (ky, kx)."""
        return _passes(self)

    def row(self, tap: tuple[int, int], place: tuple[int, int]) -> int | None:
        """The row of the array for a tap in the pass that begins at `place`, if it is in its block."""
        at = self.pair(*(k * d for k, d in zip(tap, self.window.dilation, strict=True)))
        ago = [first + size - 1 - own for first, size, own in zip(place, self.block, at, strict=True)]
        if all(0 <= back < size for back, size in zip(ago, self.block, strict=True)):
            return isa.WINDOW * ago[0] + ago[1]
        return None

    def weights(self, weight: NDArray[np.integer]) -> NDArray[np.int8]:
        """Of the filters (channels, 1, kernel rows, columns) of a column tile: (passes, rows, cols)."""
        passes = self.passes()
        found = np.zeros((len(passes), self.config.rows, self.config.cols), np.int8)
        for number, (place, taps) in enumerate(passes):
            for ky, kx in taps:
                row = self.row((ky, kx), place)
                found[number, row, : len(weight)] = weight[:, 0, ky, kx]
        return found

    def offsets(self, source: TensorLayout, plane: int) -> NDArray[np.int64]:
        """Address offsets of all rows, (passes, rows)."""
        line_step, pixel_step = self.steps(source.row_pitch)
        places = [line * line_step + pixel * pixel_step for (line, pixel), _ in self.passes()]
        offsets = plane * source.plane_step + np.array(places, np.int64)
        return np.repeat(offsets[:, None], self.config.rows, axis=1)

    def streamed(self, height: int, width: int) -> tuple[int, int]:
        """Lines and pixels of a line for `height` x `width` outputs."""
        stride, outputs = self.pair(*self.window.stride), self.pair(height, width)
        lines, pixels = (
            (count - 1) * step + size for count, step, size in zip(outputs, stride, self.block, strict=True)
        )
        return lines, pixels

    def matrix_fields(self, tile: Rectangle, pitch: int) -> dict[str, int]:
        """Of a MATRIX for the outputs of `tile`."""
        (lines, pixels), (line_step, pixel_step) = self.streamed(tile.height, tile.width), self.steps(pitch)
        stride = self.pair(*self.window.stride)
        return {
            "windows": 1,
            **{"x_count": pixels, "x_first": self.block[1] - 1, "x_every": stride[1], "x_step": pixel_step},
            **{"y_count": lines, "y_first": self.block[0] - 1, "y_every": stride[0]},
            "y_step": line_step - (pixels - 1) * pixel_step,
        }

    def post_fields(self, tile: Rectangle, pitch: int) -> dict[str, int]:
        """Of the POST that writes them, `pitch` words from row to row: in the same order."""
        (lines, pixels), (line_step, pixel_step) = self.pair(tile.height, tile.width), self.steps(pitch)
        return {
            **{"x_count": pixels, "x_step": pixel_step},
            **{"y_count": lines, "y_step": line_step - (pixels - 1) * pixel_step},
        }

    def pixel_tiles(
        self, height: int, width: int, channels: int, drain: int
    ) -> tuple[Sequence[Rectangle], ConvolutionCost]:
        """The pixel tiles of an output that take the fewest cycles, and their cost; `drain`: cycles of the
        post unit for a result.
        """
        return _pixel_tiles(self, height, width, channels, drain)


@lru_cache(maxsize=256)
def _passes(walk: WindowWalk) -> Passes:
    starts = [
        [*range(0, extent - size, size), extent - size]
        for extent, size in zip(walk.extent, walk.block, strict=True)
    ]
    kernel = walk.window.kernel
    left = {(ky, kx) for ky in range(kernel[0]) for kx in range(kernel[1])}
    found = []
    for place in itertools.product(starts[0], starts[1]):
        inside = [tap for tap in sorted(left) if walk.row(tap, place) is not None]
        left -= set(inside)
        if inside:
            found.append((place, inside))
    return found


@lru_cache(maxsize=4096)
def _pixel_tiles(
    walk: WindowWalk, height: int, width: int, channels: int, drain: int
) -> tuple[Sequence[Rectangle], ConvolutionCost]:
    def size(along: int, across: int) -> tuple[int, int]:
        lines, pixels = walk.streamed(*walk.pair(along, across))
        return lines * pixels, along * across

    config, passes = walk.config, len(walk.passes())
    stride, outputs = walk.pair(*walk.window.stride), walk.pair(height, width)
    most = (MAX_COUNT - walk.block[0]) // stride[0] + 1
    longest = min((config.window_depth - walk.block[1]) // stride[1] + 1, config.accumulator_depth)
    fewest_parts = -(-outputs[1] // longest)
    candidates = []
    for parts in range(fewest_parts, min(outputs[1], fewest_parts + 3) + 1):
        most_lines = min(most, config.accumulator_depth // -(-outputs[1] // parts))
        across = sizes(outputs[1], parts)
        for along in strips(outputs[0], -(-outputs[0] // most_lines)):
            rows, columns = (across, along) if walk.down else (along, across)
            tiles = tile_sizes(along, across, size)
            cost = ConvolutionCost.of(tiles, passes, channels, config, config.cols, drain)
            candidates.append((rows, columns, cost))
    rows, columns, cost = fewest_tiles(candidates)
    return cut(rows, columns, down=not walk.down), cost
