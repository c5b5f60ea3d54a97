"""Combines sums over the columns of Ce with the basis: SmartDeal layers without a multiplier in the array.

``y[x] = sum over j, s of basis[j][s] * u[j][x + s]`` for a row of inputs u, as a transposed filter: three
registers hold the outputs that the current input belongs to.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import numerics
from popshift.hw.numerics import BASIS_BITS, BASIS_SIZE, COMBINED_BITS, FACTORED_BITS
from popshift.hw.pipeline import delayed
from popshift.hw.tech.portable import Portable

PRODUCT_STAGES = 4
LATENCY = PRODUCT_STAGES + 1
"""Cycles from an input's last value to the output that it completes."""


class BasisLane(wiring.Component):
    """A value a cycle: for each input of a row its columns j = 0, 1, 2.

    Members
    -------
    valid, first: there is a value; it is column 0 of the next input. single: every input is an output of its
        own, made with the last column of the basis; stands still.
    value: the sum over column j. basis: row j.
    sum: behind the last column of an input, `LATENCY` cycles later: the output that began two inputs before.
        Sums wrap.
    """

    def __init__(self, *, technology: Portable) -> None:
        self._technology = technology
        super().__init__(
            {
                "valid": In(1),
                "first": In(1),
                "single": In(1),
                "value": In(signed(FACTORED_BITS)),
                "basis": In(data.ArrayLayout(signed(BASIS_BITS), BASIS_SIZE)),
                "sum": Out(signed(COMBINED_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        valid = delayed(m, self.valid, PRODUCT_STAGES, "valid", reset=True)
        first = delayed(m, self.first, PRODUCT_STAGES, "first")
        younger = None
        for s in range(BASIS_SIZE):
            factor = Signal(signed(BASIS_BITS), name=f"factor_{s}")
            m.d.comb += factor.eq(self.basis[s])
            product = self._technology.wide_product(m, self.value, factor, stages=PRODUCT_STAGES)
            output = Signal(signed(COMBINED_BITS), name=f"output_{s}", reset_less=True)
            # The first column of an input hands every output on to the next register.
            with m.If(valid):
                begun = 0 if younger is None else Mux(self.single, 0, younger)
                m.d.sync += output.eq(Mux(first, begun, output) + product)
            younger = output
        m.d.comb += self.sum.eq(younger)
        return m


assert numerics.BASIS_SIZE == 3, "the post unit's control counts three columns"
