"""A design that compares, cycle by cycle, what every device technology makes with what the portable one
makes.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from popshift.hw.memory.ram import Ram, VerilogRam
from popshift.hw.numerics import BASIS_BITS, FACTORED_BITS
from popshift.hw.post import basis
from popshift.hw.tech.ecp5 import Ecp5
from popshift.hw.tech.gowin import Gowin
from popshift.hw.tech.ice40 import Ice40, Spram
from popshift.hw.tech.portable import Portable

STAGES = (2, 3, 4)
# Operands of the post unit's multiplier, and its stages; 24 and 32 bits are the ends of `accumulator_width`.
WIDE = {
    "exact": ((32, 35), 5),
    "compact": ((32, 17), 4),
    "compact-24": ((24, 17), 4),
    "exact-24": ((24, 35), 5),
    "basis": ((FACTORED_BITS, BASIS_BITS), basis.PRODUCT_STAGES),
}
NARROW, REBUILT = 8, 16
"""Bits of the PE multipliers' weights."""
SUM_BITS = 21
"""Of the adders that choose an operand."""
RAM_WIDTH, RAM_DEPTH = 40, 300
SETTLED = 512
"""Cycles before anything counts: pipelines are full, the memories written."""
CYCLES = SETTLED + (1 << 16) + 64
"""Every pair of 8-bit operands has passed every multiplier of 8 x 8."""


