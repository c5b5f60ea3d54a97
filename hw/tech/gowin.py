"""Gowin LittleBee and Arora: MULT9X9 and MULT18X18 blocks (Gowin UG287, DSP user guide)."""

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal, signed

from popshift.hw.pipeline import delayed
from popshift.hw.tech.pieces import split_product, wide_from_pieces
from popshift.hw.tech.portable import Portable

DSP_STAGES = 3  # input, pipeline and output register


class Gowin(Portable):
    """PEs in MULT9X9, or MULT18X18 for 16-bit weights, the post unit in MULT18X18, with all of their
    registers in use.
    """

    name = "gowin"

    def products(self, m: Module, pairs: list[tuple[Signal, Signal]], *, stages: int) -> list[Signal]:
        blocks = self.take_dsp(len(pairs))
        return [
            _block(m, a, b, stages=stages, bits=9 if len(b) <= 9 else 18)
            if index < blocks
            else self.lut_product(m, a, b, stages=stages)
            for index, (a, b) in enumerate(pairs)
        ]

    def lut_product(self, m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
        return split_product(m, a, b, stages=stages)

    def wide_product(self, m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
        return wide_from_pieces(m, a, b, stages=stages, piece_bits=17, block=_block)


def _block(m: Module, a, b, *, stages: int, bits: int = 18) -> Signal:
    """One MULT9X9 or MULT18X18; stages beyond its own registers are added in fabric, fewer drop the output
    register.
    """
    inner = min(stages, DSP_STAGES)
    operands = {}
    for letter, operand in (("A", a), ("B", b)):
        value = Signal(signed(bits), name=f"dsp_{letter.lower()}")
        m.d.comb += value.eq(operand)
        operands[f"i_{letter}"] = value
    product = Signal(signed(2 * bits))
    m.submodules += Instance(
        f"MULT{bits}X{bits}",
        p_AREG=Const(1, 1),
        p_BREG=Const(1, 1),
        p_PIPE_REG=Const(1, 1),
        p_OUT_REG=Const(inner == DSP_STAGES, 1),
        p_ASIGN_REG=Const(0, 1),
        p_BSIGN_REG=Const(0, 1),
        p_SOA_REG=Const(0, 1),
        p_MULT_RESET_MODE="SYNC",
        i_CLK=ClockSignal(),
        i_CE=Const(1),
        i_RESET=Const(0),
        i_ASIGN=Const(1),
        i_BSIGN=Const(1),
        i_ASEL=Const(0),
        i_BSEL=Const(0),
        i_SIA=Const(0, bits),
        i_SIB=Const(0, bits),
        **operands,
        o_DOUT=product,
    )
    width = len(a) + len(b)
    return delayed(m, product[:width].as_signed(), stages - inner, "product", shape=signed(width))
