"""The command unit: every request, the sequence rules, what is refused."""

import gc
import random
from collections.abc import Iterable

import pytest
from amaranth.sim import Simulator

from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.control.admission import Admission
from popshift.hw.control.commands import CommandUnit
from popshift.hw.isa import Counter, Status
from popshift.hw.packet import ANSWER, Frame, Space, Type
from tests.hw.command_host import Host, depth, encode, word_bytes

TINY = load_config("tiny")
# Odd sizes: depths that are no powers of two, words of every size, two bytes of bank mask.
ODD = TINY.replace(
    rows=10,
    cols=5,
    tile_rows=5,
    tile_cols=1,
    post_lanes=1,
    activation_depth=1000,
    weight_depth=700,
    parameter_depth=37,
)


def read_payload(count: int) -> bytes:
    return count.to_bytes(2, "little")


def run_payload(pc: int, pause: int, limit: int) -> bytes:
    return packet.RUN.pack(*packet.Run(pc, pause, limit))


def execute(config: AcceleratorConfig = TINY, **options):
    """Runs an async script as a test."""

    def decorate(script):
        def test():
            Host(config, **options).run(script)

        test.__doc__ = script.__doc__
        return test

    return decorate


@execute()
async def test_open_and_reset_identify(host):
    identity = packet.IDENTITY.pack(*packet.identity(TINY))
    assert await host.done(Type.OPEN, 0x1234_5678) == identity
    assert host.strobes == []
    assert await host.done(Type.RESET) == identity
    assert host.strobes == [("reset",)]


@execute()
async def test_open_takes_any_sequence_number_once(host):
    await host.done(Type.OPEN, 77, sequence=200)
    await host.done(Type.RESET, sequence=201)
    # The same session again: a repetition, answered, without effect on the sequence.
    await host.done(Type.OPEN, 77, sequence=200)
    await host.done(Type.RESET, sequence=202)
    # Nor does it count when its number is out of order; as the expected one it is a request like any other.
    assert (await host.request(Type.OPEN, 77, sequence=5)).type == ANSWER | packet.RESEND
    await host.done(Type.OPEN, 77, sequence=203)
    await host.done(Type.RESET, sequence=204)
    assert host.strobes == [("reset",)] * 3
    # Another session, with a number that would be out of order, an old one, and the expected one.
    for session, sequence in ((78, 250), (79, 249), (80, 250)):
        await host.done(Type.OPEN, session, sequence=sequence)
        await host.done(Type.STATUS, sequence=(sequence + 1) % 256)
    # An earlier session is another one than the current.
    await host.done(Type.OPEN, 77, sequence=9)
    await host.done(Type.RESET, sequence=10)
    assert host.strobes == [("reset",)] * 4


@execute(opened=False)
async def test_without_a_session_only_open_is_taken(host):
    """Requests of a session with the device that was there before its power failed are not for this one."""
    for sequence in (0, 1, 128, 255):
        for number in (Type.RESET, Type.STATUS, Type.READ):
            payload = read_payload(1) if number == Type.READ else b""
            assert (await host.request(number, 0, payload, sequence=sequence)).type == ANSWER | packet.RESEND
    assert host.strobes == []
    await host.done(Type.OPEN, 5, sequence=130)
    await host.done(Type.RESET, sequence=131)
    assert host.strobes == [("reset",)]


@execute(opened=False)
async def test_first_session_may_have_any_number(host):
    await host.done(Type.OPEN, 0, sequence=99)
    await host.done(Type.RESET, sequence=100)
    assert host.strobes == [("reset",)]


@pytest.mark.parametrize("config", [TINY, ODD], ids=["tiny", "odd"])
@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_words_are_written_whole(config, stall):
    rng = random.Random(3)

    async def script(host):
        for space in (Space.WEIGHT, Space.PARAMETER, Space.PROGRAM):
            size, words = word_bytes(config, space), depth(config, space)
            for address, count in ((0, 1), (3, 5), (words - 1, 1), (words - 7, 7)):
                data = rng.randbytes(count * size)
                host.writes.clear()
                assert await host.done(Type.WRITE, packet.write_address(space, address), data) == b""
                values = [int.from_bytes(data[i * size : (i + 1) * size], "little") for i in range(count)]
                assert sorted(host.writes) == [(space, address + i, value) for i, value in enumerate(values)]

    Host(config, stall=stall).run(script)


