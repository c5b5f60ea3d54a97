"""Builds a bench once (cocotb on Verilator), runs cocotb test modules on it, and tells pytest what failed.

A build costs seconds however small the design, so several units under test go into one bench, side by side
(`side_by_side`), and many test modules run on it.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import cocotb
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped
from cocotb_tools.runner import Verilator, get_runner

from popshift.hw import emit
from popshift.sim.build_cache import cached, digest
from popshift.sim.verilator import NO_WARNINGS, compiler_version, find_verilator, warning_flags

TOP = "bench"
PARAMETERS = "POPSHIFT_BENCH_PARAMETERS"
"""Environment variable that carries the parameters of a run, as JSON."""
_FLAGS = ["-O3", "--x-assign", "unique", "--x-initial", "unique", "--assert", "--timescale", "1ns/1ps"]
_REPLACED = {"--public-flat-rw": ["--public-depth", "1"]}
_OPTIMISE = "-O1"
_LOG_LINES = 40


class _TopPortsPublic(Verilator):
    """cocotb's runner, but only the top's ports are public: else Verilator could optimise nothing."""

    def _build_command(self):
        commands = super()._build_command()
        return [[part for word in command for part in _REPLACED.get(word, [word])] for command in commands]


class _SideBySide(wiring.Component):
    def __init__(self, units: Mapping[str, wiring.Component]) -> None:
        super().__init__({name: Out(unit.signature) for name, unit in units.items()})
        self._units = units

    def elaborate(self, platform):
        m = Module()
        for name, unit in self._units.items():
            m.submodules[name] = unit
            connect(m, flipped(getattr(self, name)), unit)
        return m


def side_by_side(units: Mapping[str, wiring.Component]) -> str:
    """Verilog of a bench that contains all `units`; the ports of each are ``UNIT__port``."""
    return emit.component_verilog(_SideBySide(units), top=TOP)


def build_bench(verilog: str, *, gates: bool = False) -> Path:
    """The folder with the simulator of a bench, built by cocotb's runner or taken from the cache.

    Parameters
    ----------
    gates: whether it is a netlist, whose models of cells are not ours: warnings are none then.

    Raises
    ------
    ToolError: Verilator or the compiler is missing, or the cache cannot be written.
    RuntimeError: the build failed; carries the end of its log.
    """
    tool = find_verilator()
    flags = [*_FLAGS, *(NO_WARNINGS if gates else warning_flags())]
    library = str(Path(cocotb.__file__).parent)  # linked by its place, which another venv does not share
    versions = tool.version, compiler_version(), cocotb.__version__, library
    key = digest(verilog, *versions, str(_REPLACED), _OPTIMISE, *flags)

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="popshift-") as scratch:
            source, log = Path(scratch, f"{TOP}.v"), Path(scratch, "log")
            source.write_text(verilog, encoding="utf-8")
            settings = tool.settings(Path(scratch), optimise=_OPTIMISE)
            arguments = [*settings.make_arguments, *tool.link_runtime(Path(scratch), vpi=True)]
            # The runner calls make itself; a space within a variable needs a backslash there.
            makeflags = " ".join(argument.replace(" ", "\\ ") for argument in arguments)
            build_dir = Path(scratch, "model")
            with mock.patch.dict(os.environ, settings.environment | {"MAKEFLAGS": makeflags}, clear=True):
                try:
                    _TopPortsPublic().build(
                        sources=[source],
                        hdl_toplevel=TOP,
                        build_args=flags,
                        build_dir=build_dir,
                        log_file=log,
                    )
                except RuntimeError as error:
                    raise RuntimeError(f"{error}\n{tail(log)}") from error
            shutil.copy2(build_dir / TOP, folder / TOP)

    return cached("cocotb", key, make, what="a bench for cocotb (once for each design)")


@dataclass(frozen=True)
class BenchRun:
    """What a run of test modules gave.

    Attributes
    ----------
    passed: names of the cocotb tests that passed.
    failed: names of those that failed, and why.
    log: seed, parameters, and the last lines that the simulation printed.
    """

    passed: tuple[str, ...]
    failed: dict[str, str]
    log: str

    def only(self, module: str) -> "BenchRun":
        """The tests of one module, and whatever kept modules from running."""
        prefix = f"{module}."
        failed = {
            name: why for name, why in self.failed.items() if name.startswith(prefix) or not self._told(name)
        }
        return BenchRun(tuple(name for name in self.passed if name.startswith(prefix)), failed, self.log)

    @staticmethod
    def _told(name: str) -> bool:
        """Whether a failure is that of a cocotb test, which names its module."""
        return "." in name

    def check(self) -> None:
        """Fail the calling test if any cocotb test failed, or none ran."""
        assert self.passed or self.failed, f"the simulation ran no test; {self.log}"
        reasons = "\n".join(f"{name}: {reason}" for name, reason in self.failed.items())
        assert not self.failed, f"{len(self.failed)} failed in the simulation:\n{reasons}\n{self.log}"


def run_bench(
    bench: Path, *modules: str, scratch: Path, seed: int, parameters: Mapping[str, Any] | None = None
) -> BenchRun:
    """Run cocotb test modules.

    Parameters
    ----------
    bench: from `build_bench`.
    modules: importable from here (`sys.path` is passed on).
    scratch: folder for log and results.
    seed: of cocotb's random numbers and of the initial contents of memories, positive.
    parameters: what `bench_parameters` returns within the test modules; plain values only.
    """
    log, results = scratch / "log", scratch / "results.xml"
    values = json.dumps(dict(parameters or {}))
    with contextlib.suppress(RuntimeError, SystemExit):  # the results tell, and their absence too
        get_runner("verilator").test(
            test_module=list(modules),
            hdl_toplevel=TOP,
            hdl_toplevel_lang="verilog",
            build_dir=bench,
            test_dir=scratch,
            results_xml=str(results),
            log_file=log,
            seed=seed,
            plusargs=["+verilator+rand+reset+2", f"+verilator+seed+{seed}"],
            extra_env={PARAMETERS: values, "COCOTB_ANSI_OUTPUT": "0"},
        )
    return _results(results, f"seed {seed}, parameters {values}; end of {log}:\n{tail(log)}")


def _results(path: Path, log: str) -> BenchRun:
    if not path.is_file():
        return BenchRun((), {"the simulation itself": "it ended without results"}, log)
    passed, failed = [], {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        bad = [child for child in case if child.tag in ("failure", "error")]
        if bad:
            failed[name] = bad[0].get("message") or bad[0].text or "no message"
        else:
            passed.append(name)
    return BenchRun(tuple(passed), failed, log)


def bench_parameters() -> dict[str, Any]:
    """Within a cocotb test: the parameters given to `run_bench`."""
    return json.loads(os.environ[PARAMETERS])


def tail(log: Path) -> str:
    """The last lines of a log file."""
    return (
        "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:]) if log.is_file() else "no log"
    )
