"""Weight feeder: reads the weight memory and expands what it stores into one row of weights per cycle."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import isa
from popshift.hw.config import ADDRESS_BITS, AcceleratorConfig
from popshift.hw.memory.ram import Ram


def issue_to_ready(config: AcceleratorConfig) -> int:
    """Cycles from the read of a tile's last row until the pass that uses it may be started.

    Two for the offsets to arrive; passes of an array with a single row would then follow each other faster
    than the accumulators can add to the same pixel, so there it is three.
    """
    return 3 if config.rows == 1 else 2


def shortest_pass(config: AcceleratorConfig) -> int:
    """Cycles from pass to pass when the next weights have to be loaded meanwhile."""
    return config.rows + 1 + issue_to_ready(config)


class WeightFeeder(wiring.Component):
    """Dense int8: one word of the weight memory is one row of the array, so nothing is expanded.

    A tile is loaded in `rows` cycles without a pause, as soon as the one before it has become active.

    Members
    -------
    start, base, tiles: begin a sequence of weight tiles at word `base` (`tiles` is not kept: raise `more`
        while there are some left).
    more: another tile is wanted.
    switched: the tile loaded last has become active: the next may be loaded.
    ready: the next tile is loaded and waits for `switched`.
    read_address: of the weight memory. reading: it is read in this cycle. outside: the address is beyond the
        memory.
    load, load_tile: a row arrives (with the memory's data) for this row tile.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "base": In(isa.heeded_bits("weight_base", config)),
                "more": In(1),
                "switched": In(1),
                "ready": Out(1),
                "read_address": Out((config.weight_depth - 1).bit_length()),
                "reading": Out(1),
                "outside": Out(1),
                "load": Out(1),
                "load_tile": Out(range(max(2, config.mesh_rows))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        address = Signal(len(self.base), reset_less=True)
        row = Signal(range(max(2, config.tile_rows)))
        tile = Signal(range(max(2, config.mesh_rows)))
        loading, free, full = Signal(), Signal(), Signal()

        with m.If(self.start):
            m.d.sync += [address.eq(self.base), free.eq(1), full.eq(0)]
        with m.If(self.switched):
            m.d.sync += [free.eq(1), full.eq(0)]
        m.d.comb += loading.eq(free & self.more)
        finish = Signal()
        with m.If(loading):
            m.d.sync += [address.eq(address + 1), row.eq(row + 1)]
            with m.If(row == config.tile_rows - 1):
                m.d.sync += [row.eq(0), tile.eq(tile + 1)]
                with m.If(tile == config.mesh_rows - 1):
                    m.d.sync += [tile.eq(0), free.eq(0)]
                    m.d.comb += finish.eq(1)
        for step in range(issue_to_ready(config) - 1):
            finished = Signal(name=f"finished_{step}")
            m.d.sync += finished.eq(finish)
            finish = finished
        with m.If(finish):
            m.d.sync += full.eq(1)
        m.d.comb += [
            self.ready.eq(full & ~self.switched),
            self.reading.eq(loading),
            self.read_address.eq(address),
            self.outside.eq(loading & (address >= config.weight_depth)),
        ]
        load, where = loading, tile
        for step in range(Ram.LATENCY):
            next_load, next_where = Signal(name=f"load_{step}"), Signal.like(tile, name=f"load_tile_{step}")
            m.d.sync += [next_load.eq(load), next_where.eq(where)]
            load, where = next_load, next_where
        m.d.comb += [self.load.eq(load), self.load_tile.eq(where)]
        return m


def weight_word(config: AcceleratorConfig) -> data.StructLayout:
    """One word of the weight memory: the row's address offset, then one weight per column."""
    return data.StructLayout({"offset": ADDRESS_BITS, "weights": data.ArrayLayout(8, config.cols)})
