"""Row gather: every row of the array reads its own bank at the pixel's address plus an offset stored beside
its weights.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.config import ADDRESS_BITS, PAIR, AcceleratorConfig
from popshift.hw.memory.activations import address_bits
from popshift.hw.pipeline import registered


class RowGather(wiring.Component):
    """Per-bank read addresses for the matrix unit; a common address for everybody else.

    Row tile i works i cycles after row tile 0. The addresses are registered: they follow the pixel by one
    cycle.

    Members
    -------
    pixel, pixel_valid: address of the current output pixel's first tap.
    switch: one cycle before the first pixel of a pass: its offsets become active.
    load, load_tile, load_offset: a weight row arrives for this row tile (`load_tile`), with this offset; not
        skewed. load_tiles: out: `load` for every row tile; the mesh loads its weights with it.
    common, common_address: all banks read this address instead.
    addresses: one per bank; of a pair of banks (``paired_banks``) that of its first row.
    outside: an address lay outside the memory (for a cycle, some cycles later).
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        bits = address_bits(config)
        super().__init__(
            {
                "pixel": In(bits),
                "pixel_valid": In(1),
                "switch": In(1),
                "load": In(1),
                "load_tile": In(range(max(2, config.mesh_rows))),
                "load_offset": In(ADDRESS_BITS),
                "load_tiles": Out(config.mesh_rows),
                "common": In(1),
                "common_address": In(bits),
                "addresses": Out(data.ArrayLayout(bits, config.rows)),
                "outside": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        bits = address_bits(config)
        second = Signal()  # of a pair: the offset of the first is that of both
        if config.paired_banks:
            with m.If(self.load):
                m.d.sync += second.eq(~second)
        beyond = Signal()  # checked once, as the row is loaded
        m.d.sync += beyond.eq(self.load & ~second & (self.load_offset[bits:] != 0))
        strobes, pixel = Cat(self.pixel_valid, self.switch), self.pixel
        offset = self.load_offset[:bits]
        outside = beyond
        for i in range(config.mesh_rows):
            if i:
                strobes = registered(m, strobes, f"strobes_{i}", reset=True)
                pixel = registered(m, pixel, f"pixel_{i}")
            valid, switch = strobes
            m.d.comb += self.load_tiles[i].eq(self.load & (self.load_tile == i))
            rows = range(i * config.tile_rows, (i + 1) * config.tile_rows)
            if config.paired_banks:
                rows = rows[::PAIR]
            shadow = [Signal(bits, name=f"shadow_{row}", reset_less=True) for row in rows]
            active = [Signal(bits, name=f"active_{row}", reset_less=True) for row in rows]
            with m.If(self.load_tiles[i] & ~second):
                m.d.sync += Cat(*shadow).eq(Cat(*shadow[1:], offset))
            with m.If(switch):
                m.d.sync += Cat(*active).eq(Cat(*shadow))
            wrong = [self._row(m, row, pixel, active[index]) for index, row in enumerate(rows)]
            checked, found = Signal(name=f"checked_{i}"), Signal(name=f"outside_{i}")
            m.d.sync += [checked.eq(valid), found.eq(outside | (checked & Cat(*wrong).any()))]
            outside = found
        m.d.comb += self.outside.eq(outside)
        return m

    def _row(self, m: Module, row: int, pixel, offset: Signal):
        """The address register of one bank or pair; returns whether it points outside the memory."""
        bits = address_bits(self._config)
        total = Signal(bits + 1, name=f"address_{row}", reset_less=True)
        m.d.sync += total.eq(Mux(self.common, self.common_address, pixel + offset))
        of_pair = range(row, row + (PAIR if self._config.paired_banks else 1))
        m.d.comb += [self.addresses[bank].eq(total[:bits]) for bank in of_pair]
        return total >= self._config.activation_depth
