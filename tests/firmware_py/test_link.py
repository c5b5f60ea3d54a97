"""The protocol's host side against the behavioural device."""

import random

import pytest
from device_model import DeviceModel, ModelTransport, SlowWire

from popshift.firmware_py import framing
from popshift.firmware_py.protocol import Link
from popshift.firmware_py.window import FRAMES
from popshift.hw import packet
from popshift.hw.config import load_config
from popshift.hw.errors import DeviceError
from popshift.hw.packet import Frame, Space, Type
from popshift.sim.faults import FaultRates, FaultyTransport

CONFIG = load_config("tiny")
WORD = CONFIG.weight_word_bytes


def weight_writes(source: random.Random, count: int) -> list[tuple[Type, int, bytes]]:
    """Random, overlapping writes: their order matters."""
    writes = []
    for _ in range(count):
        words = source.randrange(1, packet.MAX_PAYLOAD // WORD)
        start = source.randrange(CONFIG.weight_depth - words)
        writes.append((Type.WRITE, packet.write_address(Space.WEIGHT, start), source.randbytes(words * WORD)))
    return writes


def activation_reads(source: random.Random, count: int) -> list[tuple[Type, int, bytes]]:
    reads = []
    for _ in range(count):
        size = source.randrange(1, 700)
        address = packet.read_address(
            source.randrange(CONFIG.rows), source.randrange(CONFIG.activation_depth - size)
        )
        reads.append((Type.READ, address, size.to_bytes(2, "little")))
    return reads


def read_values(device: DeviceModel, requests: list[tuple[Type, int, bytes]]) -> list[bytes]:
    values = []
    for _, address, payload in requests:
        bank, word, size = (
            address >> packet.BANK_SHIFT & 0xFF,
            address & 0xFFFF,
            int.from_bytes(payload, "little"),
        )
        values.append(device.activations[bank, word : word + size].tobytes())
    return values


def executed_writes(device: DeviceModel) -> list[tuple[int, int, bytes]]:
    return [
        (frame.type, frame.address, frame.payload) for frame in device.executed if frame.type == Type.WRITE
    ]


def fill_activations(device: DeviceModel, source: random.Random) -> None:
    for bank in device.activations:
        bank.view("uint8")[:] = list(source.randbytes(len(bank)))


def test_open_identifies_the_device() -> None:
    link = Link(ModelTransport(DeviceModel(CONFIG)))
    assert link.open() == packet.identity(CONFIG)
    assert link.open() == packet.identity(CONFIG), "a second session on the same link"


def test_every_sequence_number_starts_a_session() -> None:
    device = DeviceModel(CONFIG)
    for seed in range(300):
        link = Link(ModelTransport(device), seed=seed)
        link.open()
        assert packet.state(link.request(Type.STATUS)).status == 0
        assert link.statistics.retransmissions == 0


def test_a_good_wire_needs_no_repetition() -> None:
    source, device = random.Random(1), DeviceModel(CONFIG)
    fill_activations(device, source)
    link = Link(ModelTransport(device))
    link.open()
    writes, reads, progress = weight_writes(source, 700), activation_reads(source, 100), []
    answers = link.submit_many(iter(writes + reads), progress.append)
    assert answers == [b""] * 700 + read_values(device, reads)
    assert executed_writes(device) == writes
    assert progress == sorted(set(progress)) and progress[-1] == 800
    statistics = link.statistics
    assert (statistics.requests, statistics.retransmissions, statistics.timeouts) == (801, 0, 0)


@pytest.mark.parametrize("percent", [1, 3, 5])
@pytest.mark.parametrize("seed", [11, 12])
def test_a_bad_wire_loses_nothing_and_doubles_nothing(percent: int, seed: int) -> None:
    print(f"seed {seed}")
    source, device = random.Random(seed), DeviceModel(CONFIG)
    fill_activations(device, source)
    rate = percent / 100
    wire = FaultyTransport(
        ModelTransport(device), seed, FaultRates(damage=rate, drop=rate, double=rate, reorder=rate)
    )
    link = Link(wire, latency=0.004, tries=12)
    assert link.open() == packet.identity(CONFIG)
    writes, reads = weight_writes(source, 400), activation_reads(source, 400)
    assert link.submit_many(writes + reads) == [b""] * 400 + read_values(device, reads)
    assert executed_writes(device) == writes
    assert all(wire.faults[fault] > 3 for fault in ("damage", "drop", "double", "reorder"))
    assert link.statistics.retransmissions > 0


@pytest.mark.parametrize("fault", ["damage", "drop", "double", "reorder"])
def test_each_fault_alone_at_a_high_rate(fault: str) -> None:
    source, device = random.Random(5), DeviceModel(CONFIG)
    none = {"damage": 0.0, "drop": 0.0, "double": 0.0, "reorder": 0.0}
    wire = FaultyTransport(ModelTransport(device), 5, FaultRates(**{**none, fault: 0.2}))
    link = Link(wire, latency=0.004, tries=40)
    link.open()
    writes = weight_writes(source, 150)
    link.submit_many(writes)
    assert executed_writes(device) == writes
    assert set(wire.faults) == {fault}


def test_one_lost_request_is_repeated_without_a_timeout() -> None:
    class LosesOne(ModelTransport):
        writes = 0

        def write(self, data: bytes) -> None:
            self.writes += 1
            if self.writes != 8:
                super().write(data)

    device = DeviceModel(CONFIG)
    link = Link(LosesOne(device), latency=5)
    link.open()
    writes = weight_writes(random.Random(2), 100)
    link.submit_many(writes)
    assert executed_writes(device) == writes
    assert link.statistics.timeouts == 0
    assert 1 <= link.statistics.retransmissions <= FRAMES, "one loss causes one go-back"


def test_one_lost_answer_is_fetched_without_a_timeout() -> None:
    class LosesOneAnswer(ModelTransport):
        reads = 0

        def read(self, timeout: float) -> bytes:
            data = super().read(timeout)
            self.reads += bool(data)
            return b"" if data and self.reads == 8 else data

    source, device = random.Random(3), DeviceModel(CONFIG)
    fill_activations(device, source)
    link = Link(LosesOneAnswer(device), latency=5)
    link.open()
    reads = activation_reads(source, 60)
    assert link.submit_many(reads) == read_values(device, reads)
    assert (link.statistics.timeouts, link.statistics.retransmissions) == (0, 1)


def test_a_silent_device_is_given_up() -> None:
    transport = ModelTransport(DeviceModel(CONFIG))
    transport.silent = True
    with pytest.raises(DeviceError) as caught:
        Link(transport, latency=0.005, tries=3).open()
    assert str(caught.value).startswith("the model: the device does not answer (OPEN at 0x")
    assert str(caught.value).endswith(
        "3 attempts); check its power and cable, that it is programmed with an accelerator, and the baud "
        "rate: it changes with the clock that was built"
    )


def test_a_device_that_falls_silent_midway_is_given_up_and_the_session_is_over() -> None:
    transport = ModelTransport(DeviceModel(CONFIG))
    transport.answers_before_silence = 20
    link = Link(transport, latency=0.005, tries=3)
    link.open()
    with pytest.raises(DeviceError, match=r"the device stopped answering .WRITE at 0x1"):
        link.submit_many(weight_writes(random.Random(4), 100))
    with pytest.raises(DeviceError, match=r"no session is open; call open\(\) first"):
        link.request(Type.STATUS)
    transport.silent, transport.answers_before_silence = False, None
    assert link.open() == packet.identity(CONFIG), "and works again when the device does"


def test_a_device_that_restarts_midway_is_told_apart() -> None:
    class Restarts(ModelTransport):
        writes = 0

        def write(self, data: bytes) -> None:
            self.writes += 1
            if self.writes == 30:
                self.device = DeviceModel(CONFIG)
            super().write(data)

    link = Link(Restarts(DeviceModel(CONFIG)), latency=0.005, tries=3, seed=2)
    link.open()
    with pytest.raises(DeviceError, match=r"the device has lost the session .*it was restarted"):
        link.submit_many(weight_writes(random.Random(4), 100))


def test_noise_is_told_from_silence() -> None:
    class Noise(ModelTransport):
        def read(self, timeout: float) -> bytes:
            return random.Random(9).randbytes(3000)

    with pytest.raises(DeviceError, match=r"sends bytes that are no frames .*; check the baud rate"):
        Link(Noise(DeviceModel(CONFIG)), latency=0.005, tries=2).open()


def test_a_refusal_is_reported_and_the_session_goes_on() -> None:
    device = DeviceModel(CONFIG)
    link = Link(ModelTransport(device))
    link.open()
    good = (Type.WRITE, packet.write_address(Space.WEIGHT, 0), bytes(WORD))
    bad = (Type.WRITE, packet.write_address(Space.WEIGHT, 1), bytes(WORD + 1))
    with pytest.raises(DeviceError, match=f"refused WRITE at 0x10000001 with {WORD + 1} bytes"):
        link.submit_many([good, bad, good, good])
    assert link.request(*good) == b""
    with pytest.raises(DeviceError, match="refused WRITE"):
        link.submit_many([bad] + [good] * 1000)
    assert link.statistics.requests < 3 * FRAMES, "what is behind a refused request is not sent"
    assert link.request(*good) == b""
    assert link.statistics.retransmissions == 0


def test_a_refusal_whose_answer_is_lost_is_still_reported() -> None:
    class LosesTheRefusal(ModelTransport):
        refusals = 0

        def read(self, timeout: float) -> bytes:
            data = super().read(timeout)
            lost = any(
                frame.type == packet.REFUSED | packet.ANSWER for frame in framing.FrameReader().feed(data)
            )
            self.refusals += lost
            return b"" if lost and self.refusals == 1 else data

    wire = LosesTheRefusal(DeviceModel(CONFIG))
    link = Link(wire)
    link.open()
    good = (Type.WRITE, packet.write_address(Space.WEIGHT, 0), bytes(WORD))
    with pytest.raises(DeviceError, match="refused WRITE at 0x11000000"):
        link.submit_many([good, (Type.WRITE, 0x1100_0000, bytes(WORD)), good, good])
    assert wire.refusals == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": 1}, "the device is no popshift accelerator; check the port"),
        ({"version": 9}, "the device speaks version 9 of the protocol, this driver version 2"),
    ],
)
def test_another_device_is_refused(change: dict[str, int], message: str) -> None:
    device = DeviceModel(CONFIG)
    device.identity = device.identity._replace(**change)
    link = Link(ModelTransport(device))
    with pytest.raises(DeviceError, match=message):
        link.open()
    with pytest.raises(DeviceError, match="no session"):
        link.request(Type.STATUS)


