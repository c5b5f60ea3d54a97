"""Weight feeder: reads the weight memory and expands what it stores into one row of weights per cycle."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import isa
from popshift.hw.config import ADDRESS_BITS, BINARY_OFFSET_BITS, OFFSET_BITS, AcceleratorConfig
from popshift.hw.control.loops import Loop
from popshift.hw.isa import Kind
from popshift.hw.matrix import rebuild
from popshift.hw.matrix.accumulators import Accumulators
from popshift.hw.matrix.pe import pe_word
from popshift.hw.matrix.pe.shift import decoded
from popshift.hw.matrix.rebuild import Rebuild
from popshift.hw.memory.ram import Ram
from popshift.hw.numerics import CODE_BITS, LANE_CHANNELS, WEIGHT_BITS
from popshift.hw.pipeline import delayed
from popshift.hw.tech.portable import Portable

MESH_BEHIND_GATHER = 3
"""Cycles by which weights may follow their row's offset: the activations take so long from their address."""


def weights_latency(config: AcceleratorConfig) -> int:
    """Cycles from a word's offset to its weights."""
    return rebuild.LATENCY if config.rebuild else 0


def issue_to_ready(config: AcceleratorConfig) -> int:
    """Cycles from the read of a tile's last row until the pass that uses it may be started; -1: in the cycle
    before.

    Two for the offsets to arrive, more if the weights come later; but every row tile works a cycle later than
    the one above, and their rows are loaded last. Not so soon that passes of few rows would follow each other
    faster than the accumulators can add to the same pixel, nor before it is known whether a tile is replayed.
    """
    arrival = max(MESH_BEHIND_GATHER, weights_latency(config)) - 1
    for_accumulators = Accumulators.REVISIT - 1 - config.rows
    return max(-1, arrival - (config.mesh_rows - 1), for_accumulators, 1 if config.rebuild else -1)


def load_cycles(config: AcceleratorConfig, *, slice_begins: bool = False) -> int:
    """Cycles for reading a tile, with the bases in front of it if a slice begins."""
    return config.rows + (isa.BASIS_WORDS if slice_begins else 0)


def shortest_pass(config: AcceleratorConfig, *, slice_begins: bool = False) -> int:
    """Cycles from pass to pass when the weights of the second have to be loaded meanwhile."""
    return load_cycles(config, slice_begins=slice_begins) + 1 + issue_to_ready(config)


def weight_word(config: AcceleratorConfig) -> data.StructLayout:
    """One word of the weight memory: the row's address offset, then what `isa.Kind` says.

    Of a row of coefficients, the upper two bits of the offset are the column of the basis; of binary weights,
    the highest says that the row is off.
    """
    return data.StructLayout({"offset": ADDRESS_BITS, "payload": config.weight_payload_bits})


