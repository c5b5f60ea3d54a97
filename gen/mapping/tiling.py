"""Cutting a convolution into passes: which tap sits in which row of which row tile, and which pixels make a
pixel tile.

A *tap* is (input channel, kernel row, kernel column). Row r of the array reads bank r, so a tap may sit in
any row whose bank holds its channel: bank ``channel % period`` of each copy.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from popshift.gen.graph import Window
from popshift.gen.mapping.cost import ConvolutionCost
from popshift.hw.config import AcceleratorConfig

MAX_COUNT = 1 << 12
"""Turns of a pixel loop that an instruction can hold."""
MORE_TILES = 24
"""How many more pixel tiles than necessary are considered."""
_NARROW = (1, 2, 3, 4, 6)
_MORE_WITH_NARROW = 8
ABOUT_AS_LONG = 1.01
"""Cycles that fewer pixel tiles may cost."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Output pixels ``y .. y + height - 1`` by ``x .. x + width - 1``."""

    y: int
    x: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def meets(self, other: "Rectangle") -> bool:
        """Whether they have pixels in common."""
        lines = self.y < other.y + other.height and other.y < self.y + self.height
        return lines and self.x < other.x + other.width and other.x < self.x + self.width

    def seen(self, window: Window) -> "Rectangle":
        """The input pixels that the windows of these outputs cover."""
        top, _, left, _ = window.padding
        height, width = (
            (outputs - 1) * stride + (kernel - 1) * dilation + 1
            for outputs, stride, kernel, dilation in zip(
                (self.height, self.width), window.stride, window.kernel, window.dilation, strict=True
            )
        )
        return Rectangle(self.y * window.stride[0] - top, self.x * window.stride[1] - left, height, width)


def scaled(tile: Rectangle, pixels: int) -> Rectangle:
    """With `pixels` for each of its columns."""
    return Rectangle(tile.y, tile.x * pixels, tile.height, tile.width * pixels)


