"""Runs the cocotb regression of the source checkout on chosen configurations."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path
from xml.etree import ElementTree

from popshift.hw.config import load_config
from popshift.hw.errors import InputError, ToolError

CONFIGS_VARIABLE = "POPSHIFT_REGRESSION_CONFIGS"
"""Names or files of the configurations, separated like PATH."""
SEED_VARIABLE = "POPSHIFT_REGRESSION_SEED"
NETLIST_VARIABLE = "POPSHIFT_REGRESSION_NETLIST"
"""Family for which everything is synthesised first; empty: the generated Verilog itself."""
_PYTEST_NO_TESTS = 5
_PYTEST_FAILED = 1


@dataclass(frozen=True, kw_only=True)
class RegressionResult:
    """How a regression went.

    Attributes
    ----------
    passed, failed, skipped: names of the tests.
    seed: of everything random; the same seed gives the same run.
    seconds: wall time.
    log: what pytest printed.
    """

    passed: tuple[str, ...]
    failed: tuple[str, ...]
    skipped: tuple[str, ...]
    seed: int
    seconds: float
    log: str

    @property
    def good(self) -> bool:
        """Whether something ran and nothing failed."""
        return bool(self.passed) and not self.failed


def run_regression(
    configs: Sequence[str | Path] = ("tiny",),
    *,
    seed: int = 1,
    select: str = "",
    netlist: str = "",
    show: bool = False,
) -> RegressionResult:
    """Run ``tests/regression`` with pytest in a process of its own.

    Parameters
    ----------
    configs: shipped names or files of configurations.
    seed: 1 .. 2**31 - 1.
    select: pytest's ``-k``: only tests whose names match this expression.
    netlist: a family (`popshift.sim.netlist.FAMILIES`): everything is synthesised for it first.
    show: pass pytest's output on as it comes, instead of collecting it in the log.

    Raises
    ------
    ConfigError: a configuration that does not exist or is illegal.
    InputError: a seed out of range, or an expression that selects nothing.
    ToolError: popshift was not installed from a checkout, pytest or cocotb is missing, or pytest breaks down.
    """
    if not 0 < seed < 1 << 31:
        raise InputError(f"seed must be 1 .. {(1 << 31) - 1}, not {seed}", remedy="choose another seed")
    for config in configs:
        load_config(config)
    folder = regression_folder()
    chosen = [str(Path(c).absolute()) if Path(c).is_file() else str(c) for c in configs]
    environment = os.environ | {CONFIGS_VARIABLE: os.pathsep.join(chosen), SEED_VARIABLE: str(seed)}
    environment |= {NETLIST_VARIABLE: netlist}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="popshift-") as scratch:
        results = Path(scratch, "results.xml")
        arguments = [str(folder), f"--junitxml={results}", *(["-k", select] if select else [])]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        pipe = None if show else subprocess.PIPE
        done = subprocess.run(
            command,
            cwd=folder.parent.parent,
            env=environment,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log = done.stdout or ""
        if done.returncode == _PYTEST_NO_TESTS:
            raise InputError(f"no test matches {select!r}", remedy="leave the selection out to run all")
        if done.returncode not in (0, _PYTEST_FAILED) or not results.is_file():
            reason = ([line for line in log.splitlines() if re.search("error", line, re.I)] or ["see above"])[
                0
            ]
            remedy = "pip install 'popshift[test]' and try again"
            raise ToolError(f"pytest broke down (status {done.returncode}): {reason}", remedy=remedy)
        passed, failed, skipped = _outcomes(results)
    return RegressionResult(
        passed=passed, failed=failed, skipped=skipped, seed=seed, seconds=time.monotonic() - started, log=log
    )


def regression_folder() -> Path:
    """``tests/regression`` of the checkout this package runs from.

    Raises
    ------
    ToolError: the package is not part of a checkout, or what the tests need is not installed.
    """
    package = Path(str(resources.files("popshift.sim"))).resolve()
    folder = package.parent / "tests" / "regression"
    if not (folder / "conftest.py").is_file():
        raise ToolError(
            "the regression tests are part of the source, not of the installed package",
            where=str(folder),
            remedy="clone the repository, run make setup there and use its .venv/bin/popshift",
        )
    missing = [name for name in ("pytest", "cocotb") if util.find_spec(name) is None]
    if missing:
        raise ToolError(f"{' and '.join(missing)} not installed", remedy="pip install 'popshift[test]'")
    return folder


def _outcomes(results: Path) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    passed, failed, skipped = [], [], []
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        name = f"{(case.get('classname') or '').rpartition('.')[2]}::{case.get('name')}"
        kinds = {child.tag for child in case}
        (failed if kinds & {"failure", "error"} else skipped if "skipped" in kinds else passed).append(name)
    return tuple(passed), tuple(failed), tuple(skipped)
