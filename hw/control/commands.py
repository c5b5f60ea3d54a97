"""The command unit: executes the host's requests, exactly as `popshift.hw.packet` describes them."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import packet
from popshift.hw.config import ADDRESS_BITS, WORD_ADDRESS_BITS, AcceleratorConfig
from popshift.hw.control.admission import READ_REQUEST_BYTES, Admission
from popshift.hw.isa import COUNTER_BITS, WORD_BITS, Counter
from popshift.hw.link.framing import FrameCrc, FrameReceiver, FrameTransmitter
from popshift.hw.packet import Space, Type
from popshift.hw.pipeline import registered
from popshift.hw.tech.portable import Portable

ERROR_BITS = 8
"""Width of the count of damaged frames; at its largest value it stays."""
_WORD_CYCLES = 2
"""Cycles from a position to the word of an answer that begins there."""
_WORD_SPACES = (Space.WEIGHT, Space.PARAMETER, Space.PROGRAM)
_ANSWER_BYTES = {
    Type.OPEN: packet.IDENTITY.size,
    Type.RESET: packet.IDENTITY.size,
    Type.STATUS: packet.STATE.size,
    Type.COUNTERS: packet.COUNTERS.size,
}


class CommandUnit(wiring.Component):
    """Executes requests one after the other; while it does, the link waits.

    A WRITE is checked in full (whole words, at least one, addresses) before its first byte is written. The
    words of a frame are then written from the last to the first and the bytes of each from its top: a word
    of any size so ends at bit 0.

    Parameters
    ----------
    config: rows, memory depths, word sizes, digest.
    read_latency: cycles from `read_address` to `read_data`, at least 1.

    Members
    -------
    rx, tx: encoded frames.
    busy: a request is being worked on or an answer is under way.
    activation_write_valid, _mask, _address, _data: write one byte into one word of every bank in the mask.
    word_write_space: strobe, bit 0 weight, 1 parameter, 2 program memory: write one word.
    word_write_address, word_write_data: that word, from bit 0; the bits above it are meaningless.
    read_bank, read_address, read_data: reads of the activation memory; the address stands until the byte is
        sent.
    start, start_pc, pause, cycle_limit: strobe: run from `start_pc` under the settings `pause` and
        `cycle_limit` (0 is no limit); all three hold during the strobe only.
    proceed: strobe: leave the pause.
    reset_machine: strobe: back to IDLE from any state.
    status, layer, pc, cycles, counters: of the machine; the unit puts its own count of link errors in. Each
        of these is sent as it was in one cycle, but not all as they were in the same cycle.

    Cycles: WRITE: one per payload byte to receive it, one per word to check it (activations: one), one per
    byte to write, some fifty for decision and answer. READ: `read_latency` + 3 per byte.
    """

    rx: stream.Interface
    tx: stream.Interface
    busy: Signal
    activation_write_valid: Signal
    activation_write_mask: Signal
    activation_write_address: Signal
    activation_write_data: Signal
    word_write_space: Signal
    word_write_address: Signal
    word_write_data: Signal
    read_bank: Signal
    read_address: Signal
    read_data: Signal
    start: Signal
    start_pc: Signal
    pause: Signal
    cycle_limit: Signal
    proceed: Signal
    reset_machine: Signal
    status: Signal
    layer: Signal
    pc: Signal
    cycles: Signal
    counters: data.View

    def __init__(
        self, *, config: AcceleratorConfig, read_latency: int = 4, technology: Portable | None = None
    ) -> None:
        if not isinstance(read_latency, int) or read_latency < 1:
            got = f"not {read_latency!r}; count the register of the memory"
            raise ValueError(f"read_latency must be an integer of at least 1, {got}")
        self._config, self._technology = config, technology
        self._read_latency = read_latency
        self._word_bytes = (1, config.weight_word_bytes, config.parameter_word_bytes, WORD_BITS // 8)
        super().__init__(
            {
                "rx": In(stream.Signature(8)),
                "tx": Out(stream.Signature(8)),
                "busy": Out(1),
                "activation_write_valid": Out(1),
                "activation_write_mask": Out(config.rows),
                "activation_write_address": Out(ADDRESS_BITS),
                "activation_write_data": Out(8),
                "word_write_space": Out(len(_WORD_SPACES)),
                "word_write_address": Out(WORD_ADDRESS_BITS),
                "word_write_data": Out(8 * max(self._word_bytes)),
                "read_bank": Out(range(max(config.rows, 2))),
                "read_address": Out(ADDRESS_BITS),
                "read_data": In(8),
                "start": Out(1),
                "start_pc": Out(ADDRESS_BITS),
                "pause": Out(1),
                "cycle_limit": Out(COUNTER_BITS),
                "proceed": Out(1),
                "reset_machine": Out(1),
                "status": In(4),
                "layer": In(16),
                "pc": In(ADDRESS_BITS),
                "cycles": In(COUNTER_BITS),
                "counters": In(data.ArrayLayout(unsigned(COUNTER_BITS), len(Counter))),
            }
        )

    def _create(self) -> None:
        """The parts and the registers that several methods share."""
        self._receiver = FrameReceiver(technology=self._technology)
        self._transmitter = FrameTransmitter(technology=self._technology)
        self._admission = Admission(config=self._config)
        header = self._receiver.header
        self._type = header.type
        self._space = header.address[packet.SPACE_SHIFT : packet.SPACE_SHIFT + 2]
        # Registers, as a header stands for cycles before it matters (here and below).
        self._is_activation, self._is_write, self._is_read = Signal(), Signal(), Signal()

        # Three state machines, of few states each, pass a request on by strobes: one that had all of these
        # states set the clock of the whole design.
        self._walk, self._count = Signal(), Signal()
        self._execute, self._answer, self._answered = Signal(), Signal(), Signal()

        self._resend, self._refused = Signal(), Signal()
        self._has_payload = Signal()
        """Whether an answer is more than its header; `position` then tells by how much."""
        self._position = Signal(range(-packet.MAX_PAYLOAD, packet.MAX_PAYLOAD + 1))
        """Payload bytes still to go: to be checked, to be executed, to be sent."""
        self._next_position = Signal.like(self._position)
        self._walking = Signal()
        self._in_mask = Signal()
        """The bytes streamed are the bank mask of an activation WRITE."""
        self._issue = Signal()
        """A payload byte is being fetched."""
        self._offset = Signal(range(packet.MAX_PAYLOAD + 1))
        """Words past the address of the request."""
        self._up, self._down = Signal(), Signal()
        self._depths = (
            self._config.activation_depth,
            self._config.weight_depth,
            self._config.parameter_depth,
            self._config.program_depth,
        )
        self._address = Signal(max(self._depths).bit_length() + 1, reset_less=True)
        self._beyond = Signal()
        """The address of the request has bits that no memory needs."""
        self._shifter = Signal(8 * max(*self._word_bytes, packet.RUN.size), reset_less=True)
        """Payload bytes enter at the bottom, the highest first; answers leave at byte 3, the lowest first."""
        self._load, self._shift, self._shift_out = Signal(), Signal(), Signal()
        self._errors = Signal(ERROR_BITS)
        self._signature = Signal(packet.SIGNATURE_BITS)

    def elaborate(self, platform) -> Module:
        m = Module()
        self._create()
        m.submodules.receiver = receiver = self._receiver
        m.submodules.transmitter = transmitter = self._transmitter
        m.submodules.admission = admission = self._admission
        m.submodules.crc = crc = FrameCrc()
        wiring.connect(m, receiver.crc, crc.receiver)
        wiring.connect(m, transmitter.crc, crc.transmitter)
        wiring.connect(m, wiring.flipped(self.rx), receiver.i)
        wiring.connect(m, transmitter.o, wiring.flipped(self.tx))
        check_step = Signal(range(max(self._config.bank_mask_bytes, *self._word_bytes) + 1))
        m.d.comb += [
            self.busy.eq(receiver.valid | transmitter.o.valid),
            admission.header.eq(receiver.header),
            admission.length.eq(receiver.length),
            admission.status.eq(self.status),
            admission.refused.eq(self._refused),
            self._next_position.eq(self._position - Mux(self._walking, check_step, 1)),
        ]
        m.d.sync += [
            self._is_activation.eq(self._space == Space.ACTIVATION),
            self._is_write.eq(self._type == Type.WRITE),
            self._is_read.eq(self._type == Type.READ),
            check_step.eq(Array([self._config.bank_mask_bytes, *self._word_bytes[1:]])[self._space]),
        ]
        with m.If(self.reset_machine):
            m.d.sync += self._errors.eq(0)
        with m.Elif(receiver.damaged & ~self._errors.all()):
            m.d.sync += self._errors.eq(self._errors + 1)

        self._elaborate_write_path(m)
        m.d.sync += [self.start.eq(0), self.proceed.eq(0), self.reset_machine.eq(0)]
        strobes = (self._walk, self._count, self._execute, self._answer, self._answered)
        m.d.sync += [strobe.eq(0) for strobe in strobes]
        with m.FSM(name="request"):
            self._decide(m)
            self._stream(m)
        with m.FSM(name="check"):
            self._check(m)
        with m.FSM(name="answer"):
            self._answer_header(m)
            self._answer_payload(m)
        return m

    def _elaborate_write_path(self, m: Module) -> None:
        """What follows the fetch of a payload byte: the byte itself two cycles later, the write one more."""
        address, shifter = self._receiver.header.address, self._shifter
        is_data = self._is_write & ~self._in_mask
        last_lane = Signal(range(max(self._word_bytes)))
        lane = Signal(range(max(self._word_bytes)))
        fetched, word_arrived = Signal(), Signal()
        m.d.sync += [
            last_lane.eq(Array([size - 1 for size in self._word_bytes])[self._space]),
            lane.eq(Mux(fetched & (lane != 0), lane - 1, last_lane)),
            fetched.eq(self._issue),
            word_arrived.eq(fetched & is_data & (lane == 0)),
            # During the data of an activation WRITE the shifter keeps the mask.
            self._shift.eq((fetched & ~(is_data & self._is_activation)) | self._shift_out),
        ]
        with m.If(self._up | self._down | word_arrived):
            m.d.sync += self._offset.eq(self._offset + Mux(self._up, 1, -1))
        if self._config.signature:
            self._sign(m, fetched & is_data & ~self._is_activation)
        word = self._answer_word(m)
        with m.If(self._load):
            m.d.sync += shifter[:32].eq(Cat(word.word_select(index, 8) for index in reversed(range(4))))
        with m.Elif(self._shift):
            m.d.sync += shifter.eq(Cat(self._receiver.read_data, shifter))

        # Where a WRITE has the upper part of its address, a READ has its bank.
        upper = Mux(self._is_read, 0, address[ADDRESS_BITS:WORD_ADDRESS_BITS])
        word_address, heeded = Cat(address[:ADDRESS_BITS], upper), len(self._address) - 1
        m.d.sync += [
            self._address.eq(word_address[:heeded] + self._offset),
            self._beyond.eq(word_address[heeded:].any()),
            self.activation_write_valid.eq(word_arrived & self._is_activation),
            self.activation_write_data.eq(self._receiver.read_data),
            self.word_write_space.eq(Cat(word_arrived & (self._space == space) for space in _WORD_SPACES)),
        ]
        m.d.comb += [
            self._receiver.read_address.eq(self._next_position),
            self.activation_write_mask.eq(shifter),
            self.activation_write_address.eq(self._address),
            self.word_write_address.eq(self._address),
            self.word_write_data.eq(shifter),
            self.read_bank.eq(address[packet.BANK_SHIFT :]),
            self.read_address.eq(self._address),
            self.start_pc.eq(shifter),
            self.pause.eq(shifter[16:24].any()),
            self.cycle_limit.eq(shifter[32:64]),
        ]

    def _sign(self, m: Module, fetched: Value) -> None:
        """Keeps `packet.signature`; `fetched`: a byte of it arrives in the next cycle."""
        address, value = self._receiver.header.address, self._signature
        in_front = (self._space == Space.PROGRAM) & (address[:WORD_ADDRESS_BITS] == 0)
        is_first = registered(m, in_front, "is_first")
        arrives = registered(m, fetched, "sign")
        feedback = Mux(value[0], packet.SIGNATURE_TAPS, 0)
        with m.If(arrives):
            m.d.sync += value.eq((value >> 1) ^ feedback ^ self._receiver.read_data)
        with m.If(self._execute & is_first):
            m.d.sync += value.eq(0)

    def _decide(self, m: Module) -> None:
        admission = self._admission
        with m.State("IDLE"):
            m.d.sync += [
                self._position.eq(self._receiver.length),
                self._offset.eq(0),
                self._in_mask.eq(0),
                self._resend.eq(0),
                self._refused.eq(0),
                self._has_payload.eq(0),
            ]
            with m.If(self._receiver.valid):
                m.next = "JUDGE"

        with m.State("JUDGE"):
            m.next = "DECIDE"

        with m.State("DECIDE"):
            m.d.comb += admission.decide.eq(1)
            m.d.sync += self._answer.eq(1)
            m.next = "WAIT"
            with m.If(admission.resend):
                m.d.sync += self._resend.eq(1)
            with m.Elif(admission.refuse):
                m.d.sync += self._refused.eq(1)
            with m.Else(), m.Switch(self._type):
                with m.Case(Type.WRITE), m.If(admission.fresh):
                    m.d.sync += [self._walk.eq(1), self._answer.eq(0)]
                with m.Case(Type.RUN), m.If(admission.fresh):
                    m.d.sync += self._answer.eq(0)
                    m.next = "STREAM"
                with m.Case(Type.READ):
                    m.d.sync += self._answer.eq(0)
                    m.next = "STREAM"
                with m.Case(Type.CONTINUE):
                    m.d.sync += self.proceed.eq(admission.fresh)
                for number, size in _ANSWER_BYTES.items():
                    with m.Case(number):
                        m.d.sync += [self._position.eq(size), self._has_payload.eq(1)]
                        if number is Type.RESET:
                            m.d.sync += self.reset_machine.eq(admission.fresh)

        with m.State("WAIT"):  # for the other two
            with m.If(self._execute):
                m.next = "STREAM"
            with m.If(self._answered):
                m.next = "DONE"

        with m.State("DONE"), m.If(self._transmitter.crc_idle):
            m.d.comb += [admission.answered.eq(1), self._receiver.release.eq(1)]
            m.next = "IDLE"

    def _check(self, m: Module) -> None:
        """WALK counts the words of a WRITE, COUNT takes those of a READ; the last has to be in the memory.

        WALK takes two cycles more than there are words: `position` has to become negative, and that has to be
        seen. BACK and AGAIN undo them, LAST steps from the number of words to the last word.
        """
        config, offset, position = self._config, self._offset, self._position
        whole = Signal()
        m.d.sync += whole.eq(position == 0)
        with m.State("REST"):
            with m.If(self._walk):
                m.next = "WALK"
            with m.If(self._count):
                m.next = "COUNT"

        with m.State("WALK"):
            m.d.comb += [self._walking.eq(1), self._up.eq(1)]
            m.d.sync += position.eq(self._next_position)
            with m.If(self._is_activation):
                m.next = "BYTES"
            with m.Elif(position[-1]):
                m.d.sync += position.eq(self._receiver.length)
                m.next = "BACK"
                with m.If(~whole):
                    self._refuse(m)

        with m.State("COUNT"):
            count = self._shifter[: 8 * READ_REQUEST_BYTES]
            m.d.sync += position.eq(count)
            m.next = "BYTES"
            with m.If(count > packet.MAX_PAYLOAD):
                self._refuse(m)

        with m.State("BYTES"):  # of the activation memory, a word each
            m.d.sync += offset.eq(position)
            m.next = "LAST"
            with m.If(self._is_write):
                m.d.sync += [position.eq(config.bank_mask_bytes), self._in_mask.eq(1)]
            with m.If(position[-1]):
                self._refuse(m)

        for state, following in (("BACK", "AGAIN"), ("AGAIN", "LAST"), ("LAST", "ADD")):
            with m.State(state):
                m.d.comb += self._down.eq(1)
                m.next = following

        with m.State("ADD"):
            m.next = "BOUND"

        with m.State("BOUND"):
            inside = Array([self._address < depth for depth in self._depths])[self._space] & ~self._beyond
            m.next = "REST"
            # An offset of -1: no words at all.
            with m.If(offset[-1] | ~inside):
                self._refuse(m)
            with m.Elif(self._is_read):
                m.d.sync += [offset.eq(0), self._has_payload.eq(1), self._answer.eq(1)]
            with m.Else():
                m.d.sync += self._execute.eq(1)

    def _refuse(self, m: Module) -> None:
        m.d.sync += [self._refused.eq(1), self._answer.eq(1)]
        m.next = "REST"

    def _stream(self, m: Module) -> None:
        """Fetches the payload from its end to its beginning; of a bank mask and its data, the mask first."""
        position = self._position
        floor = Mux(self._is_write & self._is_activation & ~self._in_mask, self._config.bank_mask_bytes, 0)
        with m.State("STREAM"):
            with m.If(position != floor):
                m.d.comb += self._issue.eq(1)
                m.d.sync += position.eq(self._next_position)
            with m.Elif(self._in_mask):
                m.d.sync += [position.eq(self._receiver.length), self._in_mask.eq(0)]
            with m.Else():
                m.next = "ARRIVE"

        with m.State("ARRIVE"):
            m.next = "START"
            with m.If(self._is_read):
                m.d.sync += self._count.eq(1)
                m.next = "WAIT"
            with m.If(self._is_write):
                m.d.sync += self._answer.eq(1)
                m.next = "WAIT"

        with m.State("START"):
            m.d.sync += [self.start.eq(1), self._answer.eq(1)]
            m.next = "WAIT"

    def _answer_header(self, m: Module) -> None:
        header, sent = self._receiver.header.as_value(), self._transmitter.i
        index = Signal(range(packet.HEADER.size))
        with m.State("REST"), m.If(self._answer):
            m.next = "HEADER"

        with m.State("HEADER"):
            m.d.comb += [sent.valid.eq(1), sent.payload.data.eq(header[:8])]
            with m.If(index == 1):
                code = Mux(self._resend, packet.RESEND, packet.REFUSED)
                number = Mux(self._resend | self._refused, code, header[:7])
                m.d.comb += sent.payload.data.eq(packet.ANSWER | number)
            with m.Elif(self._resend & (index != 0)):
                m.d.comb += sent.payload.data.eq(Mux(index == 2, self._admission.expected, 0))
            with m.If(sent.ready):
                m.d.comb += self._receiver.rotate.eq(1)
                m.d.sync += index.eq(index + 1)
            with m.If(index == packet.HEADER.size - 1):
                m.d.comb += sent.payload.last.eq(~self._has_payload)
                with m.If(sent.ready):
                    m.d.sync += [index.eq(0), self._answered.eq(~self._has_payload)]
                    m.next = "REST"
                    with m.If(self._has_payload):
                        m.next = "PREPARE"

    def _answer_word(self, m: Module) -> Signal:
        """Word of STATUS or COUNTERS that starts when `position` bytes are left, in `_WORD_CYCLES`."""
        words_left = self._position[2:6]
        # Four words: when four are left, the lower bits of their number are 0.
        state = [Cat(self.status, Const(0, 12), self.layer), self._signature, self.cycles, self.pc]
        counters = [0, *(self.counters[number] for number in reversed(Counter))]
        counters[len(Counter) - Counter.LINK_ERRORS] = self._errors
        is_status = registered(m, self._type == Type.STATUS, "is_status")
        if not self._config.performance_counters:  # little to choose from
            word = Mux(is_status, Array(state)[words_left[:2]], Array(counters)[words_left])
            return registered(m, word, "answer_word")
        groups = []
        for first in range(0, len(counters), 4):
            group = Array(counters[first : first + 4])[words_left[:2]]
            groups.append(registered(m, group, f"counters_{first}"))
        states = registered(m, Array(state)[words_left[:2]], "state_word")
        word = Mux(is_status, states, Array(groups)[words_left[2:]])
        return registered(m, word, "answer_word")

    def _answer_payload(self, m: Module) -> None:
        """PREPARE waits for a byte of the activation memory or for a word; SEND sends bytes."""
        sent, position, is_read = self._transmitter.i, self._position, self._is_read
        is_identity = (self._type == Type.OPEN) | (self._type == Type.RESET)
        identity = packet.IDENTITY.pack(*packet.identity(self._config))
        wait = max(self._read_latency, _WORD_CYCLES)
        waited = Signal(range(wait + 1))
        last = Signal()  # position == 1; bytes are sent every other cycle at most
        m.d.sync += last.eq(position == 1)
        with m.State("PREPARE"):
            m.d.comb += self._load.eq(1)
            m.d.sync += waited.eq(waited + 1)
            with m.If(waited == wait):
                m.d.sync += waited.eq(0)
                m.next = "SEND"

        with m.State("SEND"):
            m.d.comb += [
                sent.valid.eq(1),
                sent.payload.last.eq(last),
                sent.payload.data.eq(self._shifter[24:32]),
            ]
            with m.If(is_read):
                m.d.comb += sent.payload.data.eq(self.read_data)
            with m.Elif(is_identity):
                m.d.comb += sent.payload.data.eq(Array([0, *reversed(identity)])[position[:4]])
            with m.If(sent.ready):
                m.d.comb += [self._shift_out.eq(1), self._up.eq(1)]
                m.d.sync += position.eq(self._next_position)
                with m.If(last):
                    m.d.sync += self._answered.eq(1)
                    m.next = "REST"
                with m.Elif(is_read | (~is_identity & (position[:2] == 1))):
                    m.next = "PREPARE"