@pytest.mark.parametrize("config", [TINY, ODD, TINY.replace(signature=False)], ids=["tiny", "odd", "none"])
def test_the_signature_is_that_of_what_was_written_since_program_word_0(config):
    rng = random.Random(7)

    async def script(host):
        expected = 0
        spaces = (Space.WEIGHT, Space.PROGRAM, Space.PARAMETER, Space.ACTIVATION, Space.PROGRAM, Space.WEIGHT)
        for space, address in zip(spaces, (0, 0, 2, 5, 1, 0), strict=True):
            if space == Space.ACTIVATION:
                data = packet.bank_mask(config, [0]) + rng.randbytes(9)
            else:
                data = rng.randbytes(3 * word_bytes(config, space))
                start = 0 if (space, address) == (Space.PROGRAM, 0) else expected
                expected = packet.signature(start, data)
            await host.done(Type.WRITE, packet.write_address(space, address), data)
            assert packet.state(await host.done(Type.STATUS)).signature == expected * config.signature
        await host.done(Type.RESET)
        assert packet.state(await host.done(Type.STATUS)).signature == expected * config.signature

    Host(config).run(script)


@pytest.mark.parametrize("config", [TINY, ODD], ids=["tiny", "odd"])
def test_activations_are_written_to_the_banks_of_the_mask(config):
    rng = random.Random(4)

    async def script(host):
        for address, count, banks in (
            (0, 1, [0]),
            (17, 40, [1, 3]),
            (config.activation_depth - 3, 3, range(config.rows)),
        ):
            data, mask = rng.randbytes(count), packet.bank_mask(config, list(banks))
            host.writes.clear()
            await host.done(Type.WRITE, packet.write_address(Space.ACTIVATION, address), mask + data)
            number = int.from_bytes(mask, "little")
            assert sorted(host.writes) == [
                ("activation", number, address + i, byte) for i, byte in enumerate(data)
            ]

    Host(config).run(script)


def test_full_write_takes_little_more_than_a_cycle_per_byte():
    async def script(host):
        payload = bytes([1] * 1024)
        begin = host.cycle
        await host.done(Type.WRITE, packet.write_address(Space.PROGRAM, 0), payload)
        assert len(host.writes) == 256
        # Received, checked word by word, written; `done` adds 40 cycles of silence.
        assert host.cycle - begin <= 1040 + 256 + 1024 + 100 + 40

    Host(TINY).run(script)


@pytest.mark.parametrize("config", [TINY, ODD], ids=["tiny", "odd"])
def test_read_returns_the_bytes_of_a_bank(config):
    async def script(host):
        for bank, word, count in ((0, 0, 1), (config.rows - 1, 5, 30), (1, config.activation_depth - 4, 4)):
            data = await host.done(Type.READ, packet.read_address(bank, word), read_payload(count))
            assert data == bytes(host.activation(bank, word + i) for i in range(count))

    Host(config, stall=0.2).run(script)


@execute(TINY.replace(activation_depth=2048))
async def test_longest_read(host):
    data = await host.done(Type.READ, packet.read_address(2, 1024), read_payload(1024))
    assert data == bytes(host.activation(2, 1024 + i) for i in range(1024))


