"""A unit to try the bench on: a stream that adds one, and can be told to break the rules of streams."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

OFFSET = 1


class EchoUnit(wiring.Component):
    """A register stage that adds `OFFSET` to what passes.

    Members
    -------
    i, o: the streams, 8 bits.
    drop: withdraws an offered item that was not taken: forbidden, and for monitors to find.
    stop: takes nothing more: for watchdogs to find.
    """

    def __init__(self) -> None:
        super().__init__(
            {"i": In(stream.Signature(8)), "o": Out(stream.Signature(8)), "drop": In(1), "stop": In(1)}
        )

    def elaborate(self, platform):
        m = Module()
        full = Signal()
        m.d.comb += [self.i.ready.eq((~full | self.o.ready) & ~self.stop), self.o.valid.eq(full)]
        with m.If(self.o.ready | self.drop):
            m.d.sync += full.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [full.eq(1), self.o.payload.eq(self.i.payload + OFFSET)]
        return m
