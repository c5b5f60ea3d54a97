"""Block RAM with one read and one write port and an output register.

Two twins with the same ports: `Ram` for Amaranth's simulator, and `VerilogRam`, an instance of the module in
``ram.v``, for everything that is generated. (Amaranth writes an initial value for every bit of a memory,
which takes longer than all the rest of a design and keeps synthesis from using memories without initial
values, such as iCE40's SPRAM.)
"""

from collections.abc import Sequence
from importlib import resources

from amaranth.hdl import ClockSignal, Instance, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.pipeline import delayed, registered

VERILOG_MODULE = "popshift_ram"


def verilog_source() -> str:
    """The Verilog of `VERILOG_MODULE`."""
    return (resources.files("popshift.hw.memory") / "ram.v").read_text(encoding="utf-8")


class Ram(wiring.Component):
    """A word memory that synthesis maps to block RAM on every family.

    Reading a word in the cycle it is written gives either value; nothing in the accelerator depends on it.
    Contents are undefined until written.

    Members
    -------
    read_address, read_data: data follow the address `LATENCY` cycles later (block RAM and its output
        register).
    write_enable, write_address, write_data: written at the end of the cycle.
    """

    LATENCY = 2

    def __init__(self, *, width: int, depth: int) -> None:
        if width < 1:
            raise ValueError(f"width must be a positive number of bits, not {width}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2 words, not {depth}")
        self.width, self.depth = width, depth
        self.address_bits = (depth - 1).bit_length()
        super().__init__(
            {
                "read_address": In(self.address_bits),
                "read_data": Out(width),
                "write_enable": In(1),
                "write_address": In(self.address_bits),
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


class VerilogRam(Ram):
    """The same memory as instances of `VERILOG_MODULE`.

    Parameters
    ----------
    early_register: the second register is before the memory, where it costs an address instead of a word: for
        memories that are fast enough without a register behind them.
    parts: depths of the parts, in the order of their addresses; by default one for the whole. Each begins at
        a multiple of its depth, rounded up to a power of two. A part for every row of block RAM has the
        choice between them behind the registers, which block RAM may have inside.
    late_write: words are written a cycle later, from a register near the memory.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        early_register: bool = False,
        parts: Sequence[int] = (),
        late_write: bool = False,
    ) -> None:
        super().__init__(width=width, depth=depth)
        self._early_register, self._late_write = early_register, late_write
        self._parts = tuple(parts) or (depth,)
        if sum(self._parts) != depth:
            raise ValueError(f"the parts {self._parts} do not make {depth} words")

    def elaborate(self, platform):
        m = Module()
        start, words = 0, []
        write_address, write_data = self.write_address, self.write_data
        if self._late_write:
            write_address = registered(m, write_address, "late_address")
            write_data = registered(m, write_data, "late_data")
        for index, depth in enumerate(self._parts):
            bits = max(1, (depth - 1).bit_length())
            above = start >> bits
            assert start == above << bits or len(self._parts) == 1
            written, word = Signal(name=f"written_{index}"), Signal(self.width, name=f"word_{index}")
            here = self.write_enable & (self.write_address[bits:] == above)
            m.d.comb += written.eq(
                registered(m, here, f"late_{index}", reset=True) if self._late_write else here
            )
            m.submodules[f"part_{index}"] = Instance(
                VERILOG_MODULE,
                p_WIDTH=self.width,
                p_DEPTH=depth,
                p_ADDRESS_BITS=bits,
                p_EARLY_REGISTER=int(self._early_register),
                i_clk=ClockSignal(),
                i_read_address=self.read_address[:bits],
                o_read_data=word,
                i_write_enable=written,
                i_write_address=write_address[:bits],
                i_write_data=write_data,
            )
            words.append((bits, above, word))
            start += depth
        m.d.comb += self.read_data.eq(words[-1][-1])
        if len(words) > 1:
            address = delayed(m, self.read_address, self.LATENCY, "address")
            for bits, above, word in reversed(words[:-1]):
                with m.If(address[bits:] == above):
                    m.d.comb += self.read_data.eq(word)
        return m
