"""What is proved: modules with Assert and Assume around the hardware's own."""

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from unittest import mock

from amaranth.hdl import Array, Assert, Assume, Cat, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig
from popshift.hw.control import commands
from popshift.hw.control.commands import CommandUnit
from popshift.hw.link.framing import HEADER, FrameReceiver, FrameTransmitter
from popshift.hw.memory.ram import Ram
from popshift.hw.packet import Space, Type
from popshift.hw.tech import Simulated


class QueueProof(Elaboratable):
    """A component with streams `i` and `o` of bytes hands each on once, unchanged and in order, holds at most
    `capacity`, and does not change its mind about a byte that nobody has taken.
    """

    def __init__(self, queue, capacity: int) -> None:
        self.queue, self._capacity = queue, capacity
        self.inputs = [queue.i.valid, queue.i.payload, queue.o.ready]

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.queue = queue = self.queue
        waiting = [Signal(8, name=f"waiting_{place}") for place in range(self._capacity)]
        count = Signal(range(self._capacity + 1))
        put, get = queue.i.valid & queue.i.ready, queue.o.valid & queue.o.ready
        with m.If(get):
            m.d.sync += [here.eq(there) for here, there in pairwise(waiting)]
        with m.If(put):
            m.d.sync += Array(waiting)[(count - get)[: len(count)]].eq(queue.i.payload)
        m.d.sync += count.eq(count + put - get)
        offered, before = Signal(), Signal(8)
        m.d.sync += [offered.eq(queue.o.valid & ~queue.o.ready), before.eq(queue.o.payload)]
        m.d.comb += [
            Assert(~put | get | (count < self._capacity)),
            Assert(~queue.o.valid | (count != 0)),
            Assert(~queue.o.valid | (queue.o.payload == waiting[0])),
            Assert(~offered | (queue.o.valid & (queue.o.payload == before))),
        ]
        if self._capacity == 1:  # what lets the induction close
            m.d.comb += Assert(queue.o.valid == (count == 1))
        return m


