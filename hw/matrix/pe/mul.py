"""The ``mul`` processing element: int8 activation times int8 weight."""

from amaranth.hdl import Module, Signal

from popshift.hw.tech.portable import Portable


class MulColumn:
    """The PEs of one column of a tile: what they multiply, not what they add.

    ``stages`` registers lie between operands and products.
    """

    WEIGHT_BITS = 8
    PRODUCT_BITS = 16

    @staticmethod
    def products(
        m: Module, technology: Portable, activations: list[Signal], weights: list[Signal], *, stages: int
    ) -> list[Signal]:
        """One signed product per row of the tile."""
        return technology.products(m, list(zip(activations, weights, strict=True)), stages=stages)