@pytest.mark.parametrize("fifo_bytes", [16, 64, 256, 512])
def test_the_window_never_overruns_the_devices_fifo(fifo_bytes: int) -> None:
    source, device = random.Random(6), DeviceModel(CONFIG)
    fill_activations(device, source)
    wire = SlowWire(device, fifo_bytes)
    link = Link(wire, fifo_bytes=fifo_bytes, latency=0.5)
    link.open()
    requests = weight_writes(source, 30) + activation_reads(source, 30) + [(Type.COUNTERS, 0, b"")] * 30
    source.shuffle(requests)
    reads = [request for request in requests if request[0] == Type.READ]
    answers = link.submit_many(requests)
    values = [answer for request, answer in zip(requests, answers, strict=True) if request[0] == Type.READ]
    assert values == read_values(device, reads)
    assert (wire.overruns, link.statistics.retransmissions) == (0, 0)
    if fifo_bytes >= 64:
        assert wire.most_waiting > fifo_bytes // 2, "the window makes use of the FIFO"


def test_a_window_too_large_for_the_fifo_overruns_and_still_arrives() -> None:
    source, device = random.Random(7), DeviceModel(CONFIG)
    fill_activations(device, source)
    wire = SlowWire(device, 64)
    link = Link(wire, fifo_bytes=4096, latency=0.05, tries=20)
    link.open()
    reads = activation_reads(source, 40)
    assert link.submit_many(reads) == read_values(device, reads)
    assert wire.overruns > 0 and link.statistics.retransmissions > 0


