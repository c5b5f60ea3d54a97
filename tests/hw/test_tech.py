"""Every device primitive against its portable twin, under Verilator: same integers, same latency.

The design compares the two cycle by cycle; every pair of 8-bit operands passes every kind of PE multiplier.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from popshift.hw import emit
from popshift.sim.build_cache import cached, digest
from popshift.sim.verilator import Verilator, compiler_version, find_verilator, run_tool
from tests.hw import primitive_comparison, primitive_models
from tests.hw.primitive_comparison import PrimitiveComparison

_MAIN = """
#include <cstdio>
#include <cstdlib>
#include "Vcomparison.h"
#include "verilated.h"
int main(int argc, char** argv) {
    Verilated::commandArgs(argc, argv);
    Vcomparison design;
    const long cycles = std::atol(argv[1]);
    for (long cycle = -4; cycle < cycles; ++cycle) {
        design.rst = cycle < 0;
        design.clk = 0; design.eval();
        design.clk = 1; design.eval();
    }
    const auto* bytes = reinterpret_cast<const unsigned char*>(&design.wrong);
    for (std::size_t byte = sizeof design.wrong; byte > 0; --byte) std::printf("%02x", bytes[byte - 1]);
}
"""
_FLAGS = ["-O3", "--x-assign", "unique", "--x-initial", "unique", "-Wno-fatal", "-Wno-lint", "--no-timing"]


def _compile(tool: Verilator, scratch: Path, verilog: str) -> Path:
    source, loop = scratch / "comparison.v", scratch / "main.cpp"
    source.write_text(verilog, encoding="utf-8")
    loop.write_text(_MAIN, encoding="utf-8")
    settings = tool.settings(scratch, optimise="-O0")
    names = ["--cc", "--exe", "--top-module", "comparison", "--prefix", "Vcomparison", "--Mdir", "model"]
    command = [str(tool.command), *names, "-o", "comparison", *_FLAGS, str(source), str(loop)]
    run_tool(command, cwd=scratch, environment=settings.environment)
    arguments = [*settings.make_arguments, *tool.link_runtime(scratch)]
    make = ["make", "-C", str(scratch / "model"), "-f", "Vcomparison.mk", *arguments]
    run_tool(make, environment=settings.environment)
    return scratch / "model" / "comparison"


@pytest.fixture(scope="module")
def wrong() -> dict[str, bool]:
    """For each comparison whether there was a difference."""
    design = PrimitiveComparison()
    verilog = emit.component_verilog(design, top="comparison") + primitive_models.verilog()
    tool = find_verilator()
    key = digest(verilog, _MAIN, tool.version, compiler_version(), *_FLAGS)

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="popshift-") as scratch:
            shutil.copy2(_compile(tool, Path(scratch), verilog), folder / "comparison")

    program = cached("primitives", key, make, what="the comparison of device primitives") / "comparison"
    cycles = str(primitive_comparison.CYCLES)
    done = subprocess.run([program, cycles], capture_output=True, text=True, check=True, timeout=120)
    flags = int(done.stdout, 16)
    return {name: bool(flags >> index & 1) for index, name in enumerate(design.names)}


def test_comparison_finds_another_latency(wrong):
    assert wrong["one-cycle-late"]


@pytest.mark.parametrize("name", [name for name in PrimitiveComparison().names if name != "one-cycle-late"])
def test_primitive_equals_portable_twin(wrong, name):
    assert not wrong[name]
