"""One processing element with everything that belongs to it, to see what it takes on a device."""

from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.config import AcceleratorConfig
from popshift.hw.matrix.mesh import tile_column
from popshift.hw.matrix.pe import pe_word
from popshift.hw.numerics import BASIS_SIZE
from popshift.hw.tech.portable import Portable


class LonePe(wiring.Component):
    """One PE of a mesh: two weight registers, the product, and its addition to a partial sum from above.

    Members
    -------
    activation, weight, load, switch: as in `Mesh`. above, total: `sum_bits` wide.
    """

    def __init__(self, *, config: AcceleratorConfig, technology: Portable, sum_bits: int) -> None:
        lone = {"rows": 2, "tile_rows": 1, "tile_cols": 1, "cols": 8 * BASIS_SIZE, "post_lanes": 1}  # a chain
        self._config = config.replace(**lone)
        self._technology = technology
        super().__init__(
            {
                "activation": In(signed(8)),
                "weight": In(pe_word(config).size),
                "load": In(1),
                "switch": In(1),
                "above": In(signed(sum_bits)),
                "total": Out(signed(sum_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        total = tile_column(
            m,
            self._config,
            self._technology,
            activations=[self.activation],
            weight=self.weight,
            switch=self.switch,
            load=self.load,
            above=self.above,
            bits=len(self.total),
            name="pe",
        )
        m.d.comb += self.total.eq(total)
        return m