class FifoStreams(wiring.Component):
    """The FIFO behind the UART, as streams."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.fifo = queue = fifo.SyncFIFOBuffered(width=8, depth=self._depth)
        m.d.comb += [
            queue.w_data.eq(self.i.payload),
            queue.w_en.eq(self.i.valid),
            self.i.ready.eq(queue.w_rdy),
            self.o.payload.eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o.ready),
        ]
        return m


class _FreeRam(Ram):
    """A memory that may say anything: `free` is read."""

    def __init__(self, *, width: int, depth: int) -> None:
        super().__init__(width=width, depth=depth)
        self.free = Signal(width, name="ram_free")

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.read_data.eq(self.free)
        return m


class _FreeMemory(Simulated):
    """The technology of one such memory, `buffer`."""

    def __init__(self, *, width: int, depth: int) -> None:
        super().__init__()
        self.buffer = _FreeRam(width=width, depth=depth)

    def ram(self, *, width: int, depth: int, read_back: bool = False) -> Ram:
        assert (width, depth) == (self.buffer.width, self.buffer.depth)
        return self.buffer


class ReceiverProof(Elaboratable):
    """Whatever bytes arrive, and whatever the CRC says of them: a frame that is held is no longer than it may
    be, stays as it is until it is released, is not overwritten meanwhile, and otherwise the receiver listens
    within `LONGEST_PAUSE` cycles.
    """

    LONGEST_PAUSE = 4

    def __init__(self) -> None:
        self._technology = _FreeMemory(width=8, depth=packet.MAX_PAYLOAD)
        self._receiver = receiver = FrameReceiver(technology=self._technology)
        self.inputs = [
            receiver.i.valid,
            receiver.i.payload,
            receiver.release,
            receiver.rotate,
            receiver.crc.match,
            self._technology.buffer.free,
        ]

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.receiver = receiver = self._receiver
        pause, held = Signal(range(self.LONGEST_PAUSE + 2)), Signal()
        header, length = Signal(HEADER.size), Signal.like(receiver.length)
        m.d.sync += [
            pause.eq(Mux(receiver.i.ready | receiver.valid, 0, pause + (pause <= self.LONGEST_PAUSE))),
            held.eq(receiver.valid & ~receiver.release & ~receiver.rotate),
            header.eq(receiver.header.as_value()),
            length.eq(receiver.length),
        ]
        m.d.comb += [
            Assume(receiver.valid | ~(receiver.release | receiver.rotate)),
            Assert(~receiver.valid | (receiver.length <= packet.MAX_PAYLOAD)),
            Assert(~receiver.valid | ~receiver.i.ready),
            Assert(pause <= self.LONGEST_PAUSE),
            Assert(~held | (receiver.valid & (header == receiver.header.as_value()))),
            Assert(~held | (length == receiver.length)),
            Assert(~receiver.valid | ~self._technology.buffer.write_enable),
        ]
        return m


_RECEIVER, _TRANSMITTER = FrameReceiver(), FrameTransmitter()
for _part in (_RECEIVER, _TRANSMITTER):
    _part._MustUse__used = True  # only their signatures are wanted


class _FreeReceiver(wiring.Component):
    """In the place of a `FrameReceiver`: any good frame of at most `longest` bytes of payload, at any
    time.
    """

    longest = 8

    def __init__(self, *, technology=None) -> None:
        super().__init__(_RECEIVER.signature)
        self.free_header, self.free_length = Signal(HEADER), Signal(range(packet.MAX_PAYLOAD + 1))
        self.free_valid, self.free_data = Signal(), Signal(8)

    @property
    def inputs(self) -> list[Value]:
        return [self.free_header.as_value(), self.free_length, self.free_valid, self.free_data]

    def elaborate(self, platform) -> Module:
        m = Module()
        header = self.header.as_value()
        m.d.comb += [self.read_data.eq(self.free_data), Assume(self.free_length <= self.longest)]
        with m.If(~self.valid):
            m.d.sync += [
                self.valid.eq(self.free_valid),
                header.eq(self.free_header),
                self.length.eq(self.free_length),
            ]
        with m.Else():
            with m.If(self.rotate):
                m.d.sync += header.eq(Cat(header[8:], header[:8]))
            with m.If(self.release):
                m.d.sync += self.valid.eq(0)
        return m


LONG_ANSWERS = (Type.OPEN, Type.RESET, Type.READ, Type.STATUS, Type.COUNTERS)


class _FreeTransmitter(wiring.Component):
    """In the place of a `FrameTransmitter`: takes a byte every cycle."""

    def __init__(self, *, technology=None) -> None:
        super().__init__(_TRANSMITTER.signature)

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += [self.i.ready.eq(1), self.crc_idle.eq(1)]
        return m


class CommandProof(Elaboratable):
    """Whatever good frame arrives in whatever state of the machine: the command unit writes nothing but the
    words that a WRITE addresses, all of which are in the memory, and only while such a frame is held; and it
    is done with the frame within `LONGEST` cycles, if the link takes a byte in every one of them. READ is
    left out of the
    last: it may ask for a thousand bytes.
    """

    LONGEST = 34

    def __init__(self, config: AcceleratorConfig, claimed: AcceleratorConfig | None = None) -> None:
        """`claimed`: whose depths the proof is about; others than the unit's make it fail, as it must."""
        self._config = claimed or config
        self.commands = CommandUnit(config=config, read_latency=1, technology=Simulated())
        self.receiver = _FreeReceiver()
        self.inputs = [self.commands.read_data, self.commands.status, *self.receiver.inputs]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While the module is elaborated."""
        free = {"FrameReceiver": lambda technology: self.receiver, "FrameTransmitter": _FreeTransmitter}
        with mock.patch.multiple(commands, **free):
            yield

    def elaborate(self, platform) -> Module:
        m = Module()
        config, unit, receiver = self._config, self.commands, self.receiver
        m.submodules.commands = unit
        # The header turns while the answer is sent: the request as it came.
        asked, length = Signal(HEADER), Signal.like(receiver.length)
        with m.If(~receiver.valid):
            m.d.sync += [asked.eq(receiver.free_header), length.eq(receiver.free_length)]
        address = asked.address
        space, word = address[packet.SPACE_SHIFT :], address[: packet.SPACE_SHIFT]
        writes = receiver.valid & (asked.type == Type.WRITE)
        sizes = (config.weight_word_bytes, config.parameter_word_bytes, 4)
        depths = (config.weight_depth, config.parameter_depth, config.program_depth)
        spaces = (Space.WEIGHT, Space.PARAMETER, Space.PROGRAM)
        target = unit.word_write_address
        for strobe, number, size, depth in zip(unit.word_write_space, spaces, sizes, depths, strict=True):
            right = writes & (space == number) & (target < depth) & (target >= word)
            m.d.comb += Assert(~strobe | (right & ((target - word + 1)[: len(word)] * size <= length)))
        target, mask = unit.activation_write_address, config.bank_mask_bytes
        right = writes & (space == Space.ACTIVATION) & (target < config.activation_depth) & (target >= word)
        enough = (target - word + 1)[: len(word)] + mask <= length
        m.d.comb += Assert(~unit.activation_write_valid | (right & enough))
        worked = Signal(range(self.LONGEST + 2))
        m.d.sync += worked.eq(Mux(receiver.valid, worked + (worked <= self.LONGEST), 0))
        long_answer = Cat(asked.type == number for number in LONG_ANSWERS).any()
        m.d.comb += Assert(long_answer | (worked <= self.LONGEST))
        return m
