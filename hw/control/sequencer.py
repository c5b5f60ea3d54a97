"""The sequencer: fetches instructions, hands them to the units, stops at marks, errors and the end."""

from contextlib import contextmanager

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Opcode, Status

UNITS = (Opcode.MATRIX, Opcode.POST, Opcode.CHANNEL)
"""Units in the order of the ports that have one bit per unit."""

FETCH_CYCLES = 2
"""Cycles from the address of an instruction's first word to the word."""

BARRIER_CYCLES = 2
"""Cycles from the first word of a barrier until it can pass."""

SOFT_CYCLES = 1
"""The same of a soft MARK, which does not wait."""

HAND_OVER_CYCLES = 1
"""Cycles from the state GO to the unit's `go`: what goes to the units are registers."""

UNIT_ERRORS = (
    Status.ILLEGAL_INSTRUCTION,
    Status.ACTIVATION_ADDRESS,
    Status.WEIGHT_ADDRESS,
    Status.PARAMETER_ADDRESS,
    Status.ACCUMULATOR_ADDRESS,
)
"""What units report, in the order of the bits of `errors` (the first one set is the status)."""


class Sequencer(wiring.Component):
    """Executes a program.

    An instruction takes its words plus two cycles if its unit is idle when it has been fetched; otherwise it
    is fetched again once the unit is idle. A barrier takes a cycle more, so that whatever is wrong with the
    instruction before is known by then; a soft MARK takes its word and three cycles.

    Members
    -------
    start, start_pc, pause, cycle_limit: the host's RUN; ignored unless the machine is stopped without error.
    proceed: the host's CONTINUE; ignored unless the machine is paused.
    reset_machine: back to IDLE.
    program_address, program_data: read port of the program memory.
    command_write, go, unit_idle (one bit per unit each), command_index, command_word: see `command_members`.
    all_idle: nothing is under way in any unit. progress: some unit does something. errors: one bit per
        `UNIT_ERRORS`.
    abort: puts the units back into their reset state.
    status, layer, pc, cycles: for the host. running: cycles are counted. begin: strobe: a run begins.
    """

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "start_pc": In(16),
                "pause": In(1),
                "cycle_limit": In(32),
                "proceed": In(1),
                "reset_machine": In(1),
                "program_address": Out((config.program_depth - 1).bit_length()),
                "program_data": In(isa.WORD_BITS),
                "command_write": Out(len(UNITS)),
                "command_index": Out(range(isa.MAX_LENGTH)),
                "command_word": Out(isa.WORD_BITS),
                "go": Out(len(UNITS)),
                "unit_idle": In(len(UNITS)),
                "all_idle": In(1),
                "progress": In(1),
                "errors": In(len(UNIT_ERRORS)),
                "abort": Out(1),
                "status": Out(Status, init=Status.IDLE),
                "layer": Out(16),
                "pc": Out(16),
                "cycles": Out(32),
                "running": Out(1),
                "begin": Out(1),
            }
        )

    def _create(self) -> None:
        """The registers that several methods share."""
        self._address = Signal(17)
        self._index = Signal(range(isa.MAX_LENGTH))
        self._target = Signal(len(UNITS))
        self._words = Signal(range(isa.MAX_LENGTH + 1))
        self._following = Signal(17)
        """Address of the next instruction."""
        self._decoded, self._unknown = Signal(), Signal()
        self._ending, self._marked, self._pause = Signal(), Signal(16), Signal()
        self._soft = Signal()
        self._moving, self._stop = Signal(), Signal()

    def elaborate(self, platform):
        m = Module()
        self._create()
        m.d.comb += [
            self.program_address.eq(self._address),
            self.running.eq(self.status == Status.RUNNING),
        ]
        m.d.sync += [
            self._decoded.eq(0),
            self.command_index.eq(self._index),
            self.command_word.eq(self.program_data),
            self.command_write.eq(0),
            self.go.eq(0),
            self.abort.eq(0),
        ]
        opcode = self.program_data[: isa.OPCODE_BITS]
        length, unit, known = self._decode(m, opcode)
        with m.FSM():
            self._stopped(m)
            self._fetched(m, opcode, length, unit, known)
            self._hand_over(m)
            self._barrier(m)
            with m.State("FAILED"):
                m.d.sync += self.abort.eq(1)
                m.next = "STOPPED"
        # A fault takes effect two cycles after DECODE; until then nothing happens that a reset does not undo.
        fault = Signal(Status)
        with m.If(self._decoded & (self._following > self._config.program_depth)):
            m.d.comb += fault.eq(Status.PROGRAM_ADDRESS)
        with m.Elif(self._decoded & self._unknown):
            m.d.comb += fault.eq(Status.ILLEGAL_INSTRUCTION)
        self._watch(m, fault)
        return m

    @contextmanager
    def _state(self, m: Module, name: str):
        """A state that failures and the host's reset end."""
        with m.State(name):
            yield
            with m.If(self._stop):
                m.next = "FAILED"

    def _fetch(self, m: Module, at) -> None:
        m.d.sync += [self.pc.eq(at), self._address.eq(at)]
        m.next = "FETCH"

    def _stopped(self, m: Module) -> None:
        with self._state(m, "STOPPED"):
            allowed = (self.status == Status.IDLE) | (self.status == Status.DONE)
            with m.If(self.start & allowed):
                m.d.comb += self.begin.eq(1)
                m.d.sync += [self.status.eq(Status.RUNNING), self.layer.eq(0), self._pause.eq(self.pause)]
                self._fetch(m, self.start_pc)
            with m.If(self.proceed & (self.status == Status.PAUSED)):
                m.d.sync += self.status.eq(Status.RUNNING)
                self._fetch(m, self._following)

    def _fetched(self, m: Module, opcode, length: Signal, unit: Signal, known: Signal) -> None:
        """An instruction's first word; WAIT until its unit is idle, then fetch it again."""
        with self._state(m, "FETCH"):
            m.d.comb += self._moving.eq(1)
            m.d.sync += self._address.eq(self._address + 1)
            m.next = "FETCH_WAIT"
        with self._state(m, "FETCH_WAIT"):
            m.d.comb += self._moving.eq(1)
            m.d.sync += [self._address.eq(self._address + 1), self._index.eq(0)]
            m.next = "DECODE"
        with self._state(m, "DECODE"):
            m.d.comb += self._moving.eq(1)
            layer, soft = (isa.PLACEMENTS[Opcode.MARK][name] for name in ("layer", "soft"))
            m.d.sync += [
                self._address.eq(self._address + 1),
                self._index.eq(1),
                self._target.eq(unit),
                self._words.eq(length),
                self._following.eq(self.pc + length),
                self._decoded.eq(1),
                self._unknown.eq(~known),
                self._ending.eq(opcode == Opcode.END),
                self._marked.eq(self.program_data[layer.shift : layer.shift + layer.field.bits]),
                self._soft.eq(self.program_data[soft.shift] & (opcode == Opcode.MARK) & ~self._pause),
                self.command_write.eq(unit & self.unit_idle),
            ]
            m.next = "WAIT"
            with m.If(unit == 0):
                m.next = "BARRIER"
            with m.Elif((unit & self.unit_idle).any()):
                m.next = "STREAM"
        with self._state(m, "WAIT"), m.If((self._target & self.unit_idle).any()):
            self._fetch(m, self.pc)

    def _hand_over(self, m: Module) -> None:
        """The other words, and the strobe that starts the unit."""
        with self._state(m, "STREAM"):
            m.d.comb += self._moving.eq(1)
            m.d.sync += [
                self.command_write.eq(self._target),
                self._index.eq(self._index + 1),
                self._address.eq(self._address + 1),
            ]
            with m.If(self._index == self._words - 1):
                m.d.sync += self._address.eq(self._following)
                m.next = "GO"
        with self._state(m, "GO"):  # also the first cycle of the next fetch
            m.d.comb += self._moving.eq(1)
            m.d.sync += [
                self.go.eq(self._target),
                self.pc.eq(self._following),
                self._address.eq(self._address + 1),
            ]
            m.next = "FETCH_WAIT"

    def _barrier(self, m: Module) -> None:
        """MARK and END: wait for every unit; a soft MARK does not."""
        with self._state(m, "BARRIER"):
            m.next = "PASS"
            with m.If(self._soft):
                m.d.comb += self._moving.eq(1)
                m.d.sync += self.layer.eq(self._marked)
                self._fetch(m, self._following)
        with self._state(m, "PASS"), m.If(self.all_idle):
            m.d.comb += self._moving.eq(1)
            with m.If(self._ending):
                m.d.sync += self.status.eq(Status.DONE)
                m.next = "STOPPED"
            with m.Else():
                m.d.sync += self.layer.eq(self._marked)
                with m.If(self._pause):
                    m.d.sync += self.status.eq(Status.PAUSED)
                    m.next = "STOPPED"
                with m.Else():
                    self._fetch(m, self._following)

    def _decode(self, m: Module, opcode) -> tuple[Signal, Signal, Signal]:
        """Length in words, unit (one-hot, none for barriers) and whether the opcode exists."""
        length, unit, known = Signal(range(isa.MAX_LENGTH + 1), init=1), Signal(len(UNITS)), Signal()
        with m.Switch(opcode):
            for code, words in isa.LENGTHS.items():
                if code not in isa.opcodes(self._config):
                    continue
                with m.Case(code):
                    m.d.comb += [known.eq(1), length.eq(words)]
                    if isa.unit_of(code) in UNITS:
                        m.d.comb += unit.eq(1 << UNITS.index(isa.unit_of(code)))
        return length, unit, known

    def _watch(self, m: Module, fault: Signal) -> None:
        """Errors of the units, the watchdogs and the reset override whatever the state machine decided."""
        quiet = Signal(range(isa.NO_PROGRESS_CYCLES + 1))
        budget, too_long = Signal(32), Signal()  # cycles left; 0 counts as 2**32
        failed, failure = Signal(), Signal(Status)
        m.d.sync += [too_long.eq(budget == 1), failed.eq(1)]
        with m.If(fault != Status.IDLE):
            m.d.sync += failure.eq(fault)
        for bit, code in enumerate(UNIT_ERRORS):
            with m.Elif(self.errors[bit]):
                m.d.sync += failure.eq(code)
        with m.Elif(quiet == isa.NO_PROGRESS_CYCLES):
            m.d.sync += failure.eq(Status.NO_PROGRESS)
        with m.Elif(too_long):
            m.d.sync += failure.eq(Status.CYCLE_LIMIT)
        with m.Else():
            m.d.sync += failed.eq(0)
        with m.If(~self.running | self._moving | self.progress):
            m.d.sync += quiet.eq(0)
        with m.Else():
            m.d.sync += quiet.eq(quiet + 1)
        with m.If(self.running):
            m.d.sync += [self.cycles.eq(self.cycles + 1), budget.eq(budget - 1)]
        with m.If(self.begin):
            m.d.sync += [self.cycles.eq(0), budget.eq(self.cycle_limit), too_long.eq(0), failed.eq(0)]
        with m.If(self.running & failed):
            m.d.sync += self.status.eq(failure)
            m.d.comb += self._stop.eq(1)
        with m.If(self.reset_machine):
            m.d.sync += [self.status.eq(Status.IDLE), self.cycles.eq(0), self.layer.eq(0), self.pc.eq(0)]
            m.d.comb += self._stop.eq(1)
