"""Lattice ECP5: registered MULT18X18D blocks (Lattice FPGA-TN-02205, sysDSP usage guide)."""

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal, signed

from popshift.hw.tech.pieces import split_product, wide_from_pieces
from popshift.hw.tech.portable import Portable, delayed

MULTIPLIER_BITS = 18
DSP_STAGES = 3  # input, pipeline and output register


class Ecp5(Portable):
    """PE and post unit multipliers as MULT18X18D with all three of its registers in use."""

    name = "ecp5"

    def products(self, m: Module, pairs: list[tuple[Signal, Signal]], *, stages: int) -> list[Signal]:
        blocks = self.take_dsp(len(pairs))
        results = []
        for index, (a, b) in enumerate(pairs):
            if index < blocks:
                results.append(_block(m, a, b, stages=stages))
            else:
                results.append(self.lut_product(m, a, b, stages=stages))
        return results

    def lut_product(self, m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
        return split_product(m, a, b, stages=stages)

    def wide_product(self, m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
        return wide_from_pieces(m, a, b, stages=stages, piece_bits=MULTIPLIER_BITS - 1, block=_block)


def _block(m: Module, a, b, *, stages: int) -> Signal:
    """One MULT18X18D; stages beyond its own registers are added in fabric, fewer drop the output register."""
    product = Signal(signed(2 * MULTIPLIER_BITS))
    inner = min(stages, DSP_STAGES)
    operands = {}
    for letter, operand in (("A", a), ("B", b)):
        bits = Signal(signed(MULTIPLIER_BITS), name=f"dsp_{letter.lower()}")
        m.d.comb += bits.eq(operand)
        operands |= {f"i_{letter}{bit}": bits[bit] for bit in range(MULTIPLIER_BITS)}
    m.submodules += Instance(
        "MULT18X18D",
        p_REG_INPUTA_CLK="CLK0",
        p_REG_INPUTB_CLK="CLK0",
        p_REG_PIPELINE_CLK="CLK0",
        p_REG_OUTPUT_CLK="CLK0" if inner == DSP_STAGES else "NONE",
        i_CLK0=ClockSignal(),
        i_CE0=Const(1),
        i_RST0=Const(0),
        i_SIGNEDA=Const(1),
        i_SIGNEDB=Const(1),
        i_SOURCEA=Const(0),
        i_SOURCEB=Const(0),
        **operands,
        **{f"o_P{bit}": product[bit] for bit in range(2 * MULTIPLIER_BITS)},
    )
    width = len(a) + len(b)
    return delayed(m, product[:width].as_signed(), signed(width), stages - inner, "product")
