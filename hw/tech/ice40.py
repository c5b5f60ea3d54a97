"""Lattice iCE40 UltraPlus: SB_MAC16 blocks, two 8 x 8 products or one 16 x 16 each, and single-port SPRAM
(FPGA-TN-02007).
"""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, signed

from popshift.hw.errors import ConfigError
from popshift.hw.memory.paired import PairedBanks
from popshift.hw.memory.ram import Ram, VerilogRam
from popshift.hw.pipeline import delayed, registered
from popshift.hw.tech.pieces import split_product
from popshift.hw.tech.portable import Portable

SPRAM_DEPTH, SPRAM_BITS = 16384, 16
SMALL_BITS = 12 * 4096
"""What fits twelve block RAMs does not take one of the four SPRAM."""


class Ice40(Portable):
    """Two PEs share a block unless weights have 16 bits; the post unit's multiplier takes two blocks."""

    name = "ice40"

    def products(self, m: Module, pairs: list[tuple[Signal, Signal]], *, stages: int) -> list[Signal]:
        granted = self.take_dsp(len(pairs))
        results = []
        if granted and len(pairs[0][1]) > 8:
            results += [_single(m, a, b, stages=stages) for a, b in pairs[:granted]]
        else:
            for index in range(0, granted, 2):
                results += _pair(m, pairs[index : min(index + 2, granted)], stages=stages)
        return results + [self.lut_product(m, a, b, stages=stages) for a, b in pairs[granted:]]

    def lut_product(self, m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
        return split_product(m, a, b, stages=stages)

    def wide_product(self, m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
        if len(b) > 17:
            raise ConfigError(
                "requantise must be compact on iCE40: its multipliers are 16 bits wide",
                remedy='set requantise = "compact"',
            )
        is_signed = len(b) <= 16  # a factor of 17 bits is never negative: its last bit is its sign
        factor, upper = Signal(signed(17)), Signal(signed(16))
        m.d.comb += [factor.eq(b), upper.eq(a[16:].as_signed())]
        low = _mac16(m, a[:16], factor[:16], signs=(False, is_signed), stages=stages - 1)
        high = _mac16(m, upper, factor[:16], signs=(True, is_signed), stages=stages - 1).as_signed()
        low = low.as_signed() if is_signed else low
        return delayed(m, low + (high << 16), 1, "wide_product", shape=signed(len(a) + len(b)))

    def ram(self, *, width: int, depth: int, read_back: bool = False) -> Ram:
        if read_back:
            raise ConfigError(
                "residual must be false on iCE40: its memories cannot be read through their write port",
                remedy="set residual = false",
            )
        return VerilogRam(width=width, depth=depth, early_register=True)  # 1.2 ns from clock to data (UP5K)

    def host_ram(self, *, width: int, depth: int) -> Ram:
        if width * depth <= SMALL_BITS or depth > SPRAM_DEPTH:
            return self.ram(width=width, depth=depth)
        return Spram(width=width, depth=depth)

    def paired_banks(self, *, depth: int) -> PairedBanks:
        if depth > SPRAM_DEPTH:
            return super().paired_banks(depth=depth)
        return SpramPair(depth=depth, ram=self.ram)


class Spram(Ram):
    """Weight memory in SB_SPRAM256KA blocks, which have one port: a write takes the place of the read whose
    address came a cycle before; else as `Ram`.
    """

    def elaborate(self, platform):
        m = Module()
        # The second register of the latency is before the memory, as in `Ice40.ram`.
        read_address = registered(m, self.read_address, "address")
        address = Mux(self.write_enable, self.write_address, read_address)
        mask = self.write_enable.replicate(SPRAM_BITS // 8)
        words = [
            _spram(m, f"block_{low}", address, self.write_data[low : low + SPRAM_BITS], mask)
            for low in range(0, self.width, SPRAM_BITS)
        ]
        m.d.comb += self.read_data.eq(Cat(*words))
        return m


class SpramPair(PairedBanks):
    """Two banks of activations in one SB_SPRAM256KA."""

    def elaborate(self, platform):
        m = Module()
        port = (self.address, self.write_data.as_value(), self.write_mask)
        names = ("address", "written", "mask")
        registers = (registered(m, value, name) for value, name in zip(port, names, strict=True))
        word = _spram(m, "block", *registers)
        m.d.comb += self.read_data.eq(word)
        return m


def _spram(m: Module, name: str, address, written, mask) -> Signal:
    """The word of a block, a cycle behind the address. `mask`: bytes of `written` to write there."""
    word = Signal(SPRAM_BITS, name=f"{name}_word")
    m.submodules[name] = Instance(
        "SB_SPRAM256KA",
        i_ADDRESS=Cat(address, Const(0, (SPRAM_DEPTH - 1).bit_length() - len(address))),
        i_DATAIN=Cat(written, Const(0, SPRAM_BITS - len(written))),
        i_MASKWREN=Cat(bit.replicate(2) for bit in mask),  # of four bits each
        i_WREN=mask.any(),
        i_CHIPSELECT=Const(1),
        i_CLOCK=ClockSignal(),
        i_STANDBY=Const(0),
        i_SLEEP=Const(0),
        i_POWEROFF=Const(1),
        o_DATAOUT=word,
    )
    return word


_COMMON = {
    "p_A_REG": 1,
    "p_B_REG": 1,
    "i_CLK": ClockSignal(),
    "i_CE": Const(1),
}


def _pair(m: Module, pairs: list[tuple[Signal, Signal]], *, stages: int) -> list[Signal]:
    """One or two signed 8 x 8 products from one block: input registers and product registers."""
    both = [*pairs, *[(Const(0, signed(8)), Const(0, signed(8)))] * (2 - len(pairs))]
    output = Signal(32)
    m.submodules += Instance(
        "SB_MAC16",
        p_TOP_8x8_MULT_REG=1,
        p_BOT_8x8_MULT_REG=1,
        p_TOPOUTPUT_SELECT=2,
        p_BOTOUTPUT_SELECT=2,
        p_MODE_8x8=1,
        p_A_SIGNED=1,
        p_B_SIGNED=1,
        **_COMMON,
        i_A=Cat(both[0][0], both[1][0]),
        i_B=Cat(both[0][1], both[1][1]),
        o_O=output,
    )
    halves = [output[:16].as_signed(), output[16:].as_signed()]
    return [
        delayed(m, half, stages - 2, "product", shape=signed(16))
        for half, _ in zip(halves, pairs, strict=False)
    ]


def _single(m: Module, a, b, *, stages: int):
    """A signed product of up to 16 x 16."""
    operands = [Signal(signed(16), name=f"dsp_{letter}") for letter in "ab"]
    m.d.comb += [signal.eq(value) for signal, value in zip(operands, (a, b), strict=True)]
    width = len(a) + len(b)
    product = _mac16(m, *operands, signs=(True, True), stages=stages)
    return product[:width].as_signed()


def _mac16(m: Module, a, b, *, signs: tuple[bool, bool], stages: int) -> Signal:
    """A 16 x 16 product, 32 bits: input, pipeline and, with three stages or more, output registers of the
    block. `signs`: whether `a` and `b` are signed.
    """
    inner = min(stages, 3)
    output = Signal(32)
    m.submodules += Instance(
        "SB_MAC16",
        p_TOP_8x8_MULT_REG=1,
        p_BOT_8x8_MULT_REG=1,
        p_PIPELINE_16x16_MULT_REG1=1,
        p_PIPELINE_16x16_MULT_REG2=int(inner == 3),
        p_TOPOUTPUT_SELECT=3,
        p_BOTOUTPUT_SELECT=3,
        p_A_SIGNED=int(signs[0]),
        p_B_SIGNED=int(signs[1]),
        **_COMMON,
        i_A=a,
        i_B=b,
        o_O=output,
    )
    return delayed(m, output, stages - inner, "mac16", shape=32)
