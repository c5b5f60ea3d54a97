"""The simulated board: the Verilated accelerator as a transport, opened as ``sim:CONFIG``."""

import contextlib
import json
import select
import socket
import subprocess
import tempfile
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import NamedTuple, Self

from popshift.firmware_py import transport
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.errors import DeviceError, InputError
from popshift.sim import verilate
from popshift.sim.build_cache import cached, digest

_CHUNK_BYTES = 1 << 16
_WRITE_TIMEOUT = 60.0
_END_TIMEOUT = 10.0
_MESSAGE_LINES = 3


class SimulationReport(NamedTuple):
    """What a finished simulation tells: clock cycles, and the seconds spent on them without the waits."""

    cycles: int
    seconds: float

    @property
    def cycles_per_second(self) -> float:
        return self.cycles / self.seconds if self.seconds else 0.0


class SimulatedBoard:
    """A simulation in a process of its own; it ends with the transport or with this process.

    Parameters
    ----------
    program: what `popshift.sim.verilate.build` built.
    name: how messages call the board.
    seed: 1 .. 2**31 - 1: memories start with random contents, drawn with this seed. None: they start at zero.
    trace: file to write the waveform to (VCD); the program must have been built with ``trace=True``.

    Attributes
    ----------
    report: set by `close`; None if the simulation was killed.

    Raises
    ------
    DeviceError: the program cannot be started.
    InputError: the seed is out of range.
    """

    latency = 5.0  # seconds: a busy computer, a large design
    bytes_per_second = 50_000

    def __init__(
        self, program: Path, *, name: str = "sim:", seed: int | None = None, trace: Path | None = None
    ) -> None:
        if seed is not None and not 0 < seed < 1 << 31:
            raise InputError(
                f"seed must be 1 .. {(1 << 31) - 1}, not {seed}", where=name, remedy="choose another seed"
            )
        self.name = name
        self.report: SimulationReport | None = None
        self._closed = False
        self._folder = tempfile.TemporaryDirectory(prefix="popshift-sim-")
        self._log, self._report_file = Path(self._folder.name, "log"), Path(self._folder.name, "report.json")
        command = [str(program), "--report", str(self._report_file)]
        command += ["--seed", str(seed)] if seed is not None else []
        command += ["--trace", str(Path(trace).absolute())] if trace is not None else []
        self._socket, theirs = socket.socketpair()
        with theirs, self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    [*command, "--link", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            except OSError as error:
                self._socket.close()
                self._folder.cleanup()
                raise DeviceError(
                    f"cannot start the simulation ({error.strerror or error})",
                    where=name,
                    remedy=f"delete {program.parent} to have it built anew",
                ) from error
        self._socket.settimeout(_WRITE_TIMEOUT)

    @property
    def process_id(self) -> int:
        """Of the simulation."""
        return self._process.pid

    def read(self, timeout: float) -> bytes:
        """See `Transport.read`."""
        try:
            if not select.select([self._socket], [], [], max(timeout, 0.0))[0]:
                return b""
            data = self._socket.recv(_CHUNK_BYTES)
        except (OSError, ValueError) as error:
            raise self._ended() from error
        if not data:
            raise self._ended()
        return data

    def write(self, data: bytes) -> None:
        """See `Transport.write`."""
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            what = f"the simulation has taken no bytes for {_WRITE_TIMEOUT:.0f} seconds"
            raise DeviceError(what, where=self.name, remedy="close it and open it again") from error
        except OSError as error:
            raise self._ended() from error

    def close(self) -> None:
        """End the simulation and read its `report`."""
        if self._closed:
            return
        self._closed = True
        self._socket.close()
        try:
            self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError, ValueError):
            self.report = SimulationReport(**json.loads(self._report_file.read_text()))
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ended(self) -> DeviceError:
        if self._closed:
            return DeviceError("the simulation has been closed", where=self.name, remedy="open it again")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT)
        lines = self._log.read_text(errors="replace").strip().splitlines()[-_MESSAGE_LINES:]
        reason = " / ".join(line.strip() for line in lines) or f"status {self._process.returncode}"
        return DeviceError(
            f"the simulation ended: {reason}", where=self.name, remedy="repeat it with a waveform (trace=…)"
        )


def open_board(
    config: AcceleratorConfig | str | Path,
    *,
    seed: int | None = None,
    trace: Path | None = None,
    optimise: verilate.Optimise = "speed",
) -> SimulatedBoard:
    """A simulated board with this configuration: generated, built (or taken from the cache) and started.

    Parameters
    ----------
    config: configuration, its shipped name or its file; its link becomes the byte stream.
    seed, trace: see `SimulatedBoard`.
    optimise: see `popshift.sim.verilate.build`.

    Raises
    ------
    ConfigError: no such configuration.
    ToolError: a tool is missing or fails.
    DeviceError, InputError: see `SimulatedBoard`.
    """
    config = config if isinstance(config, AcceleratorConfig) else load_config(config)
    program = verilate.build(accelerator_verilog(config), optimise=optimise, trace=trace is not None)
    return SimulatedBoard(program, name=f"sim:{config.name}", seed=seed, trace=trace)


def accelerator_verilog(config: AcceleratorConfig) -> str:
    """Verilog of the accelerator with the byte-stream link, from the cache if generated before."""
    config = config.replace(link="stream", name="simulated")  # a name must not decide about a build

    def make(folder: Path) -> None:
        from popshift.hw.emit import (
            emit_verilog,
        )  # takes a second to import, which a cached design need not wait for

        (folder / "popshift.v").write_text(emit_verilog(config), encoding="utf-8")

    tools = [metadata.version(name) for name in ("amaranth", "pyosys")]
    key = digest(config.to_toml(), hardware_digest(), *tools)
    return (cached("verilog", key, make, what="the Verilog of the accelerator") / "popshift.v").read_text(
        encoding="utf-8"
    )


@cache
def hardware_digest() -> str:
    """Digest of the sources of popshift.hw: a change there makes cached designs worthless."""
    root = Path(str(resources.files("popshift.hw")))
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".v"))
    return digest(*(part for path in files for part in (str(path.relative_to(root)), path.read_bytes())))


def _open(rest: str, *, config: AcceleratorConfig | str | Path | None = None, **options) -> SimulatedBoard:
    chosen = rest or config
    if chosen is None:
        raise InputError(
            "no configuration to simulate", where="sim:", remedy="write sim:NAME or sim:FILE.toml"
        )
    return open_board(chosen, **options)


transport.register("sim", _open)
