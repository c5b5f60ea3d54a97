"""What a layer's cycles go into: from its instructions, and the time the cycle model gives it."""

from collections.abc import Sequence
from dataclasses import dataclass

from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Instruction, Opcode, unit_of
from popshift.hw.matrix.feeder import shortest_pass

_FULL = 0.95
"""Share of rows and columns in use from which on it is not worth a word."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The predicted cycles of a layer by cause; they add up to the whole.

    Attributes
    ----------
    matrix: a row of activations enters the array (counter MATRIX).
    channel: the channel unit reads a word (counter CHANNEL).
    weights: the array waits for weights: the first tile of an instruction, and passes shorter than a load.
    post: the rest: the post unit works alone or keeps others waiting, and pipelines fill.
    shortest_pass: pixels of the shortest pass; 0 without a matrix instruction.
    """

    matrix: int
    channel: int
    weights: int
    post: int
    shortest_pass: int

    @classmethod
    def of(cls, instructions: Sequence[Instruction], cycles: int, config: AcceleratorConfig) -> "Breakdown":
        """Of a section that takes `cycles`."""
        load = shortest_pass(config)
        matrix = channel = weights = 0
        passes: list[int] = []
        for item in instructions:
            if item.opcode is Opcode.MATRIX:
                number, pixels = item["k_tiles"] * item["n_tiles"], item["x_count"] * item["y_count"]
                matrix += number * pixels
                weights += load + (number - 1) * max(0, load - pixels)
                passes.append(pixels)
            elif unit_of(item.opcode) is Opcode.CHANNEL:
                windows = item["x_count"] * item["y_count"] * item["planes"]
                channel += windows * item["kx_count"] * item["ky_count"]
        # Some of it may be done beside the layer in front, or hidden behind the post unit.
        matrix = min(matrix, cycles)
        channel = min(channel, cycles - matrix)
        weights = min(weights, cycles - matrix - channel)
        return cls(matrix, channel, weights, cycles - matrix - channel - weights, min(passes, default=0))

    def to_dict(self) -> dict[str, int]:
        """Cycles by cause."""
        return {name: getattr(self, name) for name in ("matrix", "channel", "weights", "post")}

    def words(self, config: AcceleratorConfig, row_fill: float, column_fill: float) -> str:
        """The largest cause in words; `row_fill` and `column_fill`: share of the array in use, 0 .. 1."""
        parts = self.to_dict()
        cause = max(parts, key=lambda name: parts[name])
        if cause == "matrix":
            empty = [
                f"{name} {100 * fill:.0f} % filled"
                for name, fill in (("rows", row_fill), ("columns", column_fill))
                if fill < _FULL
            ]
            return ", ".join(["multiply-accumulates", *empty])
        if cause == "channel":
            return "channel unit: one word a cycle"
        if cause == "weights":
            return (
                f"loading weights: {shortest_pass(config)} cycles a tile, "
                f"the shortest pass lasts {self.shortest_pass}"
            )
        return "post unit and pipeline filling"