class WeightFeeder(wiring.Component):
    """Loads a tile in `load_cycles` without a pause, as soon as the one before it has become active.

    Dense int8: one word of the weight memory is one row of the array. SmartDeal coefficients: a word is
    rebuilt into a row of weights; a tile that serves several passes is read once and kept.

    Members
    -------
    start, base: begin a sequence of weight tiles at word `base`. kind, k_tiles, slice_tiles, replays: the
        instruction's, raw.
    more: another tile is wanted.
    switched: the tile loaded last has become active: the next may be loaded.
    ready: the next tile is loaded and waits for `switched`. again: it is the one before, replayed.
    read_address, read_data: of the weight memory. reading: it is read in this cycle. outside: the address is
        beyond the memory.
    load, load_tile, load_offset: a row arrives for this row tile.
    weights: its weights, `weights_latency` cycles later.
    """

    def __init__(self, *, config: AcceleratorConfig, technology: Portable) -> None:
        self._config, self._technology = config, technology
        fields = {
            name: In(isa.PLACEMENTS[isa.Opcode.MATRIX][name].field.bits)
            for name in ("kind", "k_tiles", "slice_tiles", "replays")
        }
        super().__init__(
            {
                "start": In(1),
                "base": In(isa.heeded_bits("weight_base", config)),
                **fields,
                "more": In(1),
                "switched": In(1),
                "ready": Out(1),
                "again": Out(1),
                "read_address": Out((config.weight_depth - 1).bit_length()),
                "read_data": In(weight_word(config)),
                "reading": Out(1),
                "outside": Out(1),
                "load": Out(1),
                "load_tile": Out(range(max(2, config.mesh_rows))),
                "load_offset": Out(ADDRESS_BITS),
                "weights": Out(data.ArrayLayout(pe_word(config), config.cols)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        address = Signal(len(self.base), reset_less=True)
        row, tile = Signal(range(max(2, config.tile_rows))), Signal(range(max(2, config.mesh_rows)))
        loading, free, full, finish = Signal(), Signal(), Signal(), Signal()
        basis, replaying, turn = self._slices(m, loading, finish)

        m.d.comb += loading.eq(free & self.more)
        with m.If(loading & ~replaying):
            m.d.sync += address.eq(address + 1)
        with m.If(loading & ~basis):
            m.d.sync += row.eq(row + 1)
            with m.If(row == config.tile_rows - 1):
                m.d.sync += [row.eq(0), tile.eq(tile + 1)]
                with m.If(tile == config.mesh_rows - 1):
                    m.d.sync += [tile.eq(0), free.eq(0)]
                    m.d.comb += finish.eq(1)
        with m.If(self._almost_loaded(m, loading & ~basis, row, tile, finish)):
            m.d.sync += full.eq(1)
        with m.If(self.switched):
            m.d.sync += [free.eq(1), full.eq(0)]
        with m.If(self.start):
            m.d.sync += [address.eq(self.base), free.eq(1), full.eq(0)]
        m.d.comb += [
            self.ready.eq(full & ~self.switched),
            self.reading.eq(loading & ~replaying),
            self.read_address.eq(address),
            self.outside.eq(self.reading & (address >= config.weight_depth)),
            self.load.eq(delayed(m, loading & ~basis, Ram.LATENCY, "load", reset=True)),
            self.load_tile.eq(delayed(m, tile, Ram.LATENCY, "load_tile")),
        ]
        if config.rebuild:
            reading = delayed(m, loading & basis, Ram.LATENCY, "basis", reset=True)
            replaying = delayed(m, replaying, Ram.LATENCY, "replaying")
            self._rebuild(m, loading & ~basis, reading, replaying, delayed(m, turn, Ram.LATENCY, "turn"))
        else:
            m.d.comb += self.load_offset.eq(self.read_data.offset[: config.offset_bits])
            if "mul" in config.pe_kinds:
                is_dense = (self.kind == Kind.DENSE).replicate(WEIGHT_BITS)
                m.d.comb += [
                    word.mul.eq(self.read_data.payload.word_select(column, WEIGHT_BITS) & is_dense)
                    for column, word in enumerate(self.weights)
                ]
            self._coefficients(m, self.read_data.payload)
            self._binary(m, self.read_data)
        return m

    def _almost_loaded(self, m: Module, reading, row: Signal, tile: Signal, finish: Signal):
        """The cycle before the one in which a tile is `ready`."""
        config, behind = self._config, issue_to_ready(self._config) - 1
        if behind >= 0:
            return delayed(m, finish, behind, "finished", reset=True)
        last_tile, last_row = divmod(config.rows - 1 + behind, config.tile_rows)
        return reading & (row == last_row) & (tile == last_tile)

    def _slices(self, m: Module, loading: Signal, finish: Signal) -> tuple[Signal, Signal, Signal]:
        """Where in a slice it is: bases are to be read; a tile is replayed, for the how manieth time."""
        basis, replaying, turn = Signal(), Signal(), Signal(2)
        if not self._config.rebuild:
            return basis, replaying, turn
        rebuilds = Signal()
        k, words = Loop(m, self.k_tiles, "k"), Loop(m, Const(isa.BASIS_WORDS - 1, 3), "basis_word")
        tiles, replays = Loop(m, self.slice_tiles, "slice_tile"), Loop(m, self.replays, "replay")
        with m.If(loading & basis):
            words.advance()
            with m.If(words.last):
                m.d.sync += basis.eq(0)
        with m.If(finish):
            replay = rebuilds & ~replays.last & ~k.last
            # `again` is heeded when the pass starts, before another tile can be loaded.
            m.d.sync += [self.again.eq(replaying), replaying.eq(replay), turn.eq(Mux(replay, turn + 1, 0))]
            m.d.sync += basis.eq(rebuilds & (k.last | (replays.last & tiles.last)))
            k.advance()
            replays.advance()
            with m.If(replays.last):
                tiles.advance()
            with m.If(k.last):
                tiles.restart()
                replays.restart()
        with m.If(self.start):
            m.d.sync += [replaying.eq(0), turn.eq(0)]
            m.d.sync += [signal.eq(self.kind == Kind.REBUILD) for signal in (basis, rebuilds)]
            for loop in (k, words, tiles, replays):
                loop.restart()
        return basis, replaying, turn

    def _rebuild(self, m: Module, loading: Signal, basis: Signal, replaying: Signal, turn: Signal) -> None:
        """Weights from coefficients that have just been read, or from those kept of the tile before."""
        config = self._config
        m.submodules.kept = kept = self._technology.ram(
            width=weight_word(config).size, depth=max(2, config.rows)
        )
        m.submodules.rebuild = engine = Rebuild(config=config)
        row = Signal(kept.address_bits)
        with m.If(loading):
            m.d.sync += row.eq(Mux(row == config.rows - 1, 0, row + 1))
        word = Signal(weight_word(config))
        m.d.comb += [
            kept.read_address.eq(row),
            kept.write_enable.eq(self.load & ~replaying),
            kept.write_address.eq(delayed(m, row, Ram.LATENCY, "kept_row")),
            kept.write_data.eq(self.read_data),
            word.eq(Mux(replaying, kept.read_data, self.read_data.as_value())),
            self.load_offset.eq(word.offset[:OFFSET_BITS]),
            engine.payload.eq(word.payload),
            engine.kind.eq(self.kind),
            engine.column.eq(word.offset[OFFSET_BITS:] + turn),
            engine.basis.eq(basis),
        ]
        m.d.comb += [pe.mul.eq(weight) for pe, weight in zip(self.weights, engine.weights, strict=True)]
        self._coefficients(m, word.payload)
        self._binary(m, word)

    def _coefficients(self, m: Module, payload) -> None:
        """What the ``shift`` PEs store of a word of `Kind.SHIFT`; of any other, zero."""
        config = self._config
        if "shift" not in config.pe_kinds:
            return
        here = (self.kind == Kind.SHIFT).replicate(CODE_BITS)
        for column, pe in enumerate(self.weights):
            code = decoded(payload.word_select(column, CODE_BITS) & here)
            code = delayed(m, code, weights_latency(config), f"code_{column}", shape=unsigned(len(code)))
            m.d.comb += pe.shift.eq(code)

    def _binary(self, m: Module, word) -> None:
        """What the ``xnor`` PEs store of a word of `Kind.XNOR`; with any other, and in rows that are off,
        they add nothing.
        """
        if "xnor" not in self._config.pe_kinds:
            return
        on = (self.kind == Kind.XNOR) & ~word.offset[BINARY_OFFSET_BITS]
        for column, pe in enumerate(self.weights):
            lane = Cat(word.payload.word_select(column, LANE_CHANNELS), on)
            shape = unsigned(len(lane))
            lane = delayed(m, lane, weights_latency(self._config), f"lane_{column}", shape=shape)
            m.d.comb += pe.xnor.eq(lane)
