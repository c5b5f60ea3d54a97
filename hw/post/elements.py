"""What the post unit knows of a result that is under way, and the addresses it makes of that."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, enum


class Next(enum.Enum, shape=3):
    """What the element behind belongs to. The highest bit: a row has ended."""

    PIXEL_AGAIN = 0b000
    PIXEL = 0b001
    ROW = 0b100
    AREA = 0b101
    """The x/y rectangle again, from its first pixel on, for the next group."""
    PLANE = 0b110
    """The same one plane further, for the first group again."""
    STRIP = 0b111
    """The same in the first plane, behind the last row."""


ELEMENT = data.StructLayout({"valid": 1, "next": Next})
"""What travels through the pipeline with every element, so that the writing side needs no counters."""


def row_ends(element: data.View):
    """Whether the next pixel begins a row."""
    return element.next.as_value()[2]


def pixel_ends(element: data.View):
    """Whether the next element belongs to another pixel."""
    return element.next != Next.PIXEL_AGAIN


def area_ends(element: data.View):
    """Whether the next pixel begins the rectangle again."""
    return row_ends(element) & element.next.as_value()[:2].any()


def groups_end(element: data.View):
    """Whether the rectangle begins again for the first group."""
    return row_ends(element) & element.next.as_value()[1]


class Walk:
    """Addresses of one element after the other: along the rows of a rectangle, through the planes,
    from strip to strip.

    Parameters
    ----------
    step: from a pixel to the next, for the current element.
    fields: has `base` and `plane_step`.
    """

    def __init__(self, m: Module, element: data.View, step, fields: Any, *, name: str) -> None:
        self._base = fields.base
        self.address = Signal(len(fields.base), name=f"{name}_address", reset_less=True)
        self._plane = Signal.like(self.address, name=f"{name}_plane")
        following, next_plane, next_strip, behind = (
            Signal.like(self.address, name=f"{name}_{kind}")
            for kind in ("following", "next_plane", "next_strip", "behind")
        )
        self._in_first = Signal(name=f"{name}_in_first")  # the rectangle of a strip that is walked first
        m.d.comb += [
            following.eq(self.address + step),
            next_plane.eq(self._plane + fields.plane_step),
            next_strip.eq(Mux(self._in_first, following, behind)),
        ]
        with m.If(element.valid):
            with m.If(area_ends(element)):
                strip_ends = element.next == Next.STRIP
                m.d.sync += [self._in_first.eq(strip_ends), behind.eq(next_strip)]
                with m.If(strip_ends):
                    m.d.sync += [self.address.eq(next_strip), self._plane.eq(next_strip)]
                with m.Elif(element.next == Next.PLANE):
                    m.d.sync += [self.address.eq(next_plane), self._plane.eq(next_plane)]
                with m.Else():
                    m.d.sync += self.address.eq(self._plane)
            with m.Elif(pixel_ends(element)):
                m.d.sync += self.address.eq(following)

    def begin(self, m: Module) -> None:
        """Start anew; inside an ``m.If`` behind everything else."""
        m.d.sync += [self.address.eq(self._base), self._plane.eq(self._base), self._in_first.eq(1)]