def bad_requests(config: AcceleratorConfig) -> Iterable[tuple[int, int, bytes]]:
    """(type, address, payload) of requests that make no sense whatever the state of the machine."""
    for kind in (0, 9, 0x7E, 0x7F, 0x80 | Type.OPEN, 0x83):
        yield kind, 0, b""
    for kind in (Type.OPEN, Type.RESET, Type.STATUS, Type.COUNTERS, Type.CONTINUE):
        yield kind, 0, b"x"
    for size in (0, 7, 9):
        yield Type.RUN, 0, bytes(size)
    for space in (Space.WEIGHT, Space.PARAMETER, Space.PROGRAM):
        size, words = word_bytes(config, space), depth(config, space)
        yield Type.WRITE, packet.write_address(space, 0), bytes(size - 1)
        yield Type.WRITE, packet.write_address(space, 0), bytes(3 * size + 1)
        for address, count in ((words, 1), (words - 1, 2), (0xFFFFFF, 1), (0xFFFFFF, 4), (0, 0)):
            yield Type.WRITE, packet.write_address(space, address), bytes(count * size)
    mask = packet.bank_mask(config, [0])
    for address in (config.activation_depth - 1, config.activation_depth, 0xFFFF, 0x10000, 0xFFFFFF):
        yield Type.WRITE, address, mask + b"ab"
    yield Type.WRITE, 0, mask[:-1]
    yield Type.WRITE, 0, mask
    for unused in range(24, 32):
        if unused not in (packet.SPACE_SHIFT, packet.SPACE_SHIFT + 1):
            yield Type.WRITE, 1 << unused, mask + b"a"
            yield Type.READ, 1 << unused, read_payload(1)
    yield Type.READ, Space.WEIGHT << packet.SPACE_SHIFT, read_payload(1)
    for size in (0, 1, 3):
        yield Type.READ, 0, bytes([1] * size)
    for count in (0, 1025, 2048, 0x8001):
        yield Type.READ, 0, read_payload(count)
    for bank in (config.rows, 128, 255):
        yield Type.READ, packet.read_address(bank, 0), read_payload(1)
    for word, count in (
        (config.activation_depth, 1),
        (config.activation_depth - 1, 2),
        (0xFFFF, 1),
        (0xFFFF, 1024),
    ):
        yield Type.READ, packet.read_address(1, word), read_payload(count)


@pytest.mark.parametrize("config", [TINY, ODD], ids=["tiny", "odd"])
def test_requests_that_make_no_sense_are_refused(config):
    async def script(host):
        mask = packet.bank_mask(config, [1])
        for kind, address, payload in bad_requests(config):
            await host.refused(kind, address, payload)
        # Nothing of a refused request is left behind.
        host.writes.clear()
        await host.done(Type.WRITE, 3, mask + b"\x07")
        assert host.writes == [("activation", 2, 3, 7)]
        assert await host.done(Type.READ, packet.read_address(0, 1), read_payload(2))

    Host(config).run(script)


@execute()
async def test_run_starts_once(host):
    for status in (Status.IDLE, Status.DONE):
        host.status = status
        host.strobes.clear()
        payload = run_payload(0xA55A, 1, 0x8765_4321)
        assert await host.done(Type.RUN, 0, payload) == b""
        assert host.strobes == [("start", 0xA55A, 1, 0x8765_4321)]
        host.status = Status.RUNNING
        await host.done(Type.RUN, 0, payload, sequence=host.sequence - 1)
        assert len(host.strobes) == 1
        await host.refused(Type.RUN, 0, run_payload(1, 0, 2))


@execute()
async def test_what_each_state_allows(host):
    mask = packet.bank_mask(TINY, [0])
    for status in (
        Status.IDLE,
        Status.RUNNING,
        Status.DONE,
        Status.PAUSED,
        Status.ILLEGAL_INSTRUCTION,
        Status.CYCLE_LIMIT,
    ):
        host.status = status
        for kind, payload, allowed in (
            (Type.WRITE, mask + b"a", status != Status.RUNNING),
            (Type.READ, read_payload(1), status != Status.RUNNING),
            (Type.RUN, run_payload(0, 0, 0), status in (Status.IDLE, Status.DONE)),
            (Type.CONTINUE, b"", status == Status.PAUSED),
            (Type.STATUS, b"", True),
            (Type.COUNTERS, b"", True),
            (Type.RESET, b"", True),
        ):
            await (host.done if allowed else host.refused)(kind, 0, payload)


