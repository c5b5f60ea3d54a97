"""The memory planner: where in the activation memory each buffer lives, given when it is needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A buffer of `words` that holds something from step `first` to step `last`, both included."""

    name: str
    words: int
    first: int
    last: int

    def meets(self, other: "Lifetime") -> bool:
        return self.first <= other.last and other.first <= self.last


class DoesNotFitError(Exception):
    """No arrangement was found.

    Attributes
    ----------
    step: where most memory is needed at once.
    peak: the buffers alive there.
    needed: words that the best arrangement found takes.
    """

    def __init__(self, step: int, peak: list[Lifetime], needed: int) -> None:
        self.step, self.peak, self.needed = step, peak, needed
        super().__init__(f"{needed} words needed at step {step}")


# Orders to place buffers in; the first that fits is taken.
_ORDERS: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
    lambda buffer: (-buffer.words, buffer.first),
    lambda buffer: (-buffer.words * (buffer.last - buffer.first + 1), buffer.first),
    lambda buffer: (buffer.first, -buffer.words),
    lambda buffer: (-buffer.last, -buffer.words),
)


def plan(buffers: Sequence[Lifetime], depth: int) -> dict[str, int]:
    """Offset of every buffer so that buffers alive at the same step never overlap: best fit, largest first.

    Raises
    ------
    DoesNotFitError: it takes more than `depth` words.
    """
    needed = []
    for order in _ORDERS:
        offsets = _place(sorted(buffers, key=order))
        needed.append(max((offsets[buffer.name] + buffer.words for buffer in buffers), default=0))
        if needed[-1] <= depth:
            return offsets
    step, peak = peak_step(buffers)
    raise DoesNotFitError(step, peak, min(needed))


def peak_step(buffers: Sequence[Lifetime]) -> tuple[int, list[Lifetime]]:
    """The step at which the most words are alive, and the buffers alive there, largest first."""
    steps = sorted({buffer.first for buffer in buffers})
    alive = {step: [buffer for buffer in buffers if buffer.first <= step <= buffer.last] for step in steps}
    step = max(steps, key=lambda step: sum(buffer.words for buffer in alive[step]))
    return step, sorted(alive[step], key=lambda buffer: -buffer.words)


def _place(buffers: Sequence[Lifetime]) -> dict[str, int]:
    placed: list[tuple[int, Lifetime]] = []
    for buffer in buffers:
        placed.append((_best_gap(buffer, [entry for entry in placed if entry[1].meets(buffer)]), buffer))
    return {buffer.name: offset for offset, buffer in placed}


def _best_gap(buffer: Lifetime, obstacles: list[tuple[int, Lifetime]]) -> int:
    """Start of the smallest gap that takes `buffer`, or of the free space behind everything."""
    free, best = 0, None
    for offset, other in sorted(obstacles, key=lambda entry: entry[0]):
        gap = offset - free
        if gap >= buffer.words and (best is None or gap < best[0]):
            best = gap, free
        free = max(free, offset + other.words)
    return free if best is None else best[1]