class PrimitiveComparison(wiring.Component):
    """``wrong``: one bit for each of `names`, set for good by the first difference."""

    def __init__(self) -> None:
        self._flags: dict[str, Signal] = {}
        self._names = [
            *(
                f"{name}-{kind}-{bits}-{stages}"
                for name in ("ecp5", "gowin")
                for bits in (NARROW, REBUILT)
                for stages in STAGES
                for kind in ("dsp", "lut")
            ),
            *(
                f"ice40-{kind}-{bits}-{stages}"
                for bits in (NARROW, REBUILT)
                for stages in STAGES
                for kind in ("first", "second", "single", "lut")
            ),
            "portable-add-chosen",
            "ecp5-add-chosen",
            *(f"{name}-wide-{kind}" for name in ("ecp5", "gowin") for kind in WIDE),
            *(f"ice40-wide-{kind}" for kind in WIDE if not kind.startswith("exact")),  # as far as it can
            "spram",
            "late-write",
            "spram-pair",
            "ice40-ram",
            "one-cycle-late",
        ]
        super().__init__({"wrong": Out(len(self._names))})

    @property
    def names(self) -> list[str]:
        """What is compared; ``one-cycle-late`` really differs."""
        return list(self._names)

    def elaborate(self, platform):
        m = Module()
        count = Signal(18)
        m.d.sync += count.eq(count + 1)
        self._settled = Signal()
        m.d.sync += self._settled.eq(count >= SETTLED)
        noise = [_noise(m, seed) for seed in (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)]
        a, b = Signal(signed(8)), Signal(signed(8))
        m.d.comb += [a.eq(count[:8]), b.eq(count[8:16])]
        self._products(m, NARROW, [(a, b), (b, ~a), (a ^ b, b), (b, a)])
        wide = [_corners(m, noise[0][low : low + 16], noise[1][low : low + 3], 4) for low in (0, 16, 32, 48)]
        self._products(m, REBUILT, [(a, wide[0]), (~a, wide[1]), (a ^ b, wide[2]), (b, wide[3])])
        self._additions(m, *noise)
        self._wide_products(m, *noise)
        self._spram(m, count, *noise)
        self._pairs(m, count, *noise)
        self._ram(m, count, *noise)
        m.d.comb += self.wrong.eq(Cat(*(self._flags[name] for name in self._names)))
        return m

    def _compare(self, m: Module, name: str, found, wanted, when=1) -> None:
        assert len(found) == len(wanted), name
        flag = self._flags[name] = Signal(name=f"wrong_{name.replace('-', '_')}")
        with m.If(self._settled & when & (found != wanted)):
            m.d.sync += flag.eq(1)

    def _products(self, m: Module, bits: int, pairs) -> None:
        pairs = [(_signal(m, a, signed(8)), _signal(m, b, signed(bits))) for a, b in pairs]
        for stages in STAGES:
            wanted = Portable().products(m, pairs, stages=stages)
            for technology in (Ecp5, Gowin):
                found = technology(dsp_multipliers=1).products(m, pairs[:2], stages=stages)
                for kind, value, reference in zip(("dsp", "lut"), found, wanted, strict=False):
                    self._compare(m, f"{technology.name}-{kind}-{bits}-{stages}", value, reference)
            found = Ice40(dsp_multipliers=3).products(m, pairs, stages=stages)
            for kind, value, reference in zip(
                ("first", "second", "single", "lut"), found, wanted, strict=True
            ):
                self._compare(m, f"ice40-{kind}-{bits}-{stages}", value, reference)
        if bits != NARROW:
            return
        (late,), (right,) = (Portable().products(m, pairs[:1], stages=stages) for stages in (3, 2))
        self._compare(m, "one-cycle-late", late, right)

    def _additions(self, m: Module, one, other) -> None:
        """To a 24-bit number one of two shorter ones, cut off; an odd number of bits."""
        a = _signal(m, _corners(m, one[:24], one[32:35], one[40:44]), signed(24))
        low = _signal(m, _corners(m, other[:11], other[32:35], one[44:48]), signed(11))
        high = _signal(m, _corners(m, other[12:26], other[35:38], one[48:52]), signed(14))
        select, carry = other[60], other[61]
        for technology in (Portable(), Ecp5()):
            found = technology.add_chosen(m, a, low, high, select, carry, bits=SUM_BITS)
            wanted = (a + Mux(select, high, low) + carry)[:SUM_BITS].as_signed()
            self._compare(m, f"{technology.name}-add-chosen", found, wanted)

    def _wide_products(self, m: Module, one, other) -> None:
        for kind, ((a_bits, b_bits), stages) in WIDE.items():
            a = _corners(m, one[:a_bits], one[40:43], one[48:53])
            # A basis has a sign, factors have none.
            known = b_bits if kind == "basis" else b_bits - 1
            factor = _corners(m, other[:known], other[40:43], other[48:53])
            operands = (
                _signal(m, a, signed(a_bits)),
                _signal(m, Cat(factor, Const(0, b_bits - known)), signed(b_bits)),
            )
            wanted = Portable().wide_product(m, *operands, stages=stages)
            for technology in (Ecp5, Gowin, Ice40):
                name = f"{technology.name}-wide-{kind}"
                if name in self._names:
                    self._compare(m, name, technology().wide_product(m, *operands, stages=stages), wanted)

    def _spram(self, m: Module, count, one, other) -> None:
        size = {"width": RAM_WIDTH, "depth": RAM_DEPTH}
        late = VerilogRam(**size, parts=(256, RAM_DEPTH - 256), late_write=True)
        memories = [VerilogRam(**size), Spram(**size), late]
        filling = count < RAM_DEPTH
        write = filling | one[7]
        address = Mux(other[:9] < RAM_DEPTH, other[:9], other[:7])
        write_address = _signal(m, Mux(filling, count, address), 9)
        for index, ram in enumerate(memories):
            m.submodules[f"memory_{index}"] = ram
            m.d.comb += [
                ram.read_address.eq(address),
                ram.write_enable.eq(write),
                ram.write_address.eq(write_address),
                ram.write_data.eq(one[8 : 8 + RAM_WIDTH]),
            ]
        read = ~write
        settled = read & ~(_next(m, write) & (_next(m, write_address) == address))
        for _ in range(Ram.LATENCY):
            read, settled = _next(m, read), _next(m, settled)
        certain = _next(m, ~write)  # a write in the cycle behind the address takes its place, too
        plain, spram, late = (ram.read_data for ram in memories)
        self._compare(m, "spram", spram, plain, when=read & certain)
        self._compare(m, "late-write", late, plain, when=settled)

    def _pairs(self, m: Module, count, one, other) -> None:
        """Bytes written one at a time; a word read while one is written may be anything."""
        memories = [technology().paired_banks(depth=RAM_DEPTH) for technology in (Ice40, Portable)]
        filling = count < RAM_DEPTH
        mask = Mux(filling, 3, Mux(one[7], one[5:7], 0))
        address = _signal(m, Mux(other[:9] < RAM_DEPTH, other[:9], other[:7]), 9)
        for index, pair in enumerate(memories):
            m.submodules[f"pair_{index}"] = pair
            m.d.comb += [
                pair.read_address.eq(address),
                pair.write_mask.eq(mask),
                pair.write_address.eq(Mux(filling, count, address)),
                pair.write_data.eq(one[8:24]),
            ]
        read = _signal(m, ~mask.any(), 1)
        for _ in range(Ram.LATENCY):
            read = _next(m, read)
        self._compare(m, "spram-pair", memories[0].read_data, memories[1].read_data, when=read)

    def _ram(self, m: Module, count, one, other) -> None:
        """A read and a write a cycle; a word written with the read or a cycle behind it may be either."""
        memories = [technology().ram(width=RAM_WIDTH, depth=32) for technology in (Ice40, Portable)]
        read, write, enable = _signal(m, other[10:15], 5), _signal(m, one[:5], 5), _signal(m, one[5], 1)
        for index, ram in enumerate(memories):
            m.submodules[f"ram_{index}"] = ram
            m.d.comb += [
                ram.read_address.eq(read),
                ram.write_enable.eq(enable | (count < SETTLED // 2)),
                ram.write_address.eq(Mux(count < SETTLED // 2, count, write)),
                ram.write_data.eq(one[8 : 8 + RAM_WIDTH]),
            ]
        certain = _next(m, ~(enable & (write == read)))
        certain = _next(m, certain & ~(enable & (write == _next(m, read))))
        self._compare(m, "ice40-ram", memories[0].read_data, memories[1].read_data, when=certain)


def _noise(m: Module, seed: int) -> Signal:
    """Marsaglia's xorshift, 64 bits a cycle (Journal of Statistical Software 8(14), 2003)."""
    state = Signal(64, init=seed)
    x = state ^ (state << 13)[:64]
    x = x ^ (x >> 7)
    m.d.sync += state.eq(x ^ (x << 17)[:64])
    return state


def _corners(m: Module, value, choice, amount):
    """Random bits, all zeros, all ones, one bit, few bits, or long runs of ones at the bottom: carries
    everywhere.
    """
    width = len(value)
    top = Const(1 << (width - 1), width)
    low_ones = value | ((1 << 17) - 1)
    cases = [value, value, Const(0, width), ~Const(0, width), top, ~top, value >> amount, low_ones[:width]]
    chosen = Signal(width)
    m.d.comb += chosen.eq(Array([_signal(m, case, width) for case in cases])[choice])
    return chosen


def _signal(m: Module, value, shape) -> Signal:
    signal = Signal(shape)
    m.d.comb += signal.eq(value)
    return signal


def _next(m: Module, value) -> Signal:
    register = Signal.like(value, name="next")
    m.d.sync += register.eq(value)
    return register
