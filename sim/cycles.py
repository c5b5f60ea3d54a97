"""Cycle model: how long a program takes, from its instructions and the latencies the hardware declares.

Each unit's control is deterministic, so the model follows the events that matter (an instruction is handed
over, a pass starts, an accumulator half is full or free, a window is finished) and counts everything in
between in closed form.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from popshift.firmware_py.program import Program, Segment
from popshift.firmware_py.weight_words import tiles_and_slices
from popshift.hw import core, isa
from popshift.hw.channel import unit as channel_unit
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control import registers, sequencer
from popshift.hw.isa import (
    LENGTHS,
    After,
    Instruction,
    Opcode,
    Source,
    basis_inputs,
    groups_per_half,
    last_pass_waits,
    packs,
    unit_of,
)
from popshift.hw.matrix import feeder
from popshift.hw.matrix.control import PASS_TO_IDLE
from popshift.hw.matrix.unit import last_to_full
from popshift.hw.numerics import BASIS_SIZE
from popshift.hw.post.control import RELEASE_LATENCY
from popshift.hw.post.sums import SUM_LATENCY, SUM_PERIOD
from popshift.hw.post.unit import WRITE_TO_READ, issue_to_write, longest_flight

_HAND_OVER = sequencer.HAND_OVER_CYCLES + registers.START_CYCLES
"""Cycles from the sequencer's last state of an instruction until the unit starts."""
_DONE_TO_START = core.IDLE_LATENCY + 1
"""Cycles from the last unit's idleness until a MATRIX that waits for it starts its first pass."""


@dataclass
class _Job:
    """An instruction in a unit: when the unit started it, and when the unit is idle again; what the other
    units were told in front of it, and how many halves are filled by then. Of a POST also when all but its
    last strip is written, and what delivers the windows that it takes; of that when each one ends.
    """

    start: int
    item: Instruction
    others: list["_Job"]
    halves: int
    idle: int | None = None
    strips: int | None = None
    front: "_Job | None" = None
    ends: Sequence[int] = ()


@dataclass
class _Halves:
    """The accumulator halves in the order they are filled: cycle of the full and of the release strobe."""

    full: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)


class StuckError(Exception):
    """The program waits for something that never comes: the hardware would stop with NO_PROGRESS."""


def predict(
    instructions: Sequence[Instruction], config: AcceleratorConfig, *, paused: bool = False
) -> list[int]:
    """Cycles of each section of a program; a section ends with MARK or END. Their sum is what counter CYCLES
    shows.

    Parameters
    ----------
    paused: every MARK is a barrier, as in a run that stops there.

    Raises
    ------
    StuckError: an instruction waits for another that never comes.
    """
    return list(_Model(config).sections(instructions, paused=paused))


def predicted_cycles(program: Program) -> int:
    """What `Execution.counters` will say: of one segment from start to done, of several the sum over the
    layers.
    """
    if len(program.segments) > 1:
        return sum(layer.predicted_cycles for layer in program.layers)
    (segment,) = program.segments
    return sum(predict(instructions_of(segment), program.config))


def instructions_of(segment: Segment) -> list[Instruction]:
    """Its program, decoded."""
    words, items, place = [int(word) for word in segment.instructions], [], 0
    while place < len(words):
        item = isa.decode(words, place)
        assert isinstance(item, Instruction), f"the compiler wrote an instruction that is {item.name}"
        items.append(item)
        place += isa.LENGTHS[item.opcode]
    return items


