"""Lattice ECP5: registered MULT18X18D blocks (Lattice FPGA-TN-02205, sysDSP usage guide)."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, signed

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


def split_product(m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
    """A LUT multiplier in two pipelined halves (high and low nibble of `b`), for two or more stages."""
    half = len(b) // 2
    low = delayed(m, a * b[:half], signed(len(a) + half), stages - 1, "product_low")
    high = delayed(m, a * b[half:].as_signed(), signed(len(a) + len(b) - half), stages - 1, "product_high")
    return delayed(m, low + (high << half), signed(len(a) + len(b)), 1, "product")


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


def wide_from_pieces(m: Module, a: Signal, b: Signal, *, stages: int, piece_bits: int, block) -> Signal:
    """A wide signed product from unsigned low pieces of `piece_bits` and signed high pieces, each one DSP block.

    Takes 4 stages when `b` fits one block, 5 when both operands are split: blocks 3, one or two levels of addition.
    """
    width = len(a) + len(b)

    def split(x):
        if len(x) <= piece_bits + 1:
            return [x]
        return [Cat(x[:piece_bits], Const(0, 1)).as_signed(), x[piece_bits:].as_signed()]

    parts_a, parts_b = split(a), split(b)
    assert len(parts_a) == 2 and len(parts_b) in (1, 2), "an operand too wide for two pieces"
    adders = len(parts_b)
    assert stages >= DSP_STAGES + adders
    p = [[block(m, x, y, stages=stages - adders) for y in parts_b] for x in parts_a]
    if adders == 1:
        low, high = p[0][0], p[1][0]
        return delayed(m, low + (high << piece_bits), signed(width), 1, "wide_product")
    outer = delayed(m, p[0][0] + (p[1][1] << (2 * piece_bits)), signed(width), 1, "wide_outer")
    inner = delayed(m, p[0][1] + p[1][0], signed(len(p[0][1]) + 1), 1, "wide_inner")
    return delayed(m, outer + (inner << piece_bits), signed(width), 1, "wide_product")
