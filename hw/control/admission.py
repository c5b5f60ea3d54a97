"""Which requests are executed: sequence numbers, sessions, and requests that make no sense."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Status
from popshift.hw.link.framing import HEADER
from popshift.hw.packet import Space, Type

READ_REQUEST_BYTES = 2
READ_ONLY = (Type.OPEN, Type.READ, Type.STATUS, Type.COUNTERS)
"""Types that are executed again when they are repeated."""


class Admission(wiring.Component):
    """Judges a request by its header, its length and the state of the machine; remembers what it has seen.

    Members
    -------
    header, length: of the request, steady for at least two cycles before `decide`.
    status: of the machine.
    decide: strobe: `fresh`, `resend` and `refuse` hold now.
    fresh: the request is the expected one (or opens a session); it changes things only if this is so.
    resend: it is neither expected nor a repetition.
    expected: the number of the next request.
    refuse: it makes no sense. Payloads are not looked at.
    answered, refused: strobe: the request decided last has been answered (with REFUSED); its header has been
        in place for two cycles.

    A request that was refused stays refused when it is repeated, whatever the machine does by then. One
    number is remembered for that: of several refused requests the host still learns about the last.
    """

    header: data.View
    length: Signal
    status: Signal
    decide: Signal
    fresh: Signal
    resend: Signal
    expected: Signal
    refuse: Signal
    answered: Signal
    refused: Signal

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "header": In(HEADER),
                "length": In(range(packet.MAX_PAYLOAD + 1)),
                "status": In(4),
                "decide": In(1),
                "fresh": Out(1),
                "resend": Out(1),
                "expected": Out(packet.SEQUENCE_BITS),
                "refuse": Out(1),
                "answered": In(1),
                "refused": In(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        header = self.header
        expected, ahead = self.expected, Signal(packet.SEQUENCE_BITS)
        session, same_session = Signal(32), Signal()
        opened = Signal()
        refused_sequence, any_refused, was_refused = Signal.like(expected), Signal(), Signal()
        opens, is_next, old, is_fresh, is_opening = Signal(), Signal(), Signal(), Signal(), Signal()
        sensible, allowed = self._sensible(m), self._allowed(m)
        read_only, makes_sense, may = Signal(), Signal(), Signal()
        m.d.comb += ahead.eq(header.sequence - expected)
        m.d.sync += [
            same_session.eq(opened & (session == header.address)),
            opens.eq((header.type == Type.OPEN) & (self.length == 0) & ~same_session),
            # Without a session nothing is next or old: else a device that has just got its power back would
            # take the requests of a session with the one before it for repetitions, and answer them.
            is_next.eq(opened & (ahead == 0)),
            old.eq(opened & ahead[-1]),
            was_refused.eq(any_refused & (header.sequence == refused_sequence)),
            read_only.eq(Cat(header.type == number for number in READ_ONLY).any()),
            makes_sense.eq(sensible),
            may.eq(allowed),
        ]
        m.d.comb += [
            self.fresh.eq(is_next | opens),
            self.resend.eq(~self.fresh & ~old),
            self.refuse.eq(~makes_sense | ((self.fresh | read_only) & ~may) | (~self.fresh & was_refused)),
        ]

        with m.If(self.decide):
            m.d.sync += [is_fresh.eq(self.fresh), is_opening.eq(opens)]
        with m.If(self.answered & is_fresh):
            m.d.sync += expected.eq(header.sequence + 1)
            with m.If(is_opening):
                m.d.sync += [session.eq(header.address), opened.eq(1), any_refused.eq(0)]
            with m.Elif(self.refused):
                m.d.sync += [refused_sequence.eq(header.sequence), any_refused.eq(1)]
            with m.Elif(was_refused):
                m.d.sync += any_refused.eq(0)
        return m

    def _sensible(self, m: Module) -> Signal:
        """Whether type, length and the fixed parts of the address make sense, whatever the state."""
        sensible, address = Signal(), self.header.address
        # Bits 24 .. 27 are unused; 30 and 31 are set only in spaces that do not exist.
        outside = Cat(address[24 : packet.SPACE_SHIFT], address[packet.SPACE_SHIFT + 2 :]).any()
        with m.Switch(self.header.type):
            with m.Case(Type.WRITE):
                m.d.comb += sensible.eq(~outside)
            with m.Case(Type.READ):
                in_memory = address[packet.SPACE_SHIFT : packet.SPACE_SHIFT + 2] == Space.ACTIVATION
                in_banks = address[packet.BANK_SHIFT : 24] < self._config.rows
                m.d.comb += sensible.eq((self.length == READ_REQUEST_BYTES) & ~outside & in_memory & in_banks)
            with m.Case(Type.RUN):
                m.d.comb += sensible.eq(self.length == packet.RUN.size)
            with m.Case(Type.OPEN, Type.RESET, Type.STATUS, Type.COUNTERS, Type.CONTINUE):
                m.d.comb += sensible.eq(self.length == 0)
        return sensible

    def _allowed(self, m: Module) -> Signal:
        """Whether the machine is in a state in which the request makes sense."""
        allowed = Signal(init=1)
        with m.Switch(self.header.type):
            with m.Case(Type.WRITE, Type.READ):
                m.d.comb += allowed.eq(self.status != Status.RUNNING)
            with m.Case(Type.RUN):
                m.d.comb += allowed.eq((self.status == Status.IDLE) | (self.status == Status.DONE))
            with m.Case(Type.CONTINUE):
                m.d.comb += allowed.eq(self.status == Status.PAUSED)
        return allowed
