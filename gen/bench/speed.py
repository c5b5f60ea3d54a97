"""How fast the tools are: generating, building the simulator, simulating."""

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from popshift.firmware_py.program import Program
from popshift.firmware_py.protocol import Link
from popshift.firmware_py.session import Accelerator
from popshift.gen.bench.cases import CASES
from popshift.gen.mapping import map_graph
from popshift.hw import packet
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import DeviceError, ModelError, ToolError
from popshift.hw.isa import Status
from popshift.hw.packet import Type
from popshift.sim.board import SimulatedBoard
from popshift.sim.build_cache import CACHE_VARIABLE, cache_folder

WORKLOADS = ("conv64", "conv16", "fc64")
"""What the simulated accelerator executes: the first of these cases that fits it."""
RUN_SECONDS, RUN_CYCLES = 2.0, 600_000
"""What the simulated accelerator executes at least: long enough to measure, and most of what is simulated."""
_POLL_SECONDS = 0.005

_GENERATE = """
import sys
from pathlib import Path
from popshift.hw.config import load_config
from popshift.hw.emit import emit_verilog
Path(sys.argv[2]).write_text(emit_verilog(load_config(sys.argv[1])), encoding="utf-8")
"""
_BUILD = """
import sys
from pathlib import Path
from popshift.sim.verilate import build
print(build(Path(sys.argv[1]).read_text(encoding="utf-8")))
"""


@dataclass
class Timing:
    """Of child processes, their children included: wall seconds and processor seconds."""

    wall: float = 0.0
    cpu: float = 0.0


def speed_of(config: AcceleratorConfig, *, seed: int = 0) -> dict[str, Any]:
    """Generate the accelerator and build its simulator, each in a fresh process and outside the cache; then
    simulate.

    Returns
    -------
    ``generate_seconds`` and ``build_seconds`` with ``…_cpu_seconds`` beside each; ``workload``;
    ``simulated_cycles``; ``cycles_per_second`` of wall time, and ``cycles_per_cpu_second``, which other work
    on the machine does not lower; ``share_executing``: of the cycles, those between start and done.

    Raises
    ------
    ToolError: a step fails.
    ModelError: not even the smallest workload fits.
    """
    workload, program, inputs = _workload(config, seed)
    with tempfile.TemporaryDirectory(prefix="popshift-speed-") as name:
        folder = Path(name)
        described, verilog = folder / "config.toml", folder / "popshift.v"
        described.write_text(config.replace(link="stream").to_toml(), encoding="utf-8")
        with _timed() as generating:
            _python(_GENERATE, [described, verilog])
        with _timed() as building:
            board = Path(_python(_BUILD, [verilog], **{CACHE_VARIABLE: str(_scratch_cache(folder))}).strip())
        return {
            "generate_seconds": round(generating.wall, 2),
            "generate_cpu_seconds": round(generating.cpu, 2),
            "build_seconds": round(building.wall, 2),
            "build_cpu_seconds": round(building.cpu, 2),
            "workload": workload,
            **_simulate(board, config, program, inputs),
        }


def _workload(config: AcceleratorConfig, seed: int) -> tuple[str, Program, np.ndarray]:
    refused: ModelError | None = None
    for name in WORKLOADS:
        workload = CASES[name].build(config, seed)
        try:
            return name, map_graph(workload.graph, config, name=name), workload.images[:1]
        except ModelError as error:
            refused = error
    assert refused is not None
    raise refused


def _scratch_cache(folder: Path) -> Path:
    """An empty cache, but for Verilator's runtime library, which is built once and for all designs."""
    scratch, runtime = folder / "cache", cache_folder() / "verilator-runtime"
    scratch.mkdir()
    if runtime.is_dir():
        (scratch / runtime.name).symlink_to(runtime)
    return scratch


def _python(script: str, arguments: Sequence[Path], **environment: str) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no output"]
        raise ToolError(f"measuring the speed failed: {lines[-1]}", remedy="run: popshift doctor")
    return done.stdout


@contextlib.contextmanager
def _timed() -> Iterator[Timing]:
    """Of the child processes that end in the block."""
    timing, before, started = Timing(), resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    yield timing
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    timing.wall = time.monotonic() - started
    timing.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _simulate(
    executable: Path, config: AcceleratorConfig, program: Program, inputs: np.ndarray
) -> dict[str, Any]:
    """Start the same program again and again; its inputs stay in the memory."""
    with _timed() as spent:
        board = SimulatedBoard(executable, name=f"sim:{config.name}")
        with Accelerator(Link(board, fifo_bytes=config.link_fifo_depth)) as device:
            device.load(program, progress=False)
            device.run(inputs, progress=False)
            started, executing = time.monotonic(), 0
            while time.monotonic() - started < RUN_SECONDS or executing < RUN_CYCLES:
                executing += _start_again(device, program)
    if board.report is None:
        raise DeviceError("the simulation did not end by itself", where=board.name, remedy="try again")
    return {
        "simulated_cycles": board.report.cycles,
        "cycles_per_second": round(board.report.cycles_per_second),
        "cycles_per_cpu_second": round(board.report.cycles / spent.cpu),
        "share_executing": round(executing / board.report.cycles, 3),
    }


def _start_again(device: Accelerator, program: Program) -> int:
    """Run the segment that is loaded once more; its cycles."""
    device.link.request(Type.RUN, 0, packet.RUN.pack(0, 0, program.cycle_limit(len(program.segments) - 1)))
    while (state := device.state()).status == Status.RUNNING:
        device.link.wait(_POLL_SECONDS)
    assert state.status == Status.DONE, f"stopped with {Status(state.status).name}"
    return state.cycles
