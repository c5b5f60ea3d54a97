"""The pipelined mesh of combinational tiles: weight-stationary, in the manner of Gemmini's (Genc et al., DAC
2021).
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw.config import AcceleratorConfig
from popshift.hw.matrix.pe import COLUMNS, pe_word
from popshift.hw.matrix.pe.product import either, sum_registered
from popshift.hw.matrix.windows import window_columns, window_members
from popshift.hw.pipeline import registered
from popshift.hw.tech.portable import Portable


def tile_name(row: object, col: object) -> str:
    """Of a tile's submodule, by its place among the tiles."""
    return f"tile_{row}_{col}"


def tree_latency(tile_rows: int) -> int:
    """Registered levels of the adder tree over one column of a tile."""
    return (tile_rows - 1).bit_length()


def mesh_latency(config: AcceleratorConfig) -> int:
    """Cycles from an activation at row tile 0 to the sum at the bottom of column tile 0."""
    chain = config.mesh_rows if config.mesh_rows > 1 else 0  # a single row of tiles has nothing to add up
    return config.multiplier_stages + tree_latency(config.tile_rows) + chain


class Mesh(wiring.Component):
    """`rows` x `cols` PEs in tiles of `tile_rows` x `tile_cols`.

    Everything is one wavefront: what enters row tile i must come i cycles after row tile 0; column tile j
    answers j cycles after column tile 0. Inside, activations and control move right and partial sums down, a
    register per tile. Weights go to all row tiles at once: those of a lower one may come after the pass that
    uses them has begun above.

    Members
    -------
    activations: one byte per row, skewed by row tile.
    switch: skewed by row tile: from this cycle on the activations meet the weights loaded before.
    load: the row tile takes the weight row on `weights` (its first row first).
    weights: one row of `pe_word`, as column tile 0 sees it (the mesh skews it further).
    taps, chosen: with ``window_depth``: see `popshift.hw.matrix.windows.Windows`.
    sums: one per column, skewed by column tile; `mesh_latency` cycles behind the activations of row tile 0.
    """

    def __init__(self, *, config: AcceleratorConfig, technology: Portable) -> None:
        self._config, self._technology = config, technology
        super().__init__(
            {
                "activations": In(data.ArrayLayout(signed(8), config.rows)),
                "switch": In(config.mesh_rows),
                "load": In(config.mesh_rows),
                "weights": In(data.ArrayLayout(pe_word(config), config.cols)),
                "sums": Out(data.ArrayLayout(signed(config.psum_bits), config.cols)),
                **(window_members(config) if config.window_depth else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        weights = self._skewed_weights(m)
        sums: list[list[Value | None]] = [[None] * config.tile_cols for _ in range(config.mesh_cols)]
        for i in range(config.mesh_rows):
            rows = range(i * config.tile_rows, (i + 1) * config.tile_rows)
            activations = [self.activations[row] for row in rows]
            switch, load = self.switch[i], self.load[i]
            for j in range(config.mesh_cols):
                tile = Module()
                m.submodules[tile_name(i, j)] = tile
                for c in range(config.tile_cols):
                    sums[j][c] = tile_column(
                        tile,
                        config,
                        self._technology,
                        activations=self._seen(tile, activations, i, j, c),
                        weight=weights[j][c],
                        switch=switch,
                        load=load,
                        above=sums[j][c],
                        bits=_sum_bits(config, i),
                        name=f"r{i}_c{j}_{c}",
                    )
                if j + 1 < config.mesh_cols:
                    activations = [
                        registered(tile, value, f"activation_{r}") for r, value in enumerate(activations)
                    ]
                    switch, load = registered(tile, switch, "switch"), registered(tile, load, "load")
        for j, column in enumerate(sums):
            for c, value in enumerate(column):
                m.d.comb += self.sums[j * config.tile_cols + c].eq(value)
        return m

    def _seen(self, tile: Module, activations: list[Signal], i: int, j: int, c: int) -> list[Signal]:
        """What the rows of column c of tile (i, j) multiply."""
        config = self._config
        column, first = j * config.tile_cols + c, i * config.tile_rows
        if not config.window_depth or column >= window_columns(config):
            return activations
        seen = [*activations]
        for r, tap in enumerate(list(self.taps[column])[first : first + config.tile_rows]):
            seen[r] = Signal.like(activations[r], name=f"seen_{c}_{r}")
            tile.d.comb += seen[r].eq(Mux(self.chosen[i][j], tap, activations[r]))
        return seen

    def _skewed_weights(self, m: Module) -> list[list[Signal]]:
        """The weights of each column tile, delayed by its distance from the left edge."""
        config = self._config
        tiles = []
        for j in range(config.mesh_cols):
            values = [self.weights[j * config.tile_cols + c].as_value() for c in range(config.tile_cols)]
            for step in range(j):
                values = [
                    registered(m, value, f"weight_right_{j}_{c}_{step}") for c, value in enumerate(values)
                ]
            tiles.append(values)
        return tiles


def _sum_bits(config: AcceleratorConfig, row_tile: int) -> int:
    """Of the sums below a row tile: what is above it is all that can be in them."""
    return (
        config.psum_bits
        - (config.rows - 1).bit_length()
        + ((row_tile + 1) * config.tile_rows - 1).bit_length()
    )


def tile_column(
    m: Module,
    config: AcceleratorConfig,
    technology: Portable,
    *,
    activations: list[Signal],
    weight: Value,
    switch: Value,
    load: Value,
    above: Value | None,
    bits: int,
    name: str,
) -> Value:
    """One column of a tile: two weight registers per row, products, adder tree, sum from above.

    Parameters
    ----------
    weight: a `pe_word`, as bits.
    above: the sum over the tiles above; None in the first row of tiles.
    bits: of the result. It has a register behind the sum with `above`, but none if there is a single row of
        tiles.
    """
    word, rows = pe_word(config), config.tile_rows
    shadow = [Signal(word.size, name=f"shadow_{name}_{r}", reset_less=True) for r in range(rows)]
    active = [Signal(word.size, name=f"active_{name}_{r}", reset_less=True) for r in range(rows)]
    with m.If(load):  # rows move up as later ones enter at the bottom: the first row loaded ends on top
        m.d.sync += Cat(*shadow).eq(Cat(*shadow[1:], weight))
    with m.If(switch):
        m.d.sync += Cat(*active).eq(Cat(*shadow))
    chained = config.mesh_rows > 1
    # Each addition behind the products takes a carry: there is one for every row, or one less without the
    # chain, where the first product has to do without.
    kinds = [
        COLUMNS[kind].products(
            m,
            technology,
            activations,
            [data.View(word, register)[kind] for register in active],
            stages=config.multiplier_stages,
            whole=0 if chained else 1,
        )
        for kind in config.pe_kinds
    ]
    level = [either(products) for products in zip(*kinds, strict=True)]
    depth = 0
    while len(level) > 1:
        depth += 1
        level = [
            sum_registered(m, technology, level[index : index + 2], f"tree_{name}_{depth}_{index // 2}")
            for index in range(0, len(level), 2)
        ]
    (last,) = level
    if not chained:
        assert not last.carries
        return last.low
    total = Signal(signed(bits), name=f"psum_{name}", reset_less=True)
    if above is None and not last.carries:
        m.d.sync += total.eq(last.chosen)
    else:
        above = Const(0, signed(1)) if above is None else above
        m.d.sync += total.eq(last.added(m, technology, above, *last.carries, bits=bits))
    return total
