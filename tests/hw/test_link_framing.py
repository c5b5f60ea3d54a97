"""Frames: the receiver and the transmitter against the `cobs` package and zlib."""

import random
import zlib
from collections.abc import Iterator

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator
from cobs import cobs

from popshift.hw import packet
from popshift.hw.link.framing import READ_CYCLES, FrameCrc, FrameReceiver, FrameTransmitter
from popshift.hw.packet import Frame
from popshift.hw.tech import Simulated

LENGTHS = (0, 1, 2, 243, 244, 245, 248, 253, 254, 255, 508, 1024)


def payload(rng: random.Random, length: int, zeros: float) -> bytes:
    return bytes(0 if rng.random() < zeros else rng.randrange(1, 256) for _ in range(length))


def frame(rng: random.Random, length: int, zeros: float = 0.3) -> Frame:
    return Frame(rng.randrange(256), rng.randrange(128), rng.getrandbits(32), payload(rng, length, zeros))


def encoded(item: Frame) -> bytes:
    return cobs.encode(item.body()) + b"\0"


def pauses(rng: random.Random, stall: float) -> Iterator[bool]:
    while True:
        yield rng.random() < stall


def watchdog(cycles: int):
    async def bench(ctx):
        await ctx.delay(1e-6 * cycles)
        raise AssertionError(f"not finished after {cycles} cycles")

    return bench


def receive(stream: bytes, *, stall: float = 0.0, seed: int = 0) -> tuple[list[Frame], int]:
    """All frames the receiver hands over from `stream`, and how many damaged ones it counts."""
    dut, frames, damaged, done = FrameReceiver(technology=Simulated()), [], 0, False
    m, crc = Module(), FrameCrc()
    m.submodules += [dut, crc]
    wiring.connect(m, dut.crc, crc.receiver)

    async def drive(ctx):
        nonlocal done
        idle = pauses(random.Random(seed), stall)
        for byte in stream:
            while next(idle):
                ctx.set(dut.i.valid, 0)
                await ctx.tick()
            ctx.set(dut.i.payload, byte)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(8)
        while ctx.get(dut.valid):
            await ctx.tick()
        done = True

    async def count(ctx):
        nonlocal damaged
        async for _, _reset, strobe in ctx.tick().sample(dut.damaged):
            damaged += strobe

    async def collect(ctx):
        idle = pauses(random.Random(seed + 1), stall)
        while not done:
            await ctx.tick()
            if not ctx.get(dut.valid):
                continue
            while next(idle):
                await ctx.tick()
            data = bytearray()
            for index in range(ctx.get(dut.length)):
                ctx.set(dut.read_address, index)
                await ctx.tick().repeat(READ_CYCLES)
                data.append(ctx.get(dut.read_data))
            header = bytearray()
            ctx.set(dut.rotate, 1)
            for _ in range(packet.HEADER.size):
                header.append(ctx.get(dut.header.as_value()[:8]))
                await ctx.tick()
            ctx.set(dut.rotate, 0)
            fields = (ctx.get(dut.header.sequence), ctx.get(dut.header.type), ctx.get(dut.header.address))
            assert packet.HEADER.unpack(header) == fields
            frames.append(Frame(*fields, bytes(data)))
            ctx.set(dut.release, 1)
            await ctx.tick()
            ctx.set(dut.release, 0)

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.add_testbench(collect)
    simulator.add_testbench(count, background=True)
    simulator.add_testbench(watchdog(40 * len(stream) + 1000), background=True)
    simulator.run()
    return frames, damaged


def transmit(items: list[Frame], *, stall: float = 0.0, seed: int = 0) -> tuple[bytes, int]:
    """What the transmitter makes of `items`, and the cycles it took."""
    dut, out, cycles = FrameTransmitter(technology=Simulated()), bytearray(), 0
    m, crc = Module(), FrameCrc()
    m.submodules += [dut, crc]
    wiring.connect(m, dut.crc, crc.transmitter)

    async def drive(ctx):
        idle = pauses(random.Random(seed), stall)
        for item in items:
            data = item.body()[: -packet.CRC_BYTES]
            for index, byte in enumerate(data):
                while next(idle):
                    ctx.set(dut.i.valid, 0)
                    await ctx.tick()
                ctx.set(dut.i.payload, {"data": byte, "last": index == len(data) - 1})
                ctx.set(dut.i.valid, 1)
                await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def collect(ctx):
        nonlocal cycles
        idle, held = pauses(random.Random(seed + 1), stall), None
        while out.count(0) < len(items):
            ready = not next(idle)
            ctx.set(dut.o.ready, ready)
            _, _, valid, value = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            cycles += 1
            assert held is None or (valid and value == held), "a byte offered was changed before it was taken"
            held = value if valid and not ready else None
            if valid and ready:
                out.append(value)

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.add_testbench(collect)
    simulator.add_testbench(watchdog(20 * sum(len(item.payload) + 50 for item in items)), background=True)
    simulator.run()
    return bytes(out), cycles


