"""Lattice ECP5: registered MULT18X18D blocks (Lattice FPGA-TN-02205, sysDSP usage guide)."""

import functools

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, Value, signed

from popshift.hw.memory.ram import Ram, VerilogRam
from popshift.hw.pipeline import delayed
from popshift.hw.tech.pieces import wide_from_pieces
from popshift.hw.tech.portable import Portable

MULTIPLIER_BITS = 18
BLOCK_RAM_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Depth and width of a DP16KD, the shapes it can have."""
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

    def ram(self, *, width: int, depth: int, read_back: bool = False) -> Ram:
        parts = block_ram_rows(width, depth)
        return VerilogRam(width=width, depth=depth, parts=parts, read_back=read_back)

    def host_ram(self, *, width: int, depth: int) -> Ram:
        return VerilogRam(width=width, depth=depth, parts=block_ram_rows(width, depth), late_write=True)

    def lut_product(self, m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
        return _row_product(m, a, b, stages=stages)

    def add_chosen(
        self, m: Module, a: Value, low: Value, high: Value, select: Value, carry: Value, *, bits: int
    ) -> Value:
        return _add_chosen(m, a, low, high, select, carry, bits=bits)

    def wide_product(self, m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
        return wide_from_pieces(m, a, b, stages=stages, piece_bits=MULTIPLIER_BITS - 1, block=_block)


def block_ram_rows(width: int, depth: int) -> tuple[int, ...]:
    """Depths of the rows of block RAM, the deepest first, that hold a memory with the fewest blocks."""

    @functools.cache
    def fewest(left: int, deepest: int) -> tuple[int, tuple[int, ...]]:
        if left <= 0:
            return 0, ()
        found = []
        for rows, columns in BLOCK_RAM_SHAPES:
            if rows <= deepest:
                blocks, others = fewest(left - rows, rows)
                found.append((blocks + -(-width // columns), (min(rows, left), *others)))
        return min(found, key=lambda one: (one[0], len(one[1])))

    return fewest(depth, BLOCK_RAM_SHAPES[-1][0])[1]


def _row_product(m: Module, a: Signal, b: Signal, *, stages: int) -> Signal:
    """A signed LUT multiplier of 8 by 8 or 16: the nibbles of `b` side by side, one row of carry cells per
    bit, then their sum.

    8 x 8: some 90 LUT4, where synthesis makes 150 of ``*``. With two stages the rows are combinational, with
    more they are cut in the middle.
    """
    cut = 1 if stages > 2 else 0
    nibbles = [b[low : low + 4] for low in range(0, len(b), 4)]
    parts = [
        _nibble_product(m, a, nibble, signed_nibble=nibble is nibbles[-1], cut=cut) for nibble in nibbles
    ]
    parts = [delayed(m, part.as_signed(), 1, "product_half", shape=signed(12)) for part in parts]
    shift = 4
    while len(parts) > 1:
        parts = [low + (high << shift) for low, high in zip(parts[::2], parts[1::2], strict=True)]
        shift *= 2
    return delayed(m, parts[0], stages - 1 - cut, "product", shape=signed(len(a) + len(b)))


def _nibble_product(m: Module, a, nibble, *, signed_nibble: bool, cut: int) -> Cat:
    """12 bits of ``a * nibble``; with `cut`, a register behind the first two rows."""
    done, total = [], Signal(signed(9), name="row_0")
    m.d.comb += total.eq(Mux(nibble[0], a, 0))
    for row in range(1, 4):
        if row == 2 and cut:
            total, a = (delayed(m, x, 1, "row_cut", shape=signed(len(x))) for x in (total, a))
            done = [delayed(m, bit, 1, "row_low", shape=1) for bit in done]
            nibble = [None, None, *(delayed(m, nibble[bit], 1, "row_bit", shape=1) for bit in (2, 3))]
        done.append(total[0])
        total = _add_gated(m, total >> 1, a, nibble[row], subtract=signed_nibble and row == 3)
    return Cat(*done, total)


def _add_gated(m: Module, x, y, gate, *, subtract: bool):
    """9 bits of ``x + (gate ? y : 0)``, or ``x - …``, in one LUT per bit.

    A carry cell whose D inputs are 1 adds A and any function of B and C, because its carry looks at A alone.
    """
    bits = 9
    left, right, total = (Signal(signed(bits + 1), name=name) for name in ("row_x", "row_y", "row_sum"))
    m.d.comb += [left.eq(x), right.eq(y)]
    table = 0x95AA if subtract else 0x6AAA
    operands = {"A": left, "B": right, "C": gate.replicate(bits + 1), "D": Const(-1, signed(bits + 1))}
    _carry_row(m, table, Const(int(subtract), 1), operands, total, "row_carry")
    return total[:bits].as_signed()


def _carry_row(m: Module, table: int, carry, operands: dict[str, Value], total: Signal, name: str) -> None:
    """A row of carry cells of one truth table, two bits each; `operands` by input, as wide as `total`."""
    for bit in range(0, len(total), 2):
        carry_out = Signal(name=name)
        m.submodules += Instance(
            "CCU2C",
            p_INIT0=Const(table, 16),
            p_INIT1=Const(table, 16),
            p_INJECT1_0="NO",
            p_INJECT1_1="NO",
            i_CIN=carry,
            **{f"i_{pin}{half}": value[bit + half] for pin, value in operands.items() for half in range(2)},
            **{f"o_S{half}": total[bit + half] for half in range(2)},
            o_COUT=carry_out,
        )
        carry = carry_out


def _add_chosen(m: Module, a, low, high, select, carry, *, bits: int) -> Value:
    """``a + (high if select else low) + carry`` in one LUT per bit.

    A carry cell that does not pass its carry on gives what its table has for A, B and C = D = 0, and must
    give A there: it does, since D = 0 chooses C, and ``A ^ 0`` is A.
    """
    table = [a ^ (b if d else c) for d in range(2) for c in range(2) for b in range(2) for a in range(2)]
    number = sum(bit << entry for entry, bit in enumerate(table))
    wide = [Signal(signed(bits + bits % 2), name=f"chosen_{name}") for name in ("a", "low", "high", "sum")]
    *operands, total = wide
    m.d.comb += [signal.eq(value) for signal, value in zip(operands, (a, low, high), strict=True)]
    left, low, high = operands
    chosen = {"A": left, "B": high, "C": low, "D": select.replicate(len(total))}
    _carry_row(m, number, carry, chosen, total, "chosen_carry")
    return total[:bits].as_signed()


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
    return delayed(m, product[:width].as_signed(), stages - inner, "product", shape=signed(width))
