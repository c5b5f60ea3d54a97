"""The chain of bounds of Eyexam (Chen et al., "Eyeriss v2", JETCAS 2019): what of a layer's parallelism is
left behind each limit, in multiply-accumulates a cycle.

Each step is an upper bound of the next:

1. ``layer``: all products at once.
2. ``dataflow``: weight stationary: every weight at once, one output pixel a cycle.
3. ``PEs``: the weights in whole passes over as many PEs as there are.
4. ``array``: in whole passes over rows (inputs of a filter) and columns (filters).
5. ``tiling``: with the passes that the placement of the input in the banks, its copies and the tiles take.
6. ``bandwidth``: with the slowest of streaming, reading weights (a word a cycle) and draining (lanes).
7. ``pipeline``: with everything: the cycle model, or the hardware's counters, which are the same number.

Rows of coefficients that are zero are skipped, so that SmartDeal layers may pass steps 3 and 4. A depthwise
layer on the channel unit has the multipliers of that for its PEs, a column of its kernel for a pass; what of
it runs beside the layer in front takes no time in step 7.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

from popshift.gen.mapping.sections import weight_reads
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Instruction, Opcode, Source
from popshift.hw.numerics import BASIS_SIZE, LANE_CHANNELS
from popshift.hw.post.sums import SUM_PERIOD


@dataclass(frozen=True, slots=True)
class Chain:
    """Bounds in MACs a cycle, in the order of the module's text."""

    layer: float
    dataflow: float
    pes: float
    array: float
    tiling: float
    bandwidth: float
    pipeline: float

    @classmethod
    def of(
        cls,
        instructions: Sequence[Instruction],
        config: AcceleratorConfig,
        *,
        macs: int,
        weights: int,
        passes: int,
        cycles: int,
    ) -> "Chain":
        """Of a section that takes `cycles`.

        Parameters
        ----------
        weights: of the section's filters, real ones only.
        passes: the fewest over the array, if every row could hold any input of a filter.
        """
        matrices = [item for item in instructions if item.opcode is Opcode.MATRIX]
        columns = [item for item in instructions if item.opcode is Opcode.DEPTHWISE]
        binary = any(item["kind"] == isa.Kind.XNOR for item in matrices)
        peak = config.peak_macs_per_cycle * (LANE_CHANNELS if binary else 1)
        streamed = sum(_pixels(item) * item["k_tiles"] * item["n_tiles"] for item in matrices)
        if columns:
            peak = isa.WINDOW * config.rows
            streamed = sum(_pixels(item) * item["ky_count"] for item in columns)
        words = weight_reads(instructions, config)
        slowest = max(streamed, words, sum(_drain(item, config) for item in instructions))
        return cls(
            layer=float(macs),
            dataflow=float(weights),
            pes=weights / -(-weights // peak),
            array=weights / passes,
            tiling=macs / streamed,
            bandwidth=macs / slowest,
            pipeline=macs / max(cycles, slowest if columns else 0),
        )

    @property
    def steps(self) -> dict[str, float]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def largest_loss(self) -> str:
        """The step behind the array's peak at which the largest share is lost."""
        values = list(self.steps.items())[2:]
        losses = {name: before / own for (_, before), (name, own) in itertools.pairwise(values)}
        return max(losses, key=lambda name: losses[name])


STEPS = tuple(field.name for field in fields(Chain))


def _pixels(item: Instruction) -> int:
    return item["x_count"] * item["y_count"]


def _drain(item: Instruction, config: AcceleratorConfig) -> int:
    """Cycles of the post unit for what the instruction takes."""
    if item.opcode not in (Opcode.POST, Opcode.ADD) or item["source"] == Source.FILL:
        return 0
    if item["source"] == Source.CHANNEL:
        return item["chunks"] * _pixels(item) * item["period"]
    if item["source"] == Source.BASIS:
        return item["strips"] * item["chunks"] * item["y_count"] * isa.basis_inputs(item) * BASIS_SIZE
    turns = SUM_PERIOD if item.opcode is Opcode.ADD else 1
    groups = config.groups_of_byte if isa.packs(item, config) else 1
    return item["strips"] * item["chunks"] * _pixels(item) * turns * groups
