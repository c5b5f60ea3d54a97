"""The serial port: 8 data bits, no parity, one stop bit, least significant bit first."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from popshift.hw.config import AcceleratorConfig
from popshift.hw.link.stage import Stage

DATA_BITS = 8
RATE_TOLERANCE = 1e-3
"""Largest relative error that `bit_rate` accepts; the two ends of a line may differ by some 4 %."""


def bit_rate(clock_hz: int, baud: int) -> tuple[int, int]:
    """Phase accumulator for a bit rate: (width, increment per clock), the narrowest within `RATE_TOLERANCE`.

    A bit lasts until an accumulator of `width` bits overflows; it need not be a whole number of clocks long.

    Raises
    ------
    ValueError: fewer than four clocks per bit.
    """
    if not 0 < 4 * baud <= clock_hz:
        raise ValueError(
            f"baud must be 1 .. clock_hz / 4 = {clock_hz // 4}, not {baud}; lower it or raise the clock"
        )
    width = 2
    while True:
        increment = ((baud << width) + clock_hz // 2) // clock_hz
        if abs(increment * clock_hz - (baud << width)) <= RATE_TOLERANCE * (baud << width):
            return width, increment
        width += 1


class UartReceiver(wiring.Component):
    """Bytes from a line. Each bit is sampled in its middle; a byte whose stop bit is missing is dropped.

    A start bit that does not last to its middle is taken for noise. There is no back pressure: `valid`
    lasts one cycle.
    """

    rx: Signal
    payload: Signal
    valid: Signal

    def __init__(self, *, clock_hz: int, baud: int) -> None:
        self._width, self._increment = bit_rate(clock_hz, baud)
        super().__init__({"rx": In(1, init=1), "payload": Out(DATA_BITS), "valid": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.rx, line, init=1, stages=2)

        phase = Signal(self._width)
        following = Signal(self._width + 1)
        sample = following[self._width]
        bits_left = Signal(range(DATA_BITS + 2))
        m.d.comb += following.eq(phase + self._increment)

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [phase.eq(1 << (self._width - 1)), bits_left.eq(DATA_BITS + 1)]
                with m.If(~line):
                    m.next = "BITS"
            with m.State("BITS"):
                m.d.sync += phase.eq(following)
                with m.If(sample):
                    m.d.sync += bits_left.eq(bits_left - 1)
                    with m.If(bits_left == 0):
                        m.d.comb += self.valid.eq(line)
                        m.next = "BREAK"
                        with m.If(line):
                            m.next = "IDLE"
                    with m.Else():
                        m.d.sync += self.payload.eq(Cat(self.payload[1:], line))
                    with m.If((bits_left == DATA_BITS + 1) & line):
                        m.next = "IDLE"
            with m.State("BREAK"), m.If(line):
                m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a line; consecutive bytes follow each other without a gap."""

    i: stream.Interface
    tx: Signal

    def __init__(self, *, clock_hz: int, baud: int) -> None:
        self._width, self._increment = bit_rate(clock_hz, baud)
        super().__init__({"i": In(stream.Signature(DATA_BITS)), "tx": Out(1, init=1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        phase = Signal(self._width)
        following = Signal(self._width + 1)
        bit_over = Signal()
        shifter = Signal(DATA_BITS + 1, init=-1)
        bits_left = Signal(range(DATA_BITS + 3))
        m.d.comb += [
            following.eq(phase + self._increment),
            self.tx.eq(shifter[0]),
            self.i.ready.eq((bits_left == 0) | ((bits_left == 1) & bit_over)),
        ]
        with m.If(bits_left == 0):
            m.d.sync += [phase.eq(0), bit_over.eq(0)]
        with m.Else():
            m.d.sync += [phase.eq(following), bit_over.eq(following[self._width])]
            with m.If(bit_over):
                m.d.sync += [shifter.eq(Cat(shifter[1:], 1)), bits_left.eq(bits_left - 1)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [shifter.eq(Cat(0, self.i.payload)), bits_left.eq(DATA_BITS + 2)]
        return m


class Uart(wiring.Component):
    """Serial port with a byte buffer behind its receiver.

    Members
    -------
    rx, tx: the pins.
    received: bytes from the line, from a buffer of `link_fifo_depth`; a byte that finds it full is lost
        (the CRC of its frame then tells).
    transmit: bytes for the line.
    """

    rx: Signal
    tx: Signal
    received: stream.Interface
    transmit: stream.Interface

    def __init__(self, *, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "received": Out(stream.Signature(DATA_BITS)),
                "transmit": In(stream.Signature(DATA_BITS)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        rate = {"clock_hz": self._config.clock_hz, "baud": self._config.baud}
        m.submodules.receiver = receiver = UartReceiver(**rate)
        m.submodules.transmitter = transmitter = UartTransmitter(**rate)
        # One byte waits in the output register, so the memory itself keeps the configured depth.
        m.submodules.buffer = buffer = fifo.SyncFIFOBuffered(
            width=DATA_BITS, depth=self._config.link_fifo_depth + 1
        )
        # Registers behind the memory's slow output and before the line: a byte every other cycle is more than
        # it has.
        m.submodules.stage_in = stage_in = Stage(DATA_BITS)
        m.submodules.stage_out = stage_out = Stage(DATA_BITS)
        wiring.connect(m, wiring.flipped(self.transmit), stage_out.i)
        wiring.connect(m, stage_out.o, transmitter.i)
        wiring.connect(m, stage_in.o, wiring.flipped(self.received))
        m.d.comb += [
            receiver.rx.eq(self.rx),
            buffer.w_data.eq(receiver.payload),
            buffer.w_en.eq(receiver.valid),
            buffer.r_en.eq(stage_in.i.ready),
            stage_in.i.payload.eq(buffer.r_data),
            stage_in.i.valid.eq(buffer.r_rdy),
            self.tx.eq(transmitter.tx),
        ]
        return m