@execute()
async def test_continue_proceeds_once(host):
    host.status = Status.PAUSED
    await host.done(Type.CONTINUE, sequence=0)
    host.status = Status.RUNNING
    await host.done(Type.CONTINUE, sequence=0)
    assert host.strobes == [("proceed",)]


@execute(stall=0.3)
async def test_status(host):
    for value in packet.State(11, 0xFEDC, 0xBA98, 0x7654_3210, 0), packet.State(1, 1, 2, 3, 0):
        host.status, host.layer, host.pc, host.cycles, _ = value
        assert packet.state(await host.done(Type.STATUS)) == value


@execute()
async def test_words_of_an_answer_are_not_torn(host):
    """The cycle counter runs, over the carry of every byte, while STATUS is answered with pauses."""
    host.status, host.stall = Status.RUNNING, 0.5
    tick = host._tick

    async def counting():
        host.cycles = 0x0000_FF00 + host.cycle
        return await tick()

    host._tick = counting
    for _ in range(20):
        begin = 0xFF00 + host.cycle
        state = packet.state(await host.done(Type.STATUS))
        assert begin < state.cycles <= 0xFF00 + host.cycle


@execute()
async def test_counters_and_link_errors(host):
    host.counters = [0x0101_0101 * (n + 1) + 0x20000 * n for n in range(len(Counter))]
    good = encode(Frame(0, Type.STATUS, 0))

    async def errors() -> int:
        values = packet.counters(await host.done(Type.COUNTERS))
        assert [values[c] for c in Counter if c != Counter.LINK_ERRORS] == [
            host.counters[c] for c in Counter if c != Counter.LINK_ERRORS
        ]
        return values[Counter.LINK_ERRORS]

    assert await errors() == 0
    damaged = bytes([good[0], good[1] ^ 0x40]) + good[2:]
    for count in range(3):
        await host.send(damaged, 0)
        assert await errors() == count + 1
    await host.done(Type.RESET)
    assert await errors() == 0
    await host.send(b"\x01\0" * 300, 0)
    assert await errors() == 255


@execute()
async def test_repetitions_are_answered_but_not_executed(host):
    write = packet.write_address(Space.PROGRAM, 2), bytes(range(8))
    await host.done(Type.RESET)
    await host.done(Type.WRITE, *write)
    assert len(host.writes) == 2
    # The 128 numbers before the expected one (2) are repetitions, the others out of order.
    for sequence in (1, 0, 255, 130):
        assert await host.done(Type.WRITE, *write, sequence=sequence) == b""
        identity = await host.done(Type.RESET, sequence=sequence)
        assert identity == packet.IDENTITY.pack(*packet.identity(TINY))
    for sequence in (129, 128, 3, 4, 100):
        answer = await host.request(Type.WRITE, *write, sequence=sequence)
        assert (answer.type, answer.address) == (ANSWER | packet.RESEND, 2)
    assert len(host.writes) == 2 and host.strobes == [("reset",)]
    # Reads are executed again.
    data = await host.done(Type.READ, packet.read_address(3, 7), read_payload(3), sequence=1)
    assert data == bytes(host.activation(3, 7 + i) for i in range(3))
    host.layer = 5
    assert packet.state(await host.done(Type.STATUS, sequence=255)).layer == 5
    await host.done(Type.WRITE, *write, sequence=2)
    assert len(host.writes) == 4


@execute()
async def test_sequence_wraps(host):
    await host.done(Type.OPEN, 1, sequence=249)
    host.sequence = 250
    for number in range(12):
        await host.done(Type.WRITE, packet.write_address(Space.PROGRAM, 0), number.to_bytes(4, "little"))
    assert [write[2] for write in host.writes] == list(range(12))
    await host.done(Type.RESET, sequence=254)
    assert host.strobes == []


