"""Frames on the byte stream: COBS, CRC-32, and the buffers they need.

The layout of a frame is that of `popshift.hw.packet`. COBS (Cheshire and Baker, "Consistent Overhead Byte
Stuffing", 1999) removes the zeros, so that a zero byte can end a frame and a receiver finds its way again
after any damage.
"""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from popshift.hw import packet
from popshift.hw.link.stage import Stage
from popshift.hw.memory.ram import Ram
from popshift.hw.pipeline import registered
from popshift.hw.tech.portable import Portable

MAX_BLOCK = 254
"""Data bytes in the longest COBS block."""

READ_CYCLES = Ram.LATENCY
"""Cycles from an address of a buffer to its byte."""

HEADER = data.StructLayout({"sequence": packet.SEQUENCE_BITS, "type": 8, "address": 32})
FRAME_BYTE = data.StructLayout({"data": 8, "last": 1})
assert HEADER.size == 8 * packet.HEADER.size

CRC_USER = wiring.Signature(
    {"start": Out(1), "valid": Out(1), "data": Out(8), "crc": In(8 * packet.CRC_BYTES), "match": In(1)}
)
"""A user of a `FrameCrc`: signals as of `amaranth.lib.crc.Processor`; `start` takes a cycle of its own."""


class FrameCrc(wiring.Component):
    """The CRC of both directions: a device that answers one request after the other never needs two.

    Members
    -------
    receiver, transmitter: its users. What the one computes is lost as soon as the other starts. `crc` and
        `match` take in a byte two cycles after it was given.
    """

    receiver: wiring.PureInterface
    transmitter: wiring.PureInterface

    def __init__(self) -> None:
        super().__init__({"receiver": In(CRC_USER), "transmitter": In(CRC_USER)})

    def elaborate(self, platform) -> Module:
        m = Module()
        crc, start = CRC32_ISO_HDLC(data_width=8).create(), Signal()
        # `crc.start` would cost a gate in front of every bit of its register; the reset costs none.
        m.submodules.crc = ResetInserter(start)(crc)
        m.d.sync += [
            start.eq(self.receiver.start | self.transmitter.start),
            crc.valid.eq(self.receiver.valid | self.transmitter.valid),
            crc.data.eq(Mux(self.transmitter.valid, self.transmitter.data, self.receiver.data)),
        ]
        for user in (self.receiver, self.transmitter):
            m.d.comb += [user.crc.eq(crc.crc), user.match.eq(crc.match_detected)]
        return m