def test_stale_answers_are_ignored() -> None:
    class Stale(ModelTransport):
        """Puts a well-formed answer of another address, type, length and number in front of the right one."""

        def read(self, timeout: float) -> bytes:
            data = super().read(timeout)
            if not data:
                return data
            (answer,) = framing.FrameReader().feed(data)
            payload = bytes(255 - byte for byte in answer.payload)
            wrong = [
                Frame(answer.sequence, answer.type, answer.address ^ 1, payload),
                Frame(answer.sequence, answer.type ^ 1, answer.address, payload),
                Frame(answer.sequence, answer.type, answer.address, payload + b"x"),
                Frame((answer.sequence + 100) % 256, answer.type, answer.address, payload),
            ]
            return b"".join(map(framing.encode, wrong)) + data + data

    source, device = random.Random(8), DeviceModel(CONFIG)
    fill_activations(device, source)
    link = Link(Stale(device))
    link.open()
    reads = activation_reads(source, 50)
    assert link.submit_many(reads) == read_values(device, reads)
    assert link.statistics.ignored >= 5 * 51 - 1


def test_a_frame_of_every_length_survives_the_wire_cut_anywhere() -> None:
    source = random.Random(10)
    frames = [Frame(n % 256, 3, n, bytes(n) if n % 2 else source.randbytes(n)) for n in range(0, 1025, 31)]
    frames.append(Frame(0, 3, 0, source.randbytes(1024)))
    stream = b"\0" + b"\0".join(framing.encode(frame) for frame in frames)
    for frame in frames:
        assert len(framing.encode(frame)) <= framing.wire_bytes(len(frame.payload)) <= framing.MAX_WIRE_BYTES
    reader, found = framing.FrameReader(), []
    while stream:
        size = source.randrange(1, 300)
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == frames and reader.damaged == 0


def test_endless_noise_does_not_fill_the_memory() -> None:
    reader = framing.FrameReader()
    for _ in range(100):
        assert reader.feed(b"\x55" * 10_000) == []
    good = Frame(1, 2, 3)
    assert len(reader._rest) <= framing.MAX_WIRE_BYTES + 1
    assert reader.feed(b"\0" + framing.encode(good)) == [good]
    assert reader.damaged == 1
