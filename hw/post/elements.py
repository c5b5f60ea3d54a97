"""What the post unit knows of a result that is under way, and the addresses it makes of that."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data

ELEMENT = data.StructLayout(
    {
        "valid": 1,
        "row_end": 1,  # the next pixel begins a row
        "pixel_end": 1,  # the next element belongs to another pixel
        "area_end": 1,  # the next pixel begins the x/y rectangle again
        "plane_end": 1,  # and does so one plane further
        "mask_restart": 1,  # the next element belongs to the first group again
        "mask_shift": 1,  # or to the next group, or bank if signs are packed
    }
)
"""What travels through the pipeline with every element, so that the writing side needs no counters."""


class Walk:
    """Addresses of one element after the other: along the rows of a rectangle, through the planes.

    Parameters
    ----------
    step: from a pixel to the next, for the current element.
    fields: has `base` and `plane_step`.
    """

    def __init__(self, m: Module, element: data.View, step, fields: Any, *, name: str) -> None:
        self._base = fields.base
        self.address = Signal(len(fields.base), name=f"{name}_address", reset_less=True)
        self._plane = Signal.like(self.address, name=f"{name}_plane")
        next_plane = Signal.like(self.address, name=f"{name}_next_plane")
        m.d.comb += next_plane.eq(self._plane + fields.plane_step)
        with m.If(element.valid):
            with m.If(element.pixel_end & element.area_end):
                with m.If(element.plane_end):
                    m.d.sync += [self.address.eq(next_plane), self._plane.eq(next_plane)]
                with m.Else():
                    m.d.sync += self.address.eq(self._plane)
            with m.Elif(element.pixel_end):
                m.d.sync += self.address.eq(self.address + step)

    def begin(self, m: Module) -> None:
        """Start anew; inside an ``m.If`` behind everything else."""
        m.d.sync += [self.address.eq(self._base), self._plane.eq(self._base)]
