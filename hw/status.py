"""What the machine says of a run: its status and its counters."""

from collections.abc import Mapping
from enum import IntEnum


class Status(IntEnum):
    """State of the machine; everything from ILLEGAL_INSTRUCTION on is an error that only a reset leaves."""

    IDLE = 0
    RUNNING = 1
    DONE = 2
    PAUSED = 3
    ILLEGAL_INSTRUCTION = 4
    PROGRAM_ADDRESS = 5
    ACTIVATION_ADDRESS = 6
    WEIGHT_ADDRESS = 7
    PARAMETER_ADDRESS = 8
    ACCUMULATOR_ADDRESS = 9
    NO_PROGRESS = 10
    CYCLE_LIMIT = 11

    @property
    def is_error(self) -> bool:
        return self >= Status.ILLEGAL_INSTRUCTION

    @property
    def meaning(self) -> str:
        return _STATUS_MEANING[self]


_STATUS_MEANING = {
    Status.IDLE: "nothing has been run since the reset",
    Status.RUNNING: "the program is running",
    Status.DONE: "the program reached its end",
    Status.PAUSED: "the program waits at a layer mark",
    Status.ILLEGAL_INSTRUCTION: "the instruction has an unknown opcode or an impossible field",
    Status.PROGRAM_ADDRESS: "the program ran past the end of the program memory",
    Status.ACTIVATION_ADDRESS: "an activation address lies outside the activation memory",
    Status.WEIGHT_ADDRESS: "a weight address lies outside the weight memory",
    Status.PARAMETER_ADDRESS: "a parameter address lies outside the parameter memory",
    Status.ACCUMULATOR_ADDRESS: "more pixels than an accumulator half holds",
    Status.NO_PROGRESS: "no unit did anything for long (an instruction waits for one that never comes)",
    Status.CYCLE_LIMIT: "the run took more cycles than the host allowed",
}

NO_PROGRESS_CYCLES = 1 << 14
"""Cycles without any unit moving after which a run is stopped."""


class Counter(IntEnum):
    """Counters of the last run, in the order the device sends them; 32 bits each.

    Every cycle of a run counts in CYCLES and in exactly one of the causes MATRIX .. CONTROL. MATRIX: a row of
    activations enters the array. When none does, the first that holds: CHANNEL: the channel unit reads a
    word; WEIGHTS: the matrix unit waits for its weight tile; ACCUMULATORS: it waits for the post unit to free
    a half; DRAIN: only the post unit works; CONTROL: the rest (fetch, pipeline filling, barriers).
    """

    CYCLES = 0
    MATRIX = 1
    CHANNEL = 2
    WEIGHTS = 3
    ACCUMULATORS = 4
    DRAIN = 5
    CONTROL = 6
    WEIGHT_WORDS = 7
    """Words read from the weight memory."""
    ACTIVATION_READS = 8
    """Words (one byte per bank) read by the matrix and channel units; not the bytes that an ADD reads."""
    ACTIVATION_WRITES = 9
    """Words written by the post unit."""
    LINK_ERRORS = 10
    """Damaged frames since the last reset, 255 at most."""


COUNTER_BITS = 32
ALWAYS_COUNTED = (Counter.CYCLES, Counter.LINK_ERRORS)
"""What is counted without `performance_counters`; the other counters stay 0 then."""
CYCLE_CAUSES = (
    Counter.MATRIX,
    Counter.CHANNEL,
    Counter.WEIGHTS,
    Counter.ACCUMULATORS,
    Counter.DRAIN,
    Counter.CONTROL,
)


def plain_counters(counters: Mapping[Counter, int], *, by_cause: bool) -> dict[str, int]:
    """The counters that a configuration has, by their names; `by_cause`: its ``performance_counters``."""
    built = counters if by_cause else ALWAYS_COUNTED
    return {counter.name.lower(): counters[counter] for counter in built if counter in counters}
