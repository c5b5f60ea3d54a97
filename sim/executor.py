"""The instruction-level machine: runs an encoded program on NumPy memories, exactly as the hardware does but
without its timing.

It knows nothing but the words in its memories: `isa.decode` reads the program, `popshift.sim.units` does the
work. Units run side by side as far as one can tell from outside: an instruction that waits for another unit
(for a free accumulator half, for a window) goes on as soon as that unit has delivered, and a wait that can
never end stops the machine.
"""

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.layout import TensorLayout
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import After, Counter, Instruction, Opcode, Status
from popshift.hw.packet import Space
from popshift.sim.hazards import HazardChecker
from popshift.sim.units import HaltError, Job, Units

WORK = (Counter.MATRIX, Counter.CHANNEL, Counter.WEIGHT_WORDS, Counter.ACTIVATION_WRITES)
"""Counters that no machine can raise by more than one a cycle."""


class Machine:
    """An accelerator's memories and its sequencer, for `batch` images at once.

    Parameters
    ----------
    config: the accelerator.
    batch: images; each has its own activation memory, everything else they share.
    check_hazards: raise `sim.hazards.HazardError` if a word may be read by one unit while another writes it.

    Attributes
    ----------
    status: as the device reports it.
    layer: layer index of the last mark.
    pc: program word of the current or failed instruction (the hardware may be some words further on).
    """

    def __init__(self, config: AcceleratorConfig, *, batch: int = 1, check_hazards: bool = False) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        self.config = config
        self.batch = batch
        hazards = HazardChecker(config.rows, config.activation_depth) if check_hazards else None
        self._units = Units(config, batch, hazards)
        self._program = [0] * config.program_depth
        self.reset()

    def reset(self) -> None:
        """Stop and forget the run; the memories keep their contents."""
        self.status, self.layer, self.pc = Status.IDLE, 0, 0
        self._units.clear()
        self._jobs: dict[Opcode, tuple[Job, int]] = {}
        self._cycle_limit, self._pause = 0, False

    # ---- memories ------------------------------------------------------------------------------------------

    @property
    def activations(self) -> NDArray[np.int8]:
        """The activation memories, a view of shape (batch, banks, words)."""
        return self._units.activations.transpose(2, 0, 1)

    @property
    def counters(self) -> dict[Counter, int]:
        """Counters of the last run: MATRIX, CHANNEL (every word read), WEIGHT_WORDS and the activation words.

        The others need timing and stay 0.
        """
        return dict(self._units.counters)

    def write(self, space: Space, word: int, data: bytes) -> None:
        """Write whole words from address `word` on, as a WRITE request does (activations: bank mask, then one
        byte a word, for all images).

        Raises
        ------
        ValueError: not whole words, or beyond the memory's end.
        """
        config, units = self.config, self._units
        mask = 0
        if space is Space.ACTIVATION:
            mask = int.from_bytes(data[: config.bank_mask_bytes], "little")
            data = data[config.bank_mask_bytes :]
        sizes = {
            Space.ACTIVATION: (config.activation_depth, 1),
            Space.WEIGHT: (config.weight_depth, config.weight_word_bytes),
            Space.PARAMETER: (config.parameter_depth, config.parameter_word_bytes),
            Space.PROGRAM: (config.program_depth, isa.WORD_BITS // 8),
        }
        depth, word_bytes = sizes[space]
        count, rest = divmod(len(data), word_bytes)
        if rest or not 0 <= word <= depth - count:
            memory = f"words of the {space.name.lower()} memory (0 .. {depth - 1})"
            raise ValueError(f"{len(data)} bytes at word {word} are not {memory}")
        values = np.frombuffer(data, np.uint8).reshape(count, word_bytes)
        if space is Space.ACTIVATION:
            banks = [bank for bank in range(config.rows) if mask >> bank & 1]
            units.activations[banks, word : word + count] = values.view(np.int8)[None]
        elif space is Space.PROGRAM:
            self._program[word : word + count] = values.view("<u4").ravel().tolist()
        else:
            memory = units.weights if space is Space.WEIGHT else units.parameters
            memory[word : word + count] = values

    def read(self, bank: int, word: int, count: int, *, image: int = 0) -> bytes:
        """`count` bytes of one bank from address `word` on, as a READ request answers them.

        Raises
        ------
        ValueError: beyond the banks or the memory's end.
        """
        if not (0 <= bank < self.config.rows and 0 <= word <= self.config.activation_depth - count):
            raise ValueError(
                f"words {word} .. {word + count - 1} of bank {bank} are outside the activation memory"
            )
        return self._units.activations[bank, word : word + count, image].tobytes()

    def write_tensor(self, layout: TensorLayout, values: NDArray[np.int8]) -> None:
        """Write `values` (batch, channels, height, width) to all copies of a tensor, but no padding."""
        for channel, y in np.ndindex(layout.shape[:2]):
            start = layout.word(channel, y)
            banks = layout.banks(channel)
            self._units.activations[banks, start : start + layout.shape[2]] = values[:, channel, y].T

    def read_tensor(self, layout: TensorLayout) -> NDArray[np.int8]:
        """A placed tensor as (batch, channels, height, width)."""
        memory = self._units.activations
        return np.ascontiguousarray(layout.read(memory).transpose(3, 0, 1, 2))

    def scramble(self, seed: int) -> None:
        """Fill every memory with random bytes, as power-up may leave them."""
        random = np.random.default_rng(seed)
        for memory in (self._units.activations, self._units.weights, self._units.parameters):
            memory[:] = random.integers(0, 256, memory.shape, np.uint8).view(memory.dtype)
        self._program = random.integers(0, 1 << isa.WORD_BITS, len(self._program), np.uint32).tolist()

    # ---- running -------------------------------------------------------------------------------------------

    def run(self, pc: int = 0, *, pause: bool = False, cycle_limit: int = 0) -> Status:
        """Run from program word `pc` to END, to the next MARK if `pause`, or to an error; gives the status.

        `cycle_limit` (0: none) stops a run whose busiest unit alone has more to do than that many cycles.
        After an error only `reset` helps, after a pause `resume`; `run` then changes nothing.
        """
        if self.status not in (Status.IDLE, Status.DONE):
            return self.status
        self._units.clear()
        self._jobs.clear()
        self.layer, self.pc, self._pause, self._cycle_limit = 0, pc, pause, cycle_limit
        return self._execute()

    def resume(self) -> Status:
        """Go on after a pause; without one nothing happens."""
        if self.status is not Status.PAUSED:
            return self.status
        self.pc += isa.LENGTHS[Opcode.MARK]
        return self._execute()

    def _execute(self) -> Status:
        self.status = Status.RUNNING
        try:
            while self.status is Status.RUNNING:
                self._sequence()
        except HaltError as halted:
            self.status = halted.status
        return self.status

    def _sequence(self) -> None:
        """Fetch one instruction and hand it over, or wait at a barrier."""
        item = isa.decode(self._program, self.pc)
        if isinstance(item, Status):
            raise HaltError(item)
        if isa.illegal_fields(item, self.config):
            raise HaltError(Status.ILLEGAL_INSTRUCTION)
        match item.opcode:
            case Opcode.END:
                self._barrier()
                self.status = Status.DONE
                return
            case Opcode.MARK:
                if self._pause or not item["soft"]:
                    self._barrier()
                self.layer = item["layer"]
                if self._pause:
                    self.status = Status.PAUSED
                    return
            case _:
                self._hand_over(item)
        self.pc += isa.LENGTHS[item.opcode]

    def _barrier(self) -> None:
        """Wait until every unit is idle and no finished accumulators are left over."""
        while self._jobs:
            self._advance_or_stop()
        if any(self._units.full):
            raise HaltError(Status.NO_PROGRESS)
        if self._units.hazards:
            self._units.hazards.barrier()

    def _hand_over(self, item: Instruction) -> None:
        """Start an instruction as soon as its unit is free, then let every unit do what it can."""
        unit = isa.unit_of(item.opcode)
        while unit in self._jobs:
            self._advance_or_stop()
        start = {
            Opcode.MATRIX: self._units.matrix,
            Opcode.CHANNEL: self._units.channel,
            Opcode.POST: self._units.post,
        }
        job = start[unit](item)
        if item.opcode is Opcode.MATRIX and item["after"]:
            job = self._after(job, item)
        self._jobs[unit] = job, self.pc
        while self._advance():
            pass

    def _after(self, job: Job, item: Instruction) -> Job:
        """A MATRIX that waits for what is in front of it."""
        units = self._units
        if isa.last_pass_waits(item, self.config):
            while self._jobs.keys() - {Opcode.MATRIX}:
                yield False
        elif item["after"] == After.ALL:
            while self._jobs.keys() - {Opcode.MATRIX} or any(units.full):
                yield False
            if units.hazards:
                units.hazards.barrier()
        else:
            while Opcode.CHANNEL in self._jobs or (Opcode.POST in self._jobs and not units.last_strip):
                yield False
            if units.hazards:
                units.hazards.all_but_last_strip()
        yield from job

    def _advance_or_stop(self) -> None:
        if not self._advance():
            raise HaltError(Status.NO_PROGRESS)

    def _advance(self) -> bool:
        """Let every busy unit do one piece of work; whether any could."""
        moved = False
        for opcode, (job, pc) in list(self._jobs.items()):
            try:
                moved |= next(job)
            except StopIteration:
                del self._jobs[opcode]
                moved = True
            except HaltError:
                self.pc = pc
                raise
        counters = self._units.counters
        busiest = max(counters[name] for name in WORK)
        if 0 < self._cycle_limit < busiest:
            raise HaltError(Status.CYCLE_LIMIT)
        return moved
