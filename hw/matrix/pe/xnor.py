"""The ``xnor`` processing element: binary activations times binary weights, 8 channels at once.

It adds twice the number of channels that agree, so that the sum of ±1 products over n channels is the result
minus n: both counts are a multiple of what a channel contributes.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data

from popshift.hw import numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.matrix.pe.product import Product
from popshift.hw.pipeline import delayed, registered
from popshift.hw.tech.portable import Portable

LANE = data.StructLayout({"bits": numerics.LANE_CHANNELS, "on": 1})
"""Weights as the PEs store them; one that is off adds nothing."""


class XnorColumn:
    """The PEs of one column of a tile.

    ``stages`` registers (at least 2) lie between operands and products: the first holds the agreements of
    pairs of channels, two bits each, from LUTs of four inputs; the last holds the count.
    """

    @staticmethod
    def weight(config: AcceleratorConfig) -> data.StructLayout:
        """What a PE stores."""
        return LANE

    @staticmethod
    def products(
        m: Module,
        technology: Portable,
        activations: list[Signal],
        weights: list[data.View],
        *,
        stages: int,
        whole: int,
    ) -> list[Product]:
        """One product per row of the tile; never with a carry, so `whole` says nothing."""
        return [
            _product(m, activation, weight, stages=stages)
            for activation, weight in zip(activations, weights, strict=True)
        ]


def _product(m: Module, x: Signal, weight: data.View, *, stages: int) -> Product:
    agree = ~(x.as_unsigned() ^ weight.bits)
    pairs = [agree[first] + agree[first + 1] for first in range(0, numerics.LANE_CHANNELS, 2)]
    pairs = delayed(m, Cat(*pairs), stages - 1, "pairs")
    on = delayed(m, weight.on, stages - 1, "on")
    one, two, three, four = (pairs.word_select(index, 2) for index in range(4))
    count = Signal(range(numerics.LANE_CHANNELS + 1), name="agreements")
    m.d.comb += count.eq((one + two) + (three + four))
    count = registered(m, Mux(on, count, 0), "count")
    return Product(low=_signed(Cat(Const(0, 1), count)))


def _signed(value: Value) -> Value:
    """The same number, signed."""
    found = Cat(value, Const(0, 1)).as_signed()
    assert len(found) == numerics.MATCH_BITS
    return found
