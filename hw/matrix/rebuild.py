"""Rebuilds SmartDeal weights: power-of-two coefficients times a column of the basis, by shift and add.

The weights come out exactly; what a coefficient code means is `popshift.hw.numerics.coefficient_of`.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import isa, numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Kind
from popshift.hw.numerics import BASIS_BITS, BASIS_SIZE, CODE_BITS, EXPONENTS
from popshift.hw.pipeline import delayed, registered

LATENCY = 5
"""Cycles from a word to the weights made of it."""
_TERM_BITS = BASIS_BITS + EXPONENTS - 1


class Rebuild(wiring.Component):
    """One row of weights a cycle, for all columns of the array at once.

    Members
    -------
    payload: a word of the weight memory, without its offset. kind: of the instruction, which stands still:
        int8 weights pass, and of other kinds' words nothing is made but zeros.
    column: of the basis; beyond the last, weights are zero.
    basis: the word is the next of `popshift.hw.isa.BASIS_WORDS` words of bases, which are kept.
    weights: one per column of the array, `LATENCY` cycles behind the word.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "payload": In(config.weight_payload_bits),
                "kind": In(isa.PLACEMENTS[isa.Opcode.MATRIX]["kind"].field.bits),
                "column": In(3),
                "basis": In(1),
                "weights": Out(data.ArrayLayout(signed(numerics.REBUILT_BITS), config.cols)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # Decoded once, in registers: every column of the array looks at these.
        chosen = Signal(BASIS_SIZE)
        m.d.sync += chosen.eq(Cat(self.column == s for s in range(BASIS_SIZE)))
        dense = registered(m, self.kind == Kind.DENSE, "dense")
        rebuilds = registered(m, self.kind == Kind.REBUILD, "rebuilds")
        row_bits = CODE_BITS * BASIS_SIZE
        for index in range(self._config.cols):
            codes = self.payload[index * row_bits : (index + 1) * row_bits]
            basis = Signal(BASIS_BITS * BASIS_SIZE**2, name=f"basis_{index}", reset_less=True)
            with m.If(self.basis):
                m.d.sync += basis.eq(Cat(basis[row_bits:], codes))
            codes = registered(m, codes, f"codes_{index}")
            rebuilt = self._weight(m, codes, basis, chosen, f"{index}")
            plain = self.payload.word_select(index, numerics.WEIGHT_BITS).as_signed()
            plain = delayed(m, plain, LATENCY - 1, f"plain_{index}", shape=signed(numerics.WEIGHT_BITS))
            m.d.sync += self.weights[index].eq(Mux(dense, plain, Mux(rebuilds, rebuilt, 0)))
        return m

    @staticmethod
    def _weight(m: Module, codes, basis: Signal, chosen: Signal, name: str):
        """The weight that `LATENCY` has in its last register, made of codes one cycle behind the word."""
        terms, signs = [], []
        for j in range(BASIS_SIZE):
            element = Const(0, BASIS_BITS)
            for s in range(BASIS_SIZE):
                candidate = basis.word_select(j * BASIS_SIZE + s, BASIS_BITS)
                element |= candidate & chosen[s].replicate(BASIS_BITS)
            element = registered(m, element, f"element_{name}_{j}").as_signed()
            code = registered(m, codes.word_select(j, CODE_BITS), f"code_{name}_{j}")
            exponent, sign = code[:-1], code[-1]
            shifted = element & exponent.any().replicate(BASIS_BITS).as_signed()
            for level in range(len(exponent)):
                shifted = Mux(exponent[level], shifted << (1 << level), shifted)
            term = Signal(signed(_TERM_BITS), name=f"term_{name}_{j}", reset_less=True)
            # One less, as codes are exponents plus one. What the inversion lacks is added below; so it is to
            # a negative zero.
            m.d.sync += term.eq((shifted >> 1) ^ sign.replicate(_TERM_BITS).as_signed())
            terms.append(term)
            signs.append(registered(m, sign, f"sign_{name}_{j}"))
        first = Signal(signed(_TERM_BITS + 1), name=f"first_{name}", reset_less=True)
        second = Signal(signed(_TERM_BITS + 1), name=f"second_{name}", reset_less=True)
        m.d.sync += [
            first.eq(terms[0] + terms[1] + signs[0]),
            second.eq(terms[2] + signs[1] + signs[2]),
        ]
        return first + second