def row_tile_count(channels: int, kernel_taps: int, period: int, copies: int) -> int:
    """Row tiles that a convolution over `channels` needs: the fullest bank of a copy decides."""
    fullest = -(-channels // period) * kernel_taps
    return -(-fullest // copies)


def assign_taps(
    channels: int, kernel: tuple[int, int], period: int, copies: int, rows: int, first: int = 0
) -> NDArray[np.int64]:
    """Which tap each row of each row tile holds; of `channels` channels from `first` on.

    Returns
    -------
    int64 (row tiles, rows): the tap's number ``(channel * kernel height + ky) * kernel width + kx``, or -1
    for a row left empty.
    """
    kernel_taps = kernel[0] * kernel[1]
    tiles = row_tile_count(channels, kernel_taps, period, copies)
    taps = np.full((tiles, rows), -1, np.int64)
    for start in range(first, first + min(period, channels)):
        channel, residue = np.arange(start, first + channels, period), start % period
        numbers = (channel[:, None] * kernel_taps + np.arange(kernel_taps)).ravel()
        tile, copy = np.divmod(np.arange(len(numbers)), copies)
        taps[tile, residue + copy * period] = numbers
    return taps


def split(length: int, parts: int) -> list[tuple[int, int]]:
    """`length` cut into `parts` pieces (start, size) that differ by at most one, the larger first."""
    size, larger = divmod(length, parts)
    pieces, start = [], 0
    for part in range(parts):
        pieces.append((start, size + (part < larger)))
        start += pieces[-1][1]
    return pieces


def sizes(length: int, parts: int) -> tuple[int, ...]:
    """Of the pieces of `split`."""
    return tuple(size for _, size in split(length, parts))


def countable(length: int) -> tuple[int, ...]:
    """Of as few pieces as an instruction can count each."""
    return sizes(length, -(-length // MAX_COUNT))


def strips(length: int, fewest: int) -> Iterator[tuple[int, ...]]:
    """Sizes of the pieces, at least `fewest`, that `length` may be cut into: nearly equal ones, and such with
    a narrow one in front or behind, which keeps short what nothing is done beside: the first tile's sums,
    and the last tile's drain.
    """
    for parts in range(fewest, min(length, fewest + MORE_TILES) + 1):
        yield sizes(length, parts)
        for narrow in _NARROW:
            if parts < fewest + _MORE_WITH_NARROW and narrow < (length - narrow) // parts:
                rest = sizes(length - narrow, parts)
                yield (*rest, narrow)
                yield (narrow, *rest)


def cut(rows: Sequence[int], columns: Sequence[int], *, down: bool = True) -> tuple[Rectangle, ...]:
    """Rectangles of these heights and widths, column by column, or row by row if not `down`: such that one
    POST can write them (`popshift.gen.mapping.in_turn.in_strips`).
    """
    tops, lefts = (np.cumsum([0, *lengths]).tolist() for lengths in (rows, columns))
    places = [
        Rectangle(y, x, tall, wide)
        for x, wide in zip(lefts, columns, strict=False)
        for y, tall in zip(tops, rows, strict=False)
    ]
    return tuple(places if down else sorted(places, key=lambda place: (place.y, place.x)))


def tile_sizes(
    along: Sequence[int], across: Sequence[int], size: Callable[[int, int], tuple[int, int]]
) -> list[tuple[tuple[int, int], int]]:
    """``size(length along, length across)`` of the rectangles that `cut` makes of these lengths, and of how
    many in turn it is.
    """
    alike = [(length, len(list(lengths))) for length, lengths in groupby(along)]
    return [(size(length, wide), number) for wide in across for length, number in alike]


Tiling = tuple[Sequence[int], Sequence[int], ConvolutionCost]
"""Heights of rows of tiles, widths of columns, and what it costs."""


def fewest_tiles(candidates: Iterable[Tiling], about_as_long: float = ABOUT_AS_LONG) -> Tiling:
    """The one with the fewest tiles of those that take about as long as the fastest: every tile reads all
    weights again.
    """
    candidates = list(candidates)
    enough = about_as_long * min(cost.cycles for _, _, cost in candidates)
    return min(
        (candidate for candidate in candidates if candidate[2].cycles <= enough),
        key=lambda candidate: (len(candidate[0]) * len(candidate[1]), candidate[2].cycles),
    )


@lru_cache(maxsize=4096)
def pixel_tiles(
    height: int,
    width: int,
    row_tiles: int,
    channels: int,
    config: AcceleratorConfig,
    tile_channels: int,
    inputs: tuple[int, int] = (1, 0),
    about_as_long: float = ABOUT_AS_LONG,
    drain: int = 1,
    *,
    in_strips: bool = True,
) -> tuple[tuple[Rectangle, ...], ConvolutionCost]:
    """The pixel tiles of a convolution's output that take the fewest cycles, and their cost.

    Few large tiles need fewer instructions; but the drain of the last tile is not hidden by anything, which
    speaks for small ones, and tiles of little more than `rows` pixels or fewer wait for weights.

    Parameters
    ----------
    height: of the output; negative: every row is a tile of its own.
    tile_channels: output channels of a column tile.
    inputs: a row of n outputs takes ``inputs[0] * n + inputs[1]`` accumulators.
    about_as_long: what fewer tiles may cost, as a factor of the fewest cycles.
    drain: cycles of the post unit for a result.
    in_strips: one POST drains all tiles alike.
    """

    def size(tall: int, wide: int) -> tuple[int, int]:
        pixels = tall * (inputs[0] * wide + inputs[1])
        return pixels, pixels

    candidates: list[Tiling] = []
    limit = min(config.accumulator_depth, MAX_COUNT)
    widest_row = (limit - inputs[1]) // inputs[0]
    fewest_columns = -(-width // widest_row)
    for column_parts in range(fewest_columns, min(width, fewest_columns + 3) + 1):
        row = inputs[0] * -(-width // column_parts) + inputs[1]
        fewest_rows = -(-abs(height) // min(limit // row, MAX_COUNT))
        for rows in strips(height, fewest_rows) if height > 0 else [(1,) * -height]:
            columns = sizes(width, column_parts)
            cost = ConvolutionCost.of(
                tile_sizes(rows, columns, size),
                row_tiles,
                channels,
                config,
                tile_channels,
                drain,
                in_strips=in_strips and height > 0,
            )
            candidates.append((rows, columns, cost))
    rows, columns, cost = fewest_tiles(candidates, about_as_long)
    return cut(rows, columns), cost