class FrameReceiver(wiring.Component):
    """Takes frames apart, keeps one that arrived whole, drops the others.

    Members
    -------
    i: encoded bytes. Not ready while a frame is held, nor for three cycles before.
    valid: a frame is held; everything below describes it.
    header: its header.
    rotate: strobe: the header turns by one byte; its lowest byte runs through the six in the order of the
        link and the sixth strobe restores it.
    length: payload bytes, 0 .. 1024.
    read_address, read_data: its payload; the byte follows its address by `READ_CYCLES`.
    release: strobe: drop the frame and listen again.
    crc: to a `FrameCrc`, which is in use from the first byte of a frame to its delimiter.
    damaged: strobe: a frame was dropped: wrong CRC, wrong length, or a delimiter inside a COBS block. Further
        delimiters behind a delimiter are no frames.

    One byte per cycle.
    """

    i: stream.Interface
    valid: Signal
    header: data.View
    rotate: Signal
    length: Signal
    read_address: Signal
    read_data: Signal
    release: Signal
    crc: wiring.PureInterface
    damaged: Signal

    def __init__(self, *, technology: Portable | None = None) -> None:
        self._technology = technology or Portable()
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "valid": Out(1),
                "header": Out(HEADER),
                "rotate": In(1),
                "length": Out(range(packet.MAX_PAYLOAD + 1)),
                "read_address": In(range(packet.MAX_PAYLOAD)),
                "read_data": Out(8),
                "release": In(1),
                "crc": Out(CRC_USER),
                "damaged": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        accept = self.i.valid & self.i.ready
        ended = accept & (self.i.payload == packet.DELIMITER)
        # A code byte c announces c - 1 data bytes, then a zero, unless c is 255 or the frame ends there.
        block_left = Signal(8, init=1)
        is_code = Signal(init=1)  # block_left == 1
        begun = Signal()
        zero_due = Signal()
        # What was decoded is registered: much depends on it.
        byte, byte_valid = Signal(8, reset_less=True), Signal()
        starts, complete = Signal(), Signal()
        # Once a frame has ended: its last byte is taken in by the CRC, which is then compared.
        ending, ends = Signal(2), Signal()
        m.d.comb += self.i.ready.eq(~self.valid & (ending == 0) & ~ends)
        m.d.sync += [
            byte.eq(Mux(is_code, 0, self.i.payload)),
            byte_valid.eq(accept & ~ended & (~is_code | zero_due)),
            starts.eq(accept & ~begun),
            Cat(ending, ends).eq(Cat(ended & begun, ending)),
        ]
        with m.If(ended):
            m.d.sync += [complete.eq(is_code), block_left.eq(1), is_code.eq(1), begun.eq(0), zero_due.eq(0)]
        with m.Elif(accept):
            m.d.sync += begun.eq(1)
            with m.If(is_code):
                m.d.sync += [
                    block_left.eq(self.i.payload),
                    is_code.eq(self.i.payload == 1),
                    zero_due.eq(self.i.payload != MAX_BLOCK + 1),
                ]
            with m.Else():
                m.d.sync += [block_left.eq(block_left - 1), is_code.eq(block_left == 2)]

        whole = self._collect(m, starts=starts, byte=byte, byte_valid=byte_valid)
        m.d.sync += self.damaged.eq(ends & ~(complete & whole))
        with m.If(ends):
            m.d.sync += self.valid.eq(complete & whole)
        with m.Elif(self.release):
            m.d.sync += self.valid.eq(0)
        return m

    def _collect(self, m: Module, *, starts, byte: Signal, byte_valid: Signal):
        """Header, payload and CRC of the decoded bytes; returns whether those since `starts` are a frame (a
        register behind the CRC).
        """
        m.submodules.buffer = buffer = self._technology.ram(width=8, depth=packet.MAX_PAYLOAD)

        # Bytes behind the header, counted modulo 2048: 2042 .. 2047 (both top bits set) are the header
        # itself, the last four are the CRC, which needs no room in the buffer.
        count = Signal(range(2 * packet.MAX_PAYLOAD))
        length = Signal.like(count)
        oversize = Signal()
        in_header = count[-1] & count[-2]
        full = length[-1] & ~length[-2]
        header = self.header.as_value()
        m.d.comb += [
            length.eq(count - packet.CRC_BYTES),
            self.crc.start.eq(starts),
            self.crc.data.eq(byte),
            self.crc.valid.eq(byte_valid),
            buffer.write_address.eq(count),
            buffer.write_data.eq(byte),
            buffer.write_enable.eq(byte_valid & ~count[-1]),
            buffer.read_address.eq(self.read_address),
            self.read_data.eq(buffer.read_data),
        ]
        m.d.sync += self.length.eq(length)
        with m.If(starts):
            m.d.sync += [count.eq(-packet.HEADER.size), oversize.eq(0)]
        with m.Elif(byte_valid):
            with m.If(full):
                m.d.sync += oversize.eq(1)
            with m.Else():
                m.d.sync += count.eq(count + 1)
        with m.If((byte_valid & in_header) | self.rotate):
            m.d.sync += header.eq(Cat(header[8:], Mux(self.rotate, header[:8], byte)))
        return registered(m, self.crc.match & ~oversize & ~(length[-1] & length[-2]), "whole")


