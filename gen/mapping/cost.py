"""Closed formulae for the cycles of a layer, fast enough to compare mappings with.

They choose; what a program is said to take comes from the cycle model, `popshift.sim.cycles`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import LENGTHS, Opcode
from popshift.hw.matrix.feeder import shortest_pass
from popshift.hw.matrix.unit import last_to_full
from popshift.hw.numerics import BASIS_SIZE
from popshift.hw.post.sums import SUM_LATENCY
from popshift.hw.post.unit import longest_flight

START_CYCLES = 12
"""Handing an instruction over and filling the pipelines, roughly."""
_SETTLED = 6
"""Tiles of one size after which each takes as long as the one before."""


@dataclass(frozen=True, slots=True)
class ConvolutionCost:
    """Cycles of a convolution on the matrix unit.

    Attributes
    ----------
    matrix: streaming pixels through the array.
    weights: waiting for weights longer than the pixels last.
    post: that the post unit takes beyond the matrix unit's time.
    overhead: first loads, starts of instructions, and the last drain.
    """

    matrix: int
    weights: int
    post: int
    overhead: int

    @property
    def cycles(self) -> int:
        return self.matrix + self.weights + self.post + self.overhead

    @classmethod
    def of(
        cls,
        tiles: Sequence[tuple[tuple[int, int], int]],
        row_tiles: int,
        channels: int,
        config: AcceleratorConfig,
        tile_channels: int,
        drain: int = 1,
        *,
        in_strips: bool = True,
    ) -> "ConvolutionCost":
        """Cost of pixel tiles, in their order: ((pixels streamed, accumulators), how many like this); each is
        computed for all `channels` output channels.

        `tile_channels`: output channels of a column tile; if they are fewer than the columns, each of them
        has one for every column of Ce. `drain`: cycles of the post unit for a result. `in_strips`:
        one POST drains all tiles alike.
        """
        column_tiles = -(-channels // tile_channels)
        columns = drain if tile_channels == config.cols else BASIS_SIZE
        chunks = tile_channels * columns // config.post_lanes
        last_channels = channels - (column_tiles - 1) * tile_channels
        last_chunks = -(-last_channels // config.post_lanes) * columns
        shortest = shortest_pass(config)  # a pass hides the load of the next weights
        halves = _Halves(config, drain)
        matrix = weights = 0
        for (pixels, results), number in tiles:
            passed = max(pixels, shortest)
            matrix += row_tiles * column_tiles * number * pixels
            weights += row_tiles * column_tiles * number * (passed - pixels)
            restart = max(0, config.rows + START_CYCLES - passed)
            drains = [results * chunks] * (column_tiles - 1) + [results * last_chunks]
            halves.add(row_tiles * passed, restart, drains, number, in_strips=in_strips)
        overhead = config.rows + START_CYCLES + halves.released - halves.streamed
        return cls(matrix, weights, halves.streamed - matrix - weights, overhead)


class _Halves:
    """Accumulator halves that are filled and drained in turn, in a short form of the cycle model.

    Attributes
    ----------
    streamed, released: cycles until the last half so far has been streamed, and drained.
    """

    def __init__(self, config: AcceleratorConfig, drain: int) -> None:
        opcode, more = (Opcode.POST, 0) if drain == 1 else (Opcode.ADD, SUM_LATENCY)
        self._restart = longest_flight(config) + more + LENGTHS[opcode] + START_CYCLES
        self._to_full = last_to_full(config)
        self._in_turn = longest_flight(config) if config.paired_banks else 0
        self.streamed = self.released = self._before = self._post = 0

    def add(self, stream: int, restart: int, drains: Sequence[int], number: int, *, in_strips: bool) -> None:
        """`number` pixel tiles: every half is streamed in `stream` cycles, drained in one of `drains`; a
        tile's first pass comes `restart` cycles later.
        """
        simulated = min(number, _SETTLED)
        for _ in range(simulated):
            last = self.released
            self.streamed += restart
            for drain in drains:
                free = self.released + self._in_turn if self._in_turn else self._before
                self.streamed = max(self.streamed, free) + stream
                self._before = self.released
                self.released = max(self.streamed + self._to_full, self._post) + drain
                self._post = self.released
            self._post += 0 if in_strips else self._restart
        more = (number - simulated) * (self.released - last)
        self.streamed += more
        self.released += more
        self._before += more
        self._post += more + (self._restart if in_strips else 0)


@dataclass(frozen=True, slots=True)
class PoolCost:
    """Cycles of a pooling: `channel` for reading, `post` for what the post unit takes beyond that."""

    channel: int
    post: int
    overhead: int

    @property
    def cycles(self) -> int:
        return self.channel + self.post + self.overhead

    @classmethod
    def of(cls, pixels: int, window: int, planes: int, groups: int, *, shared: bool = False) -> "PoolCost":
        """Cost of `pixels` windows of `window` taps in each of `planes` planes of `groups` bank groups;
        `shared`: results take turns with taps at the memory.
        """
        windows = pixels * planes
        post = groups if shared else max(0, groups - window)
        return cls(windows * window, windows * post, START_CYCLES + groups)
