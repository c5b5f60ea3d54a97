"""Multipliers put together from smaller ones."""

from amaranth.hdl import Cat, Const, Module, Signal, signed

from popshift.hw.pipeline import delayed


def split_product(m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
    """A LUT multiplier in two pipelined halves (high and low nibble of `b`), for two or more stages."""
    half = len(b) // 2
    low = delayed(m, a * b[:half], stages - 1, "product_low", shape=signed(len(a) + half))
    high = delayed(
        m, a * b[half:].as_signed(), stages - 1, "product_high", shape=signed(len(a) + len(b) - half)
    )
    return delayed(m, low + (high << half), 1, "product", shape=signed(len(a) + len(b)))


def wide_from_pieces(m: Module, a: Signal, b: Signal, *, stages: int, piece_bits: int, block) -> Signal:
    """A wide signed product from unsigned low pieces of `piece_bits` and signed high pieces, each one DSP
    block.

    Takes 4 stages when `b` fits one block, 5 when both operands are split: blocks 3, one or two levels of
    addition.
    """
    width = len(a) + len(b)

    def split(x):
        if len(x) <= piece_bits + 1:
            return [x]
        return [Cat(x[:piece_bits], Const(0, 1)).as_signed(), x[piece_bits:].as_signed()]

    parts_a, parts_b = split(a), split(b)
    assert len(parts_a) == 2 and len(parts_b) in (1, 2), "an operand too wide for two pieces"
    adders = len(parts_b)
    assert stages >= 3 + adders
    p = [[block(m, x, y, stages=stages - adders) for y in parts_b] for x in parts_a]
    if adders == 1:
        low, high = p[0][0], p[1][0]
        return delayed(m, low + (high << piece_bits), 1, "wide_product", shape=signed(width))
    outer = delayed(m, p[0][0] + (p[1][1] << (2 * piece_bits)), 1, "wide_outer", shape=signed(width))
    inner = delayed(m, p[0][1] + p[1][0], 1, "wide_inner", shape=signed(len(p[0][1]) + 1))
    return delayed(m, outer + (inner << piece_bits), 1, "wide_product", shape=signed(width))