class FrameTransmitter(wiring.Component):
    """Appends the CRC to a frame's bytes, encodes them, adds the delimiter.

    Members
    -------
    i: header and payload; `last` with the frame's last byte.
    o: encoded bytes.
    crc: to a `FrameCrc`.
    crc_idle: that CRC is not in use; it is from the first byte of a frame until its CRC has been appended.

    A block is gathered in a buffer first, because its length goes in front: five cycles per byte. Takes
    nothing while it sends a block. A frame has at least one byte.
    """

    i: stream.Interface
    o: stream.Interface
    crc: wiring.PureInterface
    crc_idle: Signal

    def __init__(self, *, technology: Portable | None = None) -> None:
        self._technology = technology or Portable()
        super().__init__(
            {
                "i": In(stream.Signature(FRAME_BYTE)),
                "o": Out(stream.Signature(8)),
                "crc": Out(CRC_USER),
                "crc_idle": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.buffer = buffer = self._technology.ram(width=8, depth=256)
        m.submodules.stage = stage = Stage(FRAME_BYTE)
        wiring.connect(m, wiring.flipped(self.i), stage.i)
        source = stage.o

        # Where the next byte comes from: the stream, then the four bytes of the CRC, then no more.
        crc_index = Signal(range(packet.CRC_BYTES))
        begun, in_crc, crc_done, complete = Signal(), Signal(), Signal(), Signal()
        byte, take = Signal(8), Signal()
        length = Signal(range(MAX_BLOCK + 1))
        sent = Signal.like(length)
        waited, last = Signal(range(READ_CYCLES + 1)), Signal()
        m.d.comb += [
            byte.eq(Mux(in_crc, self.crc.crc.word_select(crc_index, 8), source.payload.data)),
            self.crc.data.eq(source.payload.data),
            self.crc.valid.eq(take & ~in_crc),
            buffer.write_address.eq(length),
            buffer.write_data.eq(byte),
            buffer.write_enable.eq(take),
            buffer.read_address.eq(sent),
            self.crc_idle.eq(~begun | complete),
        ]
        m.d.sync += [crc_done.eq(in_crc), last.eq(sent + 1 == length)]
        with m.If(take):
            with m.If(in_crc):
                m.d.sync += [crc_index.eq(crc_index + 1), complete.eq(crc_index == packet.CRC_BYTES - 1)]
            with m.Else():
                m.d.sync += in_crc.eq(source.payload.last)

        # A frame that ends in a zero has one more block, an empty one: only GATHER decides which is the last.
        final = Signal()

        def block_over(m: Module) -> None:
            m.d.sync += length.eq(0)
            with m.If(final):
                m.next = "DELIMITER"
            with m.Else():
                m.next = "GATHER"

        with m.FSM():
            with m.State("GATHER"):
                m.d.sync += sent.eq(0)
                m.d.sync += final.eq(complete)
                with m.If(complete | (length == MAX_BLOCK)):
                    m.next = "CODE"
                with m.Elif(~begun):
                    m.d.comb += self.crc.start.eq(source.valid)
                    m.d.sync += begun.eq(source.valid)
                with m.Elif(Mux(in_crc, crc_done, source.valid)):
                    m.d.comb += [take.eq(1), source.ready.eq(~in_crc)]
                    with m.If(byte == 0):
                        m.next = "CODE"
                    with m.Else():
                        m.d.sync += length.eq(length + 1)
            with m.State("CODE"):
                m.d.sync += waited.eq(0)
                m.d.comb += [self.o.payload.eq(length + 1), self.o.valid.eq(1)]
                with m.If(self.o.ready):
                    with m.If(length == 0):
                        block_over(m)
                    with m.Else():
                        m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += [self.o.payload.eq(buffer.read_data), self.o.valid.eq(waited == READ_CYCLES)]
                with m.If(waited != READ_CYCLES):
                    m.d.sync += waited.eq(waited + 1)
                with m.Elif(self.o.ready):
                    m.d.sync += [sent.eq(sent + 1), waited.eq(0)]
                    with m.If(last):
                        block_over(m)
            with m.State("DELIMITER"):
                m.d.comb += [self.o.payload.eq(packet.DELIMITER), self.o.valid.eq(1)]
                with m.If(self.o.ready):
                    m.d.sync += [begun.eq(0), in_crc.eq(0), complete.eq(0)]
                    m.next = "GATHER"
        return m
