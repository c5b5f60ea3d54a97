"""The ``mul`` processing element: int8 activation times int8 weight, or int16 weight where weights are
rebuilt.
"""

from amaranth.hdl import Module, Shape, Signal, Value, signed

from popshift.hw.config import AcceleratorConfig
from popshift.hw.matrix.pe.product import Product
from popshift.hw.tech.portable import Portable


class MulColumn:
    """The PEs of one column of a tile: what they multiply, not what they add.

    ``stages`` registers lie between operands and products.
    """

    @staticmethod
    def weight(config: AcceleratorConfig) -> Shape:
        """What a PE stores."""
        return signed(config.weight_bits)

    @staticmethod
    def products(
        m: Module,
        technology: Portable,
        activations: list[Signal],
        weights: list[Value],
        *,
        stages: int,
        whole: int,
    ) -> list[Product]:
        """One signed product per row of the tile; never with a carry, so `whole` says nothing."""
        pairs = list(zip(activations, weights, strict=True))
        return [Product(low=value) for value in technology.products(m, pairs, stages=stages)]