class _Model:
    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self._halves = _Halves()
        self._told = 0
        """Halves that the instructions handed over so far fill."""
        self._streamed = 0
        """The cycle in which the matrix unit issues the last pixel of all passes so far."""
        self._jobs: dict[Opcode, _Job] = {}
        self._work: dict[Opcode, Iterator[bool]] = {}

    def sections(self, instructions: Sequence[Instruction], *, paused: bool) -> Iterator[int]:
        start = now = 0  # `now`: the cycle in which the first word's address is out
        for item in instructions:
            decoded = now + sequencer.FETCH_CYCLES
            if item.opcode in (Opcode.MARK, Opcode.END):
                if item.opcode is Opcode.MARK and item["soft"] and not paused:
                    last = decoded + sequencer.SOFT_CYCLES
                else:
                    last = max(decoded + sequencer.BARRIER_CYCLES, self._all_idle() + core.IDLE_LATENCY)
                yield last + 1 - start
                start = now = last + 1
                continue
            unit = unit_of(item.opcode)
            idle = self._idle(unit) + core.IDLE_LATENCY
            if idle > decoded:  # fetched again
                decoded = max(idle, decoded + 1) + 1 + sequencer.FETCH_CYCLES
            now = decoded + LENGTHS[item.opcode]
            others = [job for other, job in self._jobs.items() if other is not unit]
            self._jobs[unit] = job = _Job(now + _HAND_OVER, item, others, self._told)
            self._told += item["n_tiles"] if unit is Opcode.MATRIX else 0
            run = {Opcode.MATRIX: self._matrix, Opcode.POST: self._post, Opcode.CHANNEL: self._channel}
            self._work[unit] = run[unit](job)

    def _advance(self) -> None:
        """Let every unit go on as far as what is known allows."""
        moved = True
        while moved:
            moved = sum(next(work, False) for work in self._work.values()) > 0  # every unit, so no `any`

    def _idle(self, unit: Opcode) -> int:
        job = self._jobs.get(unit)
        if job is None:
            return 0
        if job.idle is None:
            self._advance()
        if job.idle is None:
            raise StuckError(f"{unit.name} waits for an instruction that never comes")
        return job.idle

    def _all_idle(self) -> int:
        times = [self._idle(unit) for unit in self._jobs]
        if len(self._halves.released) < len(self._halves.full):
            raise StuckError("accumulators are filled that no POST drains")
        return max([0, *times, *(time + 1 for time in self._halves.released[-2:])])

    # Each unit is a generator: it yields True when it got further and False when it has to wait for another
    # unit.

    def _matrix(self, job: _Job) -> Iterator[bool]:
        config, item, halves = self._config, job.item, self._halves
        pixels = item["x_count"] * item["y_count"]
        _, slices = tiles_and_slices(item)
        plain = max(pixels, feeder.shortest_pass(config))
        with_bases = max(pixels, feeder.shortest_pass(config, slice_begins=True))
        next_half = with_bases if slices else plain
        later = max(0, slices - 1)  # slices that begin within a half
        rest_of_half = later * with_bases + (item["k_tiles"] - 1 - later) * plain
        may_start = job.start + feeder.load_cycles(config, slice_begins=slices > 0)
        may_start = max(may_start + feeder.issue_to_ready(config), self._streamed)
        while (done := self._done(job)) is None:
            yield False
        of_last_pass = last_pass_waits(item, config)
        may_start = may_start if of_last_pass else max(may_start, done)
        start = may_start
        for number in range(item["n_tiles"]):
            while (free := self._free(job)) is None:
                yield False
            start = max(may_start, free) + rest_of_half
            if of_last_pass and not number:
                start = max(start, done)
            may_start = start + next_half
            halves.full.append(start + pixels + last_to_full(config))
            self._streamed = start + pixels
            yield True
        job.idle = start + PASS_TO_IDLE
        yield True

    def _free(self, job: _Job) -> int | None:
        """From when on a MATRIX may fill the next half; None: not known yet."""
        filled, released = len(self._halves.full), self._halves.released
        if not self._config.paired_banks:
            if len(released) < filled - 1:
                return None
            return released[filled - 2] + 1 if filled > 1 else 0
        # All is drained and written, and nothing else is: of FILLs and windows, the mapper has all in front.
        alone = (Source.FILL, Source.CHANNEL)
        writers = [other.idle for other in job.others if other.item.fields.get("source") in alone]
        known = [time for time in writers if time is not None]
        if len(released) < filled or len(known) < len(writers):
            return None
        behind = longest_flight(self._config) + 2 - RELEASE_LATENCY
        return max([0, *known, *(time + behind for time in released[-1:])])

    def _done(self, job: _Job) -> int | None:
        """From when on a MATRIX need not wait for the other units (`After`); None: not known yet."""
        times: list[int | None] = []
        match job.item["after"]:
            case After.NOTHING:
                return 0
            case _ if last_pass_waits(job.item, self._config):
                times = [other.idle for other in job.others]
            case After.ALL:
                released = self._halves.released
                times = [other.idle for other in job.others]
                times += [None] if len(released) < job.halves else [time + 1 for time in released[-1:]]
            case _:
                times = [
                    other.idle if unit_of(other.item.opcode) is Opcode.CHANNEL else other.strips
                    for other in job.others
                ]
        known = [time for time in times if time is not None]
        return max([0, *(time + _DONE_TO_START for time in known)]) if len(known) == len(times) else None

    def _post(self, job: _Job) -> Iterator[bool]:
        config, item, halves = self._config, job.item, self._halves
        area = item["x_count"] * item["y_count"]
        source = Source(item["source"])
        issue = job.start
        flight = longest_flight(config) + 2 + (SUM_LATENCY if item.opcode is Opcode.ADD else 0)
        job.strips = job.start if item["strips"] == 1 else None
        if source is Source.FILL:
            of_strip = item["chunks"] * area
            issue += item["strips"] * of_strip
            job.strips = job.strips or issue - of_strip + flight
        elif source in (Source.MATRIX, Source.BASIS):
            per_half = groups_per_half(item, config)
            if source is Source.BASIS:
                area = item["y_count"] * basis_inputs(item) * BASIS_SIZE
            elif packs(item, config):
                area *= config.groups_of_byte
            drains = [*[per_half] * ((item["chunks"] - 1) // per_half), (item["chunks"] - 1) % per_half + 1]
            for number, chunks in enumerate(drains * item["strips"]):
                if number == len(drains) * (item["strips"] - 1):
                    job.strips = job.strips or issue + flight
                while len(halves.full) <= len(halves.released):
                    yield False
                begin = max(issue, halves.full[len(halves.released)])
                if item.opcode is Opcode.ADD:  # in the next cycle of its turn, and one of each
                    begin += (job.start - begin) % SUM_PERIOD
                    issue = begin + SUM_PERIOD * (chunks * area - 1) + 1
                else:
                    issue = begin + chunks * area
                halves.released.append(issue + RELEASE_LATENCY)
                yield True
        else:
            of_strip = item["chunks"] * area
            while (front := job.front) is None or len(front.ends) < of_strip * item["strips"]:
                yield False
            behind = _window_to_issue(config) + item["period"] - 1
            issue = front.ends[of_strip * item["strips"] - 1] + behind
            job.strips = job.strips or front.ends[of_strip * (item["strips"] - 1) - 1] + behind + flight
        job.idle = issue + flight
        yield True

    def _channel(self, job: _Job) -> Iterator[bool]:
        item = job.item
        while True:
            post = self._jobs.get(Opcode.POST)
            if post is not None and post.item["source"] == Source.CHANNEL and (post.idle is None):
                break
            yield False
        post.front = job
        start, config = max(job.start, post.start + channel_unit.ACTIVE_LATENCY), self._config
        taps = item["kx_count"] * item["ky_count"]
        line = _Line(taps, taps, item["x_count"] * item["y_count"] * item["planes"], 0)
        lines = 1
        if item.opcode is Opcode.DEPTHWISE:
            start += channel_unit.loading_cycles(config)
            first, every = item["x_first"], item["x_every"]
            windows = max(0, -(-(item["x_count"] - first) // every))
            rest = item["x_count"] - first - 1 - (windows - 1) * every if windows else item["x_count"]
            line = _Line(taps * (first + 1), taps * every, windows, taps * rest)
            lines = item["y_count"]
        if config.paired_banks or config.depthwise:
            written = _window_to_issue(config) + issue_to_write(config, Source.CHANNEL) - WRITE_TO_READ
            groups = config.groups_of_byte if packs(post.item, config) else 1
            ends, last_tap = _taking_turns(line, lines, item["period"], written, groups)
            job.ends = [start + end for end in ends]
            job.idle = start + last_tap + 1
        else:
            apart = max(taps, item["period"])
            job.ends = range(start + taps, start + taps + line.windows * apart, apart)
            job.idle = job.ends[-1] + 1
        yield True


@dataclass(frozen=True)
class _Line:
    """Taps of a line of windows: up to the end of the first, from one end to the next, behind the last."""

    first: int
    step: int
    windows: int
    rest: int


@lru_cache(maxsize=1024)
def _taking_turns(
    line: _Line, lines: int, period: int, written: int, groups: int
) -> tuple[Sequence[int], int]:
    """When each window ends, and when the last tap is read, if results take turns with taps at the
    memory: `written` cycles after a window's end the first of its `period` results is, if each `groups` of
    them are written at once the last of those.
    """
    taken: deque[int] = deque()  # cycles in which no tap can be read, in their order
    now = spaced = 0
    found: list[int] = []

    def read(taps: int, *, ends: bool) -> int:
        at = now
        for tap in range(taps):
            at = max(at + 1, spaced if ends and tap == taps - 1 else 0)
            while taken and taken[0] <= at:
                at += taken.popleft() == at
        return at

    for _ in range(lines):
        for window in range(line.windows):
            now = read(line.step if window else line.first, ends=True)
            found.append(now)
            taken.extend(range(now + written + groups - 1, now + written + period, groups))
            spaced = now + period
        now = read(line.rest, ends=False)
    return found, now


def _window_to_issue(config: AcceleratorConfig) -> int:
    """Cycles from the read of a window's last tap to the post unit's first element."""
    return channel_unit.READ_LATENCY + channel_unit.fold_latency(config) + 1
