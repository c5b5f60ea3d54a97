"""Block RAM with one read and one write port and an output register."""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out


class Ram(wiring.Component):
    """A word memory that synthesis maps to block RAM on every family.

    Reading a word in the cycle it is written gives either value; nothing in the accelerator depends on it.

    Members
    -------
    read_address, read_data: data follow the address `LATENCY` cycles later (block RAM and its output register).
    write_enable, write_address, write_data: written at the end of the cycle.
    """

    LATENCY = 2

    def __init__(self, *, width: int, depth: int) -> None:
        if width < 1:
            raise ValueError(f"width must be a positive number of bits, not {width}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2 words, not {depth}")
        self.width, self.depth = width, depth
        bits = (depth - 1).bit_length()
        super().__init__(
            {
                "read_address": In(bits),
                "read_data": Out(width),
                "write_enable": In(1),
                "write_address": In(bits),
                "write_data": In(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = array = memory.Memory(shape=self.width, depth=self.depth, init=[])
        write, read = array.write_port(), array.read_port()
        m.d.comb += [
            read.addr.eq(self.read_address),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            write.en.eq(self.write_enable),
        ]
        output = Signal(self.width, reset_less=True)
        m.d.sync += output.eq(read.data)
        m.d.comb += self.read_data.eq(output)
        return m
