"""The bad wire itself: what it does to frames, and that a seed repeats it."""

import random
from collections import deque

import pytest

from popshift.firmware_py.transport import Transport
from popshift.sim.faults import FAULTS, FaultRates, FaultyTransport

NONE = dict.fromkeys(FAULTS, 0.0)


class Loop:
    """Keeps what is written and returns it when read."""

    name = "loop"
    latency = 7.0

    def __init__(self) -> None:
        self.data: deque[bytes] = deque()
        self.closed = False

    def read(self, timeout: float) -> bytes:
        return self.data.popleft() if self.data else b""

    def write(self, data: bytes) -> None:
        self.data.append(data)

    def close(self) -> None:
        self.closed = True


def stream(count: int) -> list[bytes]:
    return [b"%06d" % number + b"\0" for number in range(count)]


def sent(wire: FaultyTransport, loop: Loop, frames: list[bytes], seed: int = 0) -> bytes:
    """Write frames, cut anywhere; what gets to the other side."""
    source, data = random.Random(seed), b"".join(frames)
    while data:
        size = source.randrange(1, 20)
        wire.write(data[:size])
        data = data[size:]
    result = b"".join(loop.data)
    loop.data.clear()
    return result


def test_without_faults_nothing_changes() -> None:
    loop = Loop()
    wire = FaultyTransport(loop, 1, FaultRates(**NONE))
    assert isinstance(wire, Transport) and getattr(wire, "latency", None) == 7.0
    assert wire.name == "loop with faults (seed 1)"
    assert sent(wire, loop, stream(100)) == b"".join(stream(100))
    loop.data.append(b"".join(stream(3)))
    assert wire.read(0) == b"".join(stream(3))
    assert not wire.faults
    wire.close()
    assert loop.closed


@pytest.mark.parametrize("fault", list(NONE))
def test_each_fault_does_what_it_says_at_its_rate(fault: str) -> None:
    loop = Loop()
    wire = FaultyTransport(loop, 3, FaultRates(**{**NONE, fault: 0.1}))
    frames = stream(2000)
    arrived = [part + b"\0" for part in sent(wire, loop, frames).split(b"\0")[:-1]]
    count = wire.faults[fault]
    assert 140 < count < 260 and set(wire.faults) == {fault}
    match fault:
        case "drop":
            assert len(arrived) == 2000 - count and set(arrived) < set(frames) and arrived == sorted(arrived)
        case "double":
            assert len(arrived) == 2000 + count and sorted(set(arrived)) == frames
        case "reorder":
            assert len(arrived) >= 1999 and arrived != frames
            late = [place for place, frame in enumerate(arrived) if frame != frames[place]]
            assert all(abs(frames.index(arrived[place]) - place) <= 2 for place in late)
        case "damage":
            assert 2000 - 2.5 * count < len(set(arrived) & set(frames)) < 2000 - 0.9 * count


def test_a_seed_repeats_its_faults_in_both_directions() -> None:
    results = []
    for seed in (5, 5, 6):
        loop = Loop()
        wire = FaultyTransport(loop, seed, FaultRates(damage=0.1, drop=0.1, double=0.1, reorder=0.1))
        there = sent(wire, loop, stream(200))
        loop.data.extend(stream(200))
        back = b"".join(wire.read(0) for _ in range(200))
        results.append((there, back, dict(wire.faults)))
        assert there != back, "the directions have faults of their own"
    assert results[0] == results[1] != results[2]


def test_impossible_rates_are_refused() -> None:
    for rates in ({"drop": -0.1}, {"drop": 0.6, "double": 0.5}):
        with pytest.raises(ValueError, match="fault rates must be at least 0 and at most 1 together"):
            FaultRates(**rates)
