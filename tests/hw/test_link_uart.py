"""The serial port: its bit timing, loopback, noise, framing errors, overflow."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from popshift.hw.config import load_config
from popshift.hw.link.uart import Uart, UartReceiver, UartTransmitter, bit_rate

RATES = [(24_000_000, 3_000_000), (96_000_000, 3_000_000), (25_000_000, 3_000_000), (12_000_000, 3_000_000)]
RATES += [(100_000_000, 3_000_000), (50_000_000, 3_000_000), (13_000_000, 2_999_999)]


def config(clock_hz: int, baud: int, fifo: int = 64):
    return load_config("tiny").replace(link="uart", clock_hz=clock_hz, baud=baud, link_fifo_depth=fifo)


@pytest.mark.parametrize(("clock_hz", "baud"), [*RATES, (100_000_000, 1200), (999_999_937, 115_200)])
def test_rate_is_within_its_tolerance(clock_hz, baud):
    width, increment = bit_rate(clock_hz, baud)
    assert abs(increment * clock_hz / 2**width - baud) <= 1.001e-3 * baud


def test_whole_powers_of_two_need_no_fraction():
    assert bit_rate(24_000_000, 3_000_000) == (3, 1)
    assert bit_rate(96_000_000, 3_000_000) == (5, 1)


@pytest.mark.parametrize("baud", [0, -1, 3_000_001])
def test_impossible_rates_are_refused(baud):
    with pytest.raises(ValueError, match=rf"baud must be 1 .. clock_hz / 4 = 3000000, not {baud}"):
        bit_rate(12_000_000, baud)


def send_line(clock_hz: int, baud: float, data: bytes, *, stop: int = 1, gap_bits: float = 0.0) -> list[int]:
    """The line, sampled at every clock, as an ideal sender of that rate drives it."""
    bits = []
    for byte in data:
        bits += [0, *(byte >> index & 1 for index in range(8)), stop]
    line, clocks_per_bit = [1] * 7, clock_hz / baud
    for index in range(len(data)):
        begin = len(line)
        ten = bits[10 * index : 10 * index + 10]
        line += [ten[int(clock / clocks_per_bit)] for clock in range(int(10 * clocks_per_bit))]
        line += [1] * round(gap_bits * clocks_per_bit)
        assert len(line) > begin
    return line + [1] * int(20 * clocks_per_bit)


def receive_line(clock_hz: int, baud: int, line: list[int]) -> bytes:
    dut, received = UartReceiver(clock_hz=clock_hz, baud=baud), bytearray()

    async def bench(ctx):
        for level in line:
            ctx.set(dut.rx, level)
            _, _, valid, payload = await ctx.tick().sample(dut.valid, dut.payload)
            if valid:
                received.append(payload)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return bytes(received)


@pytest.mark.parametrize(("clock_hz", "baud"), RATES)
def test_receiver_against_an_ideal_sender(clock_hz, baud):
    data = random.Random(clock_hz).randbytes(40)
    assert receive_line(clock_hz, baud, send_line(clock_hz, baud, data)) == data


@pytest.mark.parametrize("deviation", [0.98, 1.02])
def test_receiver_tolerates_two_percent(deviation):
    data = random.Random(1).randbytes(40)
    line = send_line(100_000_000, 3_000_000 * deviation, data)
    assert receive_line(100_000_000, 3_000_000, line) == data


def test_missing_stop_bit_drops_the_byte():
    line = send_line(24_000_000, 3_000_000, b"\x55", stop=0, gap_bits=2) + send_line(
        24_000_000, 3_000_000, b"ok"
    )
    assert receive_line(24_000_000, 3_000_000, line) == b"ok"


def test_break_is_no_byte():
    line = [1] * 10 + [0] * 300 + send_line(24_000_000, 3_000_000, b"ok")
    assert receive_line(24_000_000, 3_000_000, line) == b"ok"


def test_short_pulse_is_noise():
    line = [1] * 20 + [0] * 10 + [1] * 40 + send_line(96_000_000, 3_000_000, b"ok")
    assert receive_line(96_000_000, 3_000_000, line) == b"ok"


@pytest.mark.parametrize(("clock_hz", "baud"), RATES)
def test_transmitter_bit_timing(clock_hz, baud):
    """Bytes follow each other without a gap; every bit, sampled in its middle, is right."""
    data = random.Random(baud).randbytes(12)
    dut, line = UartTransmitter(clock_hz=clock_hz, baud=baud), []

    async def drive(ctx):
        for byte in data:
            ctx.set(dut.i.payload, byte)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(15 * clock_hz // baud)

    async def watch(ctx):
        async for _, _, level in ctx.tick().sample(dut.tx):
            line.append(level)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    begin, bit = line.index(0), clock_hz / baud
    for index, byte in enumerate(data):
        expected = [0, *(byte >> n & 1 for n in range(8)), 1]
        middles = [begin + int((10 * index + n + 0.5) * bit) for n in range(10)]
        assert [line[at] for at in middles] == expected


@pytest.mark.parametrize(("clock_hz", "baud"), RATES)
def test_loopback(clock_hz, baud):
    data, received = random.Random(2).randbytes(50), bytearray()
    dut = Uart(config=config(clock_hz, baud))
    m = Module()
    m.submodules.dut = dut
    m.d.comb += dut.rx.eq(dut.tx)

    async def drive(ctx):
        for byte in data:
            ctx.set(dut.transmit.payload, byte)
            ctx.set(dut.transmit.valid, 1)
            await ctx.tick().until(dut.transmit.ready)
        ctx.set(dut.transmit.valid, 0)

    async def collect(ctx):
        rng = random.Random(3)
        while len(received) < len(data):
            await ctx.tick().repeat(rng.randrange(1, 40))
            ctx.set(dut.received.ready, 1)
            (payload,) = await ctx.tick().sample(dut.received.payload).until(dut.received.valid)
            received.append(payload)
            ctx.set(dut.received.ready, 0)

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.add_testbench(collect)
    simulator.run_until(1e-6 * 600 * clock_hz / baud)
    assert received == data


def test_bytes_that_find_the_buffer_full_are_lost():
    """Nothing is taken while 30 bytes come in: the first 18 (buffer and two registers behind it) survive."""
    data, received = bytes(range(1, 31)), bytearray()
    dut = Uart(config=config(24_000_000, 3_000_000, fifo=16))

    async def bench(ctx):
        for level in send_line(24_000_000, 3_000_000, data):
            ctx.set(dut.rx, level)
            await ctx.tick()
        ctx.set(dut.received.ready, 1)
        for _ in range(60):
            _, _, valid, payload = await ctx.tick().sample(dut.received.valid, dut.received.payload)
            if valid:
                received.append(payload)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert received == data[:18]
