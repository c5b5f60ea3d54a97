"""Block RAM with one read and one write port and an output register; if asked for, the write port reads, too.

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
    word_there: only with `read_back`: the word at the write address, `LATENCY` cycles later; undefined if it
        was written in that cycle.
    """

    LATENCY = 2

    def __init__(self, *, width: int, depth: int, read_back: bool = False) -> None:
        if width < 1:
            raise ValueError(f"width must be a positive number of bits, not {width}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2 words, not {depth}")
        self.width, self.depth, self.read_back = width, depth, read_back
        self.address_bits = (depth - 1).bit_length()
        super().__init__(
            {
                "read_address": In(self.address_bits),
                "read_data": Out(width),
                "write_enable": In(1),
                "write_address": In(self.address_bits),
                "write_data": In(width),
                **({"word_there": Out(width)} if read_back else {}),
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
        if self.read_back:
            there = array.read_port()
            m.d.comb += [
                there.addr.eq(self.write_address),
                self.word_there.eq(registered(m, there.data, "word_behind")),
            ]
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
        read_back: bool = False,
    ) -> None:
        super().__init__(width=width, depth=depth, read_back=read_back)
        self._early_register, self._late_write = early_register, late_write
        self._parts = tuple(parts) or (depth,)
        if sum(self._parts) != depth:
            raise ValueError(f"the parts {self._parts} do not make {depth} words")
        assert not (read_back and late_write), "the word would not be the one at the address"

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
            there = Signal(self.width, name=f"there_{index}")
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
                p_READ_BACK=int(self.read_back),
                i_clk=ClockSignal(),
                i_read_address=self.read_address[:bits],
                o_read_data=word,
                i_write_enable=written,
                i_write_address=write_address[:bits],
                i_write_data=write_data,
                o_word_there=there,
            )
            words.append((bits, above, word, there))
            start += depth
        self._choose(m, self.read_address, [(*place, word) for *place, word, _ in words], self.read_data)
        if self.read_back:
            self._choose(
                m, self.write_address, [(*place, there) for *place, _, there in words], self.word_there
            )
        return m

    def _choose(self, m: Module, address: Signal, words: Sequence[tuple], result: Signal) -> None:
        """The word of the part that the address of `LATENCY` cycles ago lies in."""
        *others, (_, _, last) = words
        m.d.comb += result.eq(last)
        if others:
            address = delayed(m, address, self.LATENCY, f"{result.name}_address")
            for bits, above, word in reversed(others):
                with m.If(address[bits:] == above):
                    m.d.comb += result.eq(word)
