"""What the post unit knows of a result that is under way, and the addresses it makes of that."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data

ELEMENT = data.StructLayout(
    {
        "valid": 1,
        "row_end": 1,  # the next pixel begins a row
        "pixel_end": 1,  # the next element belongs to another pixel
        "area_end": 1,  # the next pixel begins the x/y rectangle again
        "plane_end": 1,  # and does so one plane further
        "strip_end": 1,  # or in the first plane again, behind the last row
        "mask_restart": 1,  # the next element belongs to the first group again
        "mask_shift": 1,  # or to the next group, or bank if signs are packed
    }
)
"""What travels through the pipeline with every element, so that the writing side needs no counters."""


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
            with m.If(element.pixel_end & element.area_end):
                m.d.sync += [self._in_first.eq(element.strip_end), behind.eq(next_strip)]
                with m.If(element.strip_end):
                    m.d.sync += [self.address.eq(next_strip), self._plane.eq(next_strip)]
                with m.Elif(element.plane_end):
                    m.d.sync += [self.address.eq(next_plane), self._plane.eq(next_plane)]
                with m.Else():
                    m.d.sync += self.address.eq(self._plane)
            with m.Elif(element.pixel_end):
                m.d.sync += self.address.eq(following)

    def begin(self, m: Module) -> None:
        """Start anew; inside an ``m.If`` behind everything else."""
        m.d.sync += [self.address.eq(self._base), self._plane.eq(self._base), self._in_first.eq(1)]
