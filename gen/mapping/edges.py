"""Windows that reach beyond the image, where binary activations have no zero to read.

A tap outside finds bits of 0 and adds what -1 would. The bias of pixels at an edge takes that out again, so
these pixels have parameters of their own: a *class* of pixels is what of the kernel lies inside for all of
them. A POST can tell the first and last row and column of its rectangle from the rest; a rectangle with more
classes than that is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popshift.gen.graph import Window
from popshift.gen.mapping.tiling import Rectangle
from popshift.hw.isa import EDGE_CLASSES, Edge

Inside = tuple[int, int]
"""First row or column of the kernel that lies inside, and the one behind the last."""


@dataclass(frozen=True, slots=True)
class PixelClass:
    """Rows and columns of the kernel inside the image."""

    rows: Inside
    columns: Inside

    def outside(self, weight: NDArray[np.integer]) -> NDArray[np.int64]:
        """The sum of each filter's weights (filters, channels, kernel rows, columns) outside."""
        inside = weight[:, :, slice(*self.rows), slice(*self.columns)]
        return weight.sum(axis=(1, 2, 3), dtype=np.int64) - inside.sum(axis=(1, 2, 3), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of output pixels that one POST writes.

    Attributes
    ----------
    edges: bits of `Edge`: these sides are of another class than what lies between.
    table: number of the `EdgePlan.tables` entry with its classes.
    """

    rectangle: Rectangle
    edges: int = 0
    table: int = 0


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """Regions of a layer's output, and tables of classes by their place behind the parameters of the inside
    (`EDGE_CLASSES`); None: one that no region needs.
    """

    regions: tuple[Region, ...]
    tables: tuple[tuple[PixelClass | None, ...], ...]


def without_edges(tiles: Sequence[Rectangle]) -> EdgePlan:
    """For inputs whose padding is a real zero: all pixels have the same parameters."""
    return EdgePlan(tuple(Region(tile) for tile in tiles), ((None,),))


def plan_edges(window: Window, size: tuple[int, int], tiles: Sequence[Rectangle]) -> EdgePlan:
    """For a binary input of `size` (height, width) and pixel tiles of the output."""
    height, width = window.output_size(*size)
    rows, columns = _inside(window, 0, size[0], height), _inside(window, 1, size[1], width)
    tables: list[dict[int, PixelClass]] = []
    regions = []
    for tile in tiles:
        for y, tall, top, bottom in _runs(rows[tile.y : tile.y + tile.height]):
            for x, wide, left, right in _runs(columns[tile.x : tile.x + tile.width]):
                place = Rectangle(tile.y + y, tile.x + x, tall, wide)
                sides = {Edge.LEFT: left, Edge.RIGHT: right, Edge.TOP: top, Edge.BOTTOM: bottom}
                edges = sum(1 << edge for edge, other in sides.items() if other)
                wanted = _classes(place, rows, columns, sides)
                regions.append(Region(place, edges, _table(tables, wanted)))
    length = 1 + max(max(table) for table in tables)
    return EdgePlan(tuple(regions), tuple(tuple(map(table.get, range(length))) for table in tables))


def _inside(window: Window, axis: int, size: int, outputs: int) -> list[Inside]:
    """For each output row (axis 0) or column (1)."""
    kernel, stride, dilation = window.kernel[axis], window.stride[axis], window.dilation[axis]
    taps = np.arange(kernel) * dilation - window.padding[2 * axis]
    found = []
    for output in range(outputs):
        inside = np.flatnonzero((taps + output * stride >= 0) & (taps + output * stride < size))
        found.append((int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0))
    return found


def _runs(classes: Sequence[Inside]) -> list[tuple[int, int, bool, bool]]:
    """(start, length, whether the first, whether the last is of another class) of pieces in which all
    between first and last is of one class.
    """
    found, start = [], 0
    while start < len(classes):
        second = min(start + 1, len(classes) - 1)
        between, stop = classes[second], second
        while stop < len(classes) and classes[stop] == between:
            stop += 1
        last = stop < len(classes)
        stop += last
        found.append((start, stop - start, classes[start] != between, last))
        start = stop
    return found


def _classes(
    place: Rectangle, rows: Sequence[Inside], columns: Sequence[Inside], sides: dict[Edge, bool]
) -> dict[int, PixelClass]:
    """The classes of a rectangle's pixels by their number in a table."""
    found = {}
    for y, row_place in _lines(place.y, place.height, Edge.TOP, Edge.BOTTOM, sides):
        for x, column_place in _lines(place.x, place.width, Edge.LEFT, Edge.RIGHT, sides):
            found[row_place + column_place] = PixelClass(rows[y], columns[x])
    return found


def _lines(start: int, size: int, first: Edge, last: Edge, sides: dict[Edge, bool]) -> list[tuple[int, int]]:
    """A row or column of each class, and where its parameters are."""
    found = []
    if sides[first]:
        found.append((start, EDGE_CLASSES[first]))
    if sides[last]:
        found.append((start + size - 1, EDGE_CLASSES[last]))
    if size > len(found):
        found.append((start + sides[first], 0))
    return found


def _table(tables: list[dict[int, PixelClass]], wanted: dict[int, PixelClass]) -> int:
    """Number of a table that has, or can take, these classes."""
    for number, table in enumerate(tables):
        if all(table.get(place, found) == found for place, found in wanted.items()):
            table.update(wanted)
            return number
    tables.append(dict(wanted))
    return len(tables) - 1
