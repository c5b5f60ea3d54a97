"""A small design with the ports of the accelerator's byte-stream link, to try the simulated board on."""

from amaranth.hdl import Assert, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import emit
from popshift.hw.memory.ram import VerilogRam

WORK = 0xF0
"""This byte makes it busy for `WORK_CYCLES` before it answers with `WORK`."""
WORK_CYCLES = 5000
BREAK = 0xF1
"""This byte violates an assertion."""
PEEK = 0x80
"""``PEEK + address`` is answered with that byte of a memory that nothing writes."""
MEMORY_DEPTH = 16


class Echo(wiring.Component):
    """Answers each byte below `PEEK` with the next higher one, and is ready for bytes in some cycles only."""

    def __init__(self):
        super().__init__({"rx": In(stream.Signature(8)), "tx": Out(stream.Signature(8)), "busy": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = VerilogRam(width=8, depth=MEMORY_DEPTH)
        shuffle = Signal(16, init=1)
        work = Signal(range(WORK_CYCLES + 1))
        peeking = Signal()
        m.d.sync += shuffle.eq((shuffle >> 1) ^ shuffle[0].replicate(16) & 0xB400)
        m.d.comb += [
            self.busy.eq(work != 0),
            self.rx.ready.eq(shuffle[0] & (work == 0) & (~self.tx.valid | self.tx.ready)),
        ]
        with m.If(self.tx.ready):
            m.d.sync += self.tx.valid.eq(0)
        with m.If(work != 0):
            m.d.sync += work.eq(work - 1)
            with m.If(work == 1):
                m.d.sync += [self.tx.valid.eq(1), self.tx.payload.eq(Mux(peeking, memory.read_data, WORK))]
        with m.If(self.rx.valid & self.rx.ready):
            m.d.comb += Assert(self.rx.payload != BREAK, "told to break")
            m.d.sync += [peeking.eq(self.rx.payload != WORK), memory.read_address.eq(self.rx.payload)]
            with m.If(self.rx.payload == WORK):
                m.d.sync += work.eq(WORK_CYCLES)
            with m.Elif(self.rx.payload >= PEEK):
                m.d.sync += work.eq(1 + memory.LATENCY)
            with m.Else():
                m.d.sync += [self.tx.valid.eq(1), self.tx.payload.eq(self.rx.payload + 1)]
        return m


def verilog() -> str:
    """The design as Verilog, top module `popshift`."""
    return emit.component_verilog(Echo())
