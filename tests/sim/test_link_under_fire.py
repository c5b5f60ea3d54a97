"""The driver against the simulated hardware through a wire that does its worst.

The promise: a result is right, or an error; never wrong, never a hang; and who connects again loads nothing
that the device still holds.
"""

import random
import time
from collections.abc import Iterator

import numpy as np
import pytest
from tests.networks import small_network

from popshift.firmware_py.framing import FrameReader
from popshift.firmware_py.protocol import Link
from popshift.firmware_py.session import Accelerator
from popshift.firmware_py.transport import Transport
from popshift.gen.compilation import compile_graph
from popshift.gen.execution import execute
from popshift.hw import packet
from popshift.hw.config import load_config
from popshift.hw.errors import DeviceError
from popshift.hw.packet import Space, Type
from popshift.sim.board import SimulatedBoard, open_board
from popshift.sim.faults import FaultRates, FaultyTransport

IMAGES = 6
LATENCY = 0.25
"""Seconds: a simulation of this size answers in milliseconds, and what is lost has to be waited for."""
LONGEST = 120.0
"""Seconds that no single attempt may take, on a busy machine."""
SEED = 20


class Socket:
    """Where boards are plugged in: wires in front of it come and go, the board stays, or is taken away.

    ``loaded``: WRITEs of memory images that came to the board.
    """

    name, latency = "the board", LATENCY

    def __init__(self, board: SimulatedBoard) -> None:
        self.board, self.loaded = board, 0
        self._reader = FrameReader()

    def read(self, timeout: float) -> bytes:
        return self.board.read(timeout)

    def write(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            memory = frame.address >> packet.SPACE_SHIFT != Space.ACTIVATION
            self.loaded += frame.type == Type.WRITE and memory
        self.board.write(data)

    def close(self) -> None:
        """The board is not the wire's."""


@pytest.fixture(scope="module")
def job():
    config = load_config("tiny")
    rng = np.random.default_rng(SEED)
    graph = small_network(config, rng)
    program = compile_graph(graph, config).program
    images = rng.integers(-128, 128, (IMAGES, *graph.tensors["x"].shape)).astype(np.int8)
    return config, program, images, execute(program, images, "golden", graph=graph).outputs


@pytest.fixture
def socket(job) -> Iterator[Socket]:
    with open_board(job[0], seed=3) as board:
        yield Socket(board)


def device_on(wire: Transport, seed: int) -> Accelerator:
    return Accelerator(Link(wire, latency=LATENCY, tries=8, seed=seed))


@pytest.mark.parametrize("rate", [0.0001, 0.001, 0.01, 0.05])
def test_results_are_right_at_every_rate_of_faults(job, socket, rate):
    _, program, images, wanted = job
    print(f"seed {SEED}")
    wire = FaultyTransport(socket, SEED, FaultRates.all(rate))
    started = time.monotonic()
    device = device_on(wire, SEED)
    device.load(program, progress=False)
    for _ in range(3):
        for name, values in device.run(images, progress=False).items():
            np.testing.assert_array_equal(values, wanted[name])
    assert time.monotonic() - started < LONGEST
    assert sum(wire.faults.values()) > 0 or rate < 0.01


def test_a_wire_that_is_cut_again_and_again_costs_no_result_and_no_second_load(job, socket):
    _, program, images, wanted = job
    choose, done, cuts, loaded_once = random.Random(SEED), 0, 0, None
    while done < 3 * IMAGES:
        assert cuts < 300
        wire = FaultyTransport(socket, cuts, FaultRates.all(0.01), cut_after=choose.randrange(100, 1500))
        started = time.monotonic()
        try:
            device = device_on(wire, cuts)
            device.load(program, progress=False)
            loaded_once = loaded_once or socket.loaded
            while done < 3 * IMAGES:
                image = done % IMAGES
                for name, values in device.run(images[image : image + 1], progress=False).items():
                    np.testing.assert_array_equal(values, wanted[name][image : image + 1])
                done += 1
        except DeviceError as error:
            assert "the wire is cut" in str(error)
            cuts += 1
        assert time.monotonic() - started < LONGEST
    assert cuts > 10
    assert socket.loaded == loaded_once, "what the device held was loaded again"


@pytest.mark.parametrize("when", range(4))
def test_a_device_that_is_reset_or_replaced_in_a_run_is_an_error_and_then_right(job, socket, when):
    """Power fails at a random moment: another simulation, its memories full of something else, is there
    instead.
    """
    config, program, images, wanted = job
    device = device_on(socket, when)
    device.load(program, progress=False)
    old, loaded = socket.board, socket.loaded
    writes_left = random.Random(when).randrange(1, 25)
    write = socket.write

    def failing(data: bytes) -> None:
        nonlocal writes_left
        writes_left -= 1
        if writes_left == 0:
            socket.board = open_board(config, seed=when + 10)
        write(data)

    socket.write = failing
    with pytest.raises(DeviceError, match=r"has lost the session|stopped answering"):
        device.run(images, progress=False)
    socket.write = write
    again = device_on(socket, when + 100)
    again.load(program, progress=False)
    assert socket.loaded > loaded, "the new device holds nothing"
    for name, values in again.run(images, progress=False).items():
        np.testing.assert_array_equal(values, wanted[name])
    old.close()


def test_a_wire_that_goes_silent_is_an_error(job, socket):
    _, program, _, _ = job
    device = device_on(FaultyTransport(socket, 1, FaultRates(damage=0, drop=1.0, double=0, reorder=0)), 1)
    started = time.monotonic()
    with pytest.raises(DeviceError, match="does not answer"):
        device.load(program, progress=False)
    assert time.monotonic() - started < LONGEST