@pytest.mark.parametrize(("zeros", "stall"), [(0.0, 0.0), (0.5, 0.3), (1.0, 0.1)])
def test_receiver_returns_what_was_encoded(zeros, stall):
    rng = random.Random(int(zeros * 100 + stall * 10))
    items = [frame(rng, length, zeros) for length in LENGTHS]
    assert receive(b"".join(map(encoded, items)), stall=stall) == (items, 0)


@pytest.mark.parametrize(("zeros", "stall"), [(0.0, 0.0), (0.5, 0.3), (1.0, 0.1)])
def test_transmitter_agrees_with_cobs_and_zlib(zeros, stall):
    rng = random.Random(int(zeros * 100 + stall * 10) + 1)
    items = [frame(rng, length, zeros) for length in LENGTHS]
    assert transmit(items, stall=stall)[0] == b"".join(map(encoded, items))


def test_transmitter_encodes_every_end_of_the_crc():
    """Frames chosen so that their last byte, hence the last byte of the CRC, is zero, and others."""
    rng = random.Random(5)
    found: list[Frame] = []
    while len(found) < 3:
        item = frame(rng, 3, 0.0)
        if zlib.crc32(item.body()[: -packet.CRC_BYTES]) >> 24 == 0:
            found.append(item)
    found.append(frame(rng, 3, 0.0))
    assert transmit(found)[0] == b"".join(map(encoded, found))


def test_transmitter_takes_five_cycles_per_byte():
    rng = random.Random(6)
    item = frame(rng, 1024, 0.0)
    _, cycles = transmit([item])
    assert cycles <= 5 * len(item.body()) + 20


def test_receiver_takes_a_frame_without_the_last_empty_block_omitted():
    """Encoders may close a full block of 254 with an empty one; decoders take both."""
    rng = random.Random(7)
    item = next(f for f in iter(lambda: frame(rng, 244, 0.0), None) if 0 not in f.body())
    assert len(item.body()) == 254
    assert encoded(item)[0] == 255
    assert receive(encoded(item)[:-1] + b"\x01\0") == ([item], 0)


def test_flipped_bits_are_dropped_and_counted():
    rng = random.Random(8)
    stream, good = b"", []
    for index in range(40):
        item = frame(rng, rng.choice((0, 1, 20, 60)))
        data = bytearray(encoded(item))
        if index % 2:
            # Any bit of the encoded bytes, but no flip that makes a delimiter (that splits the frame in two).
            while True:
                position, bit = rng.randrange(len(data) - 1), 1 << rng.randrange(8)
                if data[position] != bit:
                    break
            data[position] ^= bit
        else:
            good.append(item)
        stream += data
    assert receive(stream) == (good, 20)


@pytest.mark.parametrize("seed", range(3))
def test_receiver_finds_its_way_after_any_damage(seed):
    """Random cuts, insertions and delimiters: only frames that were sent arrive, all untouched ones do."""
    rng = random.Random(seed)
    sent, certain, stream = [], [], b""
    for _ in range(30):
        item = frame(rng, rng.choice((0, 1, 5, 40, 300)))
        sent.append(item)
        data = bytearray(encoded(item))
        damage = rng.choice(("none", "cut", "insert", "delimiter", "swap"))
        at = rng.randrange(len(data) - 1)
        match damage:
            case "none":
                certain.append(item)
            case "cut":
                del data[at : at + rng.randrange(1, 5)]
                data += b"\0"
            case "insert":
                data.insert(at, rng.randrange(1, 256))
            case "delimiter":
                data.insert(at, 0)
            case "swap":
                data[at], data[at + 1] = data[at + 1], data[at]
                data += b"\0"
        stream += bytes(data)
    frames, _ = receive(stream)
    assert all(item in sent for item in frames)
    assert [item for item in frames if item in certain] == certain


@pytest.mark.parametrize("cut", [1, 2, 4, 9])
def test_truncated_frames_are_damaged(cut):
    rng = random.Random(9)
    item, good = frame(rng, 30), frame(rng, 30)
    assert receive(encoded(item)[:-cut] + b"\0" + encoded(good)) == ([good], 1 if cut > 1 else 0) or cut == 1
    short = cobs.encode(item.body()[:cut]) + b"\0"
    assert receive(short + encoded(good)) == ([good], 1)


def test_short_body_with_a_matching_crc_is_damaged():
    """Fewer than six header bytes, but a right CRC behind them."""
    stream = b""
    for length in range(6):
        body = bytes(range(1, length + 1))
        stream += cobs.encode(body + zlib.crc32(body).to_bytes(4, "little")) + b"\0"
    good = frame(random.Random(10), 3)
    assert receive(stream + encoded(good)) == ([good], 6)


def test_delimiters_alone_are_no_frames():
    rng = random.Random(11)
    first, second = frame(rng, 4), frame(rng, 0)
    assert receive(b"\0\0\0" + encoded(first) + b"\0\0" + encoded(second) + b"\0") == ([first, second], 0)


@pytest.mark.parametrize("length", [1025, 1028, 1029, 2048])
def test_oversize_frames_are_damaged(length):
    """Among them one whose CRC is right and whose byte count is that of a legal frame modulo 1024 or 2048."""
    rng = random.Random(length)
    item, good = frame(rng, length), frame(rng, 9)
    assert receive(encoded(item) + encoded(good)) == ([good], 1)
