"""Thousands of frames that no driver would send, against the simulated hardware and the model of its rules.

Both get the same bytes. Every answer of the hardware must be the model's, and so must the whole activation
memory
and the signature of the other memories at the end: nothing was written but what a good frame addresses.
"""

import random
import time
import zlib

import numpy as np
import pytest
from cobs import cobs
from tests.firmware_py.device_model import DeviceModel

from popshift.firmware_py import framing
from popshift.firmware_py.protocol import Link
from popshift.firmware_py.session import Accelerator
from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.packet import Frame, Space, Type
from popshift.sim.board import SimulatedBoard, open_board

FRAMES = 10_000
BATCH = 100
LONGEST = 60.0
"""Seconds that a batch may take on a busy machine."""


@pytest.fixture
def board():
    with open_board("tiny", seed=9) as opened:
        yield opened


def some_address(rng: random.Random, config: AcceleratorConfig) -> int:
    space = rng.choice([*Space, *Space, rng.randrange(16)])
    depth = rng.choice([config.activation_depth, config.parameter_depth, config.weight_depth])
    word = rng.choice([rng.randrange(depth), depth - rng.randrange(4), rng.randrange(1 << 24), 0])
    return space << packet.SPACE_SHIFT | word


def sensible(rng: random.Random, config: AcceleratorConfig, sequence: int, types: list[Type]) -> Frame:
    """A good frame that may ask for the impossible."""
    kind = rng.choice([*types, *types, rng.randrange(9, 256)])
    payload = rng.randbytes(rng.choice([0, 0, 2, 8, rng.randrange(64), rng.randrange(1025)]))
    if kind == Type.WRITE and rng.random() < 0.7:
        size = rng.choice([config.weight_word_bytes, config.parameter_word_bytes, 4])
        payload = rng.randbytes(size * rng.randrange(1, 20))
    if kind == Type.READ and rng.random() < 0.8:
        payload = rng.choice([rng.randrange(1, 40), 1024, 1025, 0]).to_bytes(2, "little")
    address = rng.randrange(1, 1 << 32) if kind == Type.OPEN else some_address(rng, config)
    if kind == Type.READ:
        address = packet.read_address(rng.randrange(config.rows + 1), rng.randrange(config.activation_depth))
    stray = rng.random()
    sequence = (
        sequence if stray < 0.9 else sequence - rng.randrange(1, 5) if stray < 0.95 else rng.randrange(256)
    )
    return Frame(sequence % 256, kind, address, payload)


def noise(rng: random.Random) -> bytes:
    """Bytes that may decode, with a right CRC one time in two: of any length, header and payload at
    random.
    """
    body = rng.randbytes(rng.choice([0, 3, 9, 10, 11, rng.randrange(200), rng.randrange(1000, 1100)]))
    if rng.random() < 0.5:
        body += zlib.crc32(body).to_bytes(4, "little")
    return cobs.encode(body) + b"\0"


def mutated(rng: random.Random, encoded: bytes) -> bytes:
    data = bytearray(encoded)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                del data[place]
            case 2:
                data.insert(place, rng.randrange(256))
            case 3:
                del data[place : place + rng.randrange(1, 30)]
            case 4:
                data[place:place] = data[: rng.randrange(1, 30)]
        data = data or bytearray(b"\0")
    return bytes(data)


class Twins:
    """The hardware and the model; what one says the other must say."""

    def __init__(self, board: SimulatedBoard, config: AcceleratorConfig) -> None:
        self.board, self.model = board, DeviceModel(config)
        self.sequence = 0

    def exchange(self, data: bytes) -> None:
        wanted = self.model.receive(data)
        self.sequence = self.model._expected
        self.board.write(data)
        found, deadline = b"", time.monotonic() + LONGEST
        while len(found) < len(wanted):
            assert time.monotonic() < deadline, f"{len(found)} of {len(wanted)} bytes of answers"
            found += self.board.read(1.0)
        assert found == wanted

    def request(self, kind: Type, address: int = 0, payload: bytes = b"") -> None:
        self.exchange(framing.encode(Frame(self.sequence, kind, address, payload)))

    def fill(self, config: AcceleratorConfig) -> None:
        """The hardware's memory starts at random: the same bytes into both."""
        rng = np.random.default_rng(4)
        for bank in range(config.rows):
            for word in range(0, config.activation_depth, 512):
                data = rng.integers(0, 256, min(512, config.activation_depth - word)).astype(np.uint8)
                address = packet.write_address(Space.ACTIVATION, word)
                self.request(Type.WRITE, address, packet.bank_mask(config, [bank]) + data.tobytes())

    def compare_memories(self, config: AcceleratorConfig) -> None:
        for bank in range(config.rows):
            for word in range(0, config.activation_depth, 512):
                count = min(512, config.activation_depth - word)
                self.request(Type.READ, packet.read_address(bank, word), count.to_bytes(2, "little"))
        self.request(Type.STATUS)  # with the signature
        self.request(Type.COUNTERS)  # with the damaged frames, as far as the hardware counts them


@pytest.mark.parametrize("kind", ["random", "mutated"])
def test_no_frame_does_more_than_the_model_says(board, kind):
    config, seed = load_config("tiny"), 31
    print(f"seed {seed}")
    rng, twins = random.Random(seed), Twins(board, config)
    types = [kind for kind in Type if kind not in (Type.RUN, Type.CONTINUE)]
    twins.request(Type.OPEN, 1)
    twins.fill(config)
    for _ in range(FRAMES // BATCH):
        data = b""
        for offset in range(BATCH):
            frame = framing.encode(sensible(rng, config, twins.sequence + offset // 2, types))
            if kind == "mutated":
                data += mutated(rng, frame)
            else:
                data += frame if rng.random() < 0.7 else noise(rng)
        twins.exchange(data + b"\0\0")
        # Back into step, as a driver would find it.
        twins.request(Type.OPEN, rng.randrange(1, 1 << 32))
    twins.compare_memories(config)


def test_runs_of_random_programs_hang_nothing(board):
    """Every request at random, RUN and CONTINUE with them, on memories full of nonsense."""
    config, rng = load_config("tiny"), random.Random(32)
    sequence = 0
    for _ in range(FRAMES // BATCH):
        data = b"\0" + framing.encode(Frame(255, Type.OPEN, rng.randrange(1, 1 << 32)))
        for sequence in range(BATCH):
            data += framing.encode(sensible(rng, config, sequence, list(Type)))
        board.write(data)
        while board.read(0.05):
            pass
        device = Accelerator(Link(board, latency=LONGEST / 4))
        assert device.identify() == packet.identity(config)
    device.reset()
    assert device.state().status == 0
