"""Generated Verilog to a program that simulates it: Verilator, a C++ main loop, and a cache.

What the flags cost and gain, on the accelerator with a 16 x 16 array: g++ -O1 compiles it in 30 CPU seconds
and simulates 190,000 cycles per CPU second; -O2 takes 54 for 215,000; -O0 takes 20 for a fifth of the speed.
Splitting the model's functions costs a fifth of the speed. Assertions and drawn initial values cost nothing.
"""

import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Literal

from popshift.sim.build_cache import cached, digest
from popshift.sim.verilator import (
    NO_WARNINGS,
    Verilator,
    compiler_version,
    find_verilator,
    run_tool,
    warning_flags,
)

Optimise = Literal["speed", "compile"]
_COMPILER_FLAG = {"speed": "-O1", "compile": "-O0"}
_EXECUTABLE = "popshift-board"
# Unknown and uninitialised values are drawn at run time: zero without a seed, at random with one.
_MODEL_FLAGS = ["-O3", "--x-assign", "unique", "--x-initial", "unique", "--assert"]


def build(
    verilog: str,
    top: str = "popshift",
    *,
    optimise: Optimise = "speed",
    trace: bool = False,
    gates: bool = False,
) -> Path:
    """Compile a design with the ports of the simulated board into a program, unless the cache has it.

    Parameters
    ----------
    verilog: the whole design; `top` has the ports clk, rst, busy, and rx and tx (byte streams, as
        Amaranth names them).
    optimise: ``speed`` for runs of millions of cycles, ``compile`` for small designs that run briefly.
    trace: whether it can write waveforms (VCD); takes longer to build and to run.
    gates: whether it is a netlist of cells, whose models are not ours: warnings are none then.

    Returns
    -------
    Path of the program; `popshift.sim.board.SimulatedBoard` runs it.

    Raises
    ------
    ToolError: Verilator, the compiler or make is missing or fails, or the Verilog causes a warning that is
        not waived.
    """
    if optimise not in _COMPILER_FLAG:
        raise ValueError(f"optimise must be one of {', '.join(_COMPILER_FLAG)}, not {optimise!r}")
    tool = find_verilator()
    main = (resources.files("popshift.sim") / "board_main.cpp").read_text(encoding="utf-8")
    warnings = NO_WARNINGS if gates else warning_flags()
    flags = [*_MODEL_FLAGS, *warnings, *(["--trace-vcd"] if trace else [])]
    key = digest(verilog, top, main, tool.version, compiler_version(), optimise, *flags)

    def make(folder: Path) -> None:
        # make cannot work in a folder with a space in its name, which the cache may have.
        with tempfile.TemporaryDirectory(prefix="popshift-") as scratch:
            program = _compile(Path(scratch), tool, verilog, top, main, flags, optimise, trace)
            shutil.copy2(program, folder / _EXECUTABLE)

    return cached("verilated", key, make, what=f"the simulator of {top} (once for each design)") / _EXECUTABLE


def _compile(
    scratch: Path,
    tool: Verilator,
    verilog: str,
    top: str,
    main: str,
    flags: list[str],
    optimise: Optimise,
    trace: bool,
) -> Path:
    source, loop, model = scratch / f"{top}.v", scratch / "board_main.cpp", scratch / "model"
    source.write_text(verilog, encoding="utf-8")
    loop.write_text(main, encoding="utf-8")
    settings = tool.settings(scratch, optimise=_COMPILER_FLAG[optimise])
    names = ["--top-module", top, "--prefix", "Vpopshift", "--Mdir", str(model), "-o", _EXECUTABLE]
    command = [str(tool.command), "--cc", "--exe", *names, *flags, str(source), str(loop)]
    run_tool(command, cwd=scratch, environment=settings.environment)
    arguments = [*settings.make_arguments, *tool.link_runtime(scratch, trace=trace)]
    make = ["make", "-j2", "-C", str(model), "-f", "Vpopshift.mk", *arguments]
    run_tool(make, environment=settings.environment)
    return model / _EXECUTABLE


def lint(verilog: str, top: str = "popshift") -> None:
    """Check Verilog with every warning but `popshift.sim.verilator.WAIVERS`.

    Raises
    ------
    ToolError: names the first warning or error.
    """
    tool = find_verilator()
    with tempfile.TemporaryDirectory(prefix="popshift-") as scratch:
        source = Path(scratch) / f"{top}.v"
        source.write_text(verilog, encoding="utf-8")
        settings = tool.settings(Path(scratch))
        command = [str(tool.command), "--lint-only", "--top-module", top, *warning_flags(), str(source)]
        run_tool(command, cwd=Path(scratch), environment=settings.environment)
