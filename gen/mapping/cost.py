"""Closed formulae for the cycles of a layer, fast enough to compare mappings with.

They choose; what a program is said to take comes from the cycle model, `popshift.sim.cycles`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from popshift.hw.config import AcceleratorConfig
from popshift.hw.matrix.feeder import shortest_pass
from popshift.hw.numerics import BASIS_SIZE

START_CYCLES = 12
"""Fetching an instruction and filling the pipelines, roughly."""


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
        tiles: Mapping[tuple[int, int], int],
        row_tiles: int,
        channels: int,
        config: AcceleratorConfig,
        tile_channels: int,
        drain: int = 1,
    ) -> "ConvolutionCost":
        """Cost of pixel tiles, {(pixels streamed, accumulators): how many}, each computed for all `channels`
        output channels.

        `tile_channels`: output channels of a column tile; if they are fewer than the columns, each of them
        has one for every column of Ce. `drain`: cycles of the post unit for a result.
        """
        column_tiles = -(-channels // tile_channels)
        columns = drain if tile_channels == config.cols else BASIS_SIZE
        chunks = tile_channels * columns // config.post_lanes
        last_channels = channels - (column_tiles - 1) * tile_channels
        last_chunks = -(-last_channels // config.post_lanes) * columns
        shortest = shortest_pass(config)  # a pass hides the load of the next weights
        matrix = weights = post = 0
        for (pixels, results), number in tiles.items():
            passes = row_tiles * column_tiles * number
            half = row_tiles * max(pixels, shortest)
            matrix += passes * pixels
            weights += passes * max(0, shortest - pixels)
            full = max(0, results * chunks - half) * (column_tiles - 1)
            post += (full + max(0, results * last_chunks - half)) * number
        smallest, fewest = min(tiles)
        last_drain = min(fewest * last_chunks, row_tiles * max(smallest, shortest))
        starts = sum(tiles.values()) * (config.rows + START_CYCLES)
        return cls(matrix, weights, post, starts + last_drain)


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
    def of(cls, pixels: int, window: int, planes: int, groups: int) -> "PoolCost":
        """Cost of `pixels` windows of `window` taps in each of `planes` planes of `groups` bank groups."""
        windows = pixels * planes
        return cls(windows * window, windows * max(0, groups - window), START_CYCLES + groups)