@execute()
async def test_a_refused_request_stays_refused_when_repeated(host):
    host.status = Status.RUNNING
    run, write = (Type.RUN, 0, run_payload(0, 0, 0)), (Type.WRITE, 0, packet.bank_mask(TINY, [0]) + b"a")
    await host.done(Type.STATUS)
    await host.refused(*write, sequence=1)
    host.status = Status.IDLE
    await host.refused(*write, sequence=1)
    await host.done(Type.STATUS, sequence=0)
    await host.refused(*write, sequence=1)
    host.sequence = 2
    await host.done(*run)
    assert len(host.strobes) == 1
    host.sequence = 3
    # A new session forgets.
    host.status = Status.RUNNING
    await host.refused(*write)
    host.status = Status.IDLE
    await host.done(Type.OPEN, 5, sequence=3)
    await host.done(Type.WRITE, sequence=3)


def test_a_refusal_is_forgotten_a_round_later():
    """The same sequence number, 256 requests on, was executed: its repetition is no refusal."""
    dut = Admission(config=TINY)

    async def decide(ctx, sequence: int, status: Status, number: Type = Type.RUN) -> bool:
        ctx.set(dut.header, {"sequence": sequence % 256, "type": number, "address": 0})
        ctx.set(dut.length, packet.RUN.size if number == Type.RUN else 0)
        ctx.set(dut.status, status)
        await ctx.tick().repeat(2)
        ctx.set(dut.decide, 1)
        refuse = bool(ctx.get(dut.refuse))
        assert not ctx.get(dut.resend)
        await ctx.tick()
        ctx.set(dut.decide, 0)
        ctx.set(dut.answered, 1)
        ctx.set(dut.refused, refuse)
        await ctx.tick()
        ctx.set(dut.answered, 0)
        return refuse

    async def bench(ctx):
        assert not await decide(ctx, -1, Status.IDLE, Type.OPEN)
        assert await decide(ctx, 0, Status.RUNNING)
        for sequence in range(1, 257):
            assert not await decide(ctx, sequence, Status.IDLE)
            if sequence < 128:
                assert await decide(ctx, 0, Status.IDLE)
        assert not await decide(ctx, 256, Status.IDLE)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@execute()
async def test_frames_in_a_row_are_answered_in_order(host):
    """Requests sent without waiting: the link waits while each is executed, and nothing is lost."""
    frames = [Frame(n, Type.WRITE, packet.write_address(Space.WEIGHT, n), bytes([n] * 6)) for n in range(5)]
    frames.append(Frame(5, Type.STATUS, 0))
    answers = await host.send(b"".join(map(encode, frames)), len(frames))
    assert [(a.sequence, a.type, a.address) for a in answers] == [
        (f.sequence, ANSWER | f.type, f.address) for f in frames
    ]
    assert [write[:2] for write in host.writes] == [(Space.WEIGHT, n) for n in range(5)]


@execute()
async def test_damaged_doubled_and_reordered_frames_do_no_harm(host):
    first, second, third = (
        Frame(n, Type.WRITE, packet.write_address(Space.PROGRAM, n), bytes([n] * 4)) for n in range(3)
    )
    damaged = bytearray(encode(second))
    damaged[5] ^= 0x80
    stream = encode(first) * 2 + bytes(damaged) + encode(third) + encode(second) + encode(third)
    answers = await host.send(stream, 5)
    write, resend = ANSWER | Type.WRITE, ANSWER | packet.RESEND
    assert [(a.sequence, a.type) for a in answers] == [
        (0, write),
        (0, write),
        (2, resend),
        (1, write),
        (2, write),
    ]
    assert answers[2].address == 1
    assert [w[1] for w in host.writes] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("latency", [0, -1, 2.0])
def test_impossible_latency_is_refused(latency):
    with pytest.raises(ValueError, match=f"read_latency must be an integer of at least 1, not {latency}"):
        CommandUnit(config=TINY, read_latency=latency)
    gc.collect()  # so that the warning about the half-made component comes while it is ignored
