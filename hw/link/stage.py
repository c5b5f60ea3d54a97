"""A register in a byte stream."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class Stage(wiring.Component):
    """Cuts every path between its two sides; lets one item through every other cycle.

    Members
    -------
    i, o: streams of `shape`.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, shape) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform) -> Module:
        m = Module()
        held = Signal()
        payload = Signal.like(self.i.payload, reset_less=True)
        with m.If(held):
            m.d.sync += held.eq(~self.o.ready)
        with m.Else():
            m.d.sync += [held.eq(self.i.valid), payload.eq(self.i.payload)]
        m.d.comb += [self.i.ready.eq(~held), self.o.valid.eq(held), self.o.payload.eq(payload)]
        return m
