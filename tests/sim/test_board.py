import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import echo_design
import pytest

from popshift.firmware_py.transport import Transport, open_transport
from popshift.hw.errors import ConfigError, DeviceError, InputError
from popshift.sim import verilate
from popshift.sim.board import SimulatedBoard

PATIENCE = 60.0  # seconds; only a failing test waits for them


@pytest.fixture(scope="module")
def program() -> Path:
    return verilate.build(echo_design.verilog(), optimise="compile", trace=True)


def read_exactly(board: Transport, count: int) -> bytes:
    data, deadline = b"", time.monotonic() + PATIENCE
    while len(data) < count and time.monotonic() < deadline:
        data += board.read(1.0)
    return data


def peek(board: SimulatedBoard) -> bytes:
    board.write(bytes(echo_design.PEEK + address for address in range(echo_design.MEMORY_DEPTH)))
    return read_exactly(board, echo_design.MEMORY_DEPTH)


def test_every_byte_passes_once_and_in_order(program):
    choose = random.Random(1)
    sent = bytes(choose.randrange(echo_design.PEEK) for _ in range(50_000))
    with SimulatedBoard(program) as board:
        assert isinstance(board, Transport)
        received, start = b"", 0
        while start < len(sent):
            end = start + choose.choice([1, 2, 300, 5000])
            board.write(sent[start:end])
            start = end
            received += board.read(0)
        received += read_exactly(board, len(sent) - len(received))
        assert board.read(0.01) == b""
    assert received == bytes(byte + 1 for byte in sent)
    assert board.report is not None
    assert board.report.cycles > len(sent)
    assert board.report.cycles_per_second > 0


def test_board_sleeps_when_idle_and_works_on_while_busy(program):
    with SimulatedBoard(program) as board:
        board.write(bytes([echo_design.WORK]))
        assert read_exactly(board, 1) == bytes([echo_design.WORK])
        assert board.read(0.2) == b""
    assert board.report is not None
    # A loop that did not sleep would have simulated many times as much in the meantime.
    assert echo_design.WORK_CYCLES < board.report.cycles < echo_design.WORK_CYCLES + 1000


def test_memories_start_at_zero_or_at_random_by_seed(program):
    contents = []
    for seed in (None, 1, 1, 2):
        with SimulatedBoard(program, seed=seed) as board:
            contents.append(peek(board))
    zero, first, again, second = contents
    assert zero == bytes(echo_design.MEMORY_DEPTH)
    assert first == again
    assert len({zero, first, second}) == 3


def test_seed_out_of_range_is_refused(program):
    with pytest.raises(InputError, match=r"seed must be 1 \.\. 2147483647, not 0"):
        SimulatedBoard(program, seed=0)


def test_violated_assertion_ends_the_simulation_and_is_told(program):
    with SimulatedBoard(program) as board:
        board.write(bytes([5, echo_design.BREAK]))
        with pytest.raises(DeviceError, match=r"told to break.*failed assertion at cycle \d+"):
            read_exactly(board, 2)
        with pytest.raises(DeviceError, match="told to break"):
            for _ in range(100):
                board.write(bytes(1 << 16))
    assert board.report is not None


def test_waveform_is_written(program, tmp_path):
    wave = tmp_path / "echo.vcd"
    with SimulatedBoard(program, trace=wave) as board:
        board.write(b"\x01")
        assert read_exactly(board, 1) == b"\x02"
    text = wave.read_text()
    assert "rx__payload" in text
    assert "b00000010" in text


def test_closed_board_refuses_work(program):
    board = SimulatedBoard(program)
    board.close()
    board.close()
    for action in (lambda: board.read(0.1), lambda: board.write(b"a")):
        with pytest.raises(DeviceError, match="has been closed"):
            action()


def test_dead_simulation_is_an_error(program):
    with SimulatedBoard(program) as board:
        os.kill(board.process_id, signal.SIGKILL)
        with pytest.raises(DeviceError, match="the simulation ended: status -9"):
            board.read(PATIENCE)


def test_missing_program_is_an_error(tmp_path):
    with pytest.raises(DeviceError, match=r"cannot start the simulation.*delete"):
        SimulatedBoard(tmp_path / "popshift-board")


@pytest.mark.parametrize("busy", [False, True])
def test_simulation_ends_when_its_host_dies(program, busy):
    work = f"board.write(bytes([{echo_design.WORK}]) * 60000)" if busy else "pass"
    host = (
        "import os, sys; from pathlib import Path; from popshift.sim.board import SimulatedBoard\n"
        f"board = SimulatedBoard(Path({str(program)!r})); {work}\n"
        "print(board.process_id, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", host], capture_output=True, text=True)
    simulation = int(done.stdout)
    deadline = time.monotonic() + PATIENCE
    while _runs(simulation) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(simulation)


def _runs(process: int) -> bool:
    try:
        # An orphan that nobody has waited for yet remains as a zombie, which is as good as gone.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_scheme_sim_needs_a_configuration():
    with pytest.raises(InputError, match="no configuration to simulate"):
        open_transport("sim:")
    with pytest.raises(ConfigError, match="did you mean tiny"):
        open_transport("sim:tinny")
