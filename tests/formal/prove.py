"""Formal proofs with Yosys' own SAT solver: an Amaranth module with Assert and Assume in it, for every input.

Either for every run of so many cycles from reset (bounded), or, by temporal induction, for every run at all.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Value

_MINUTES = 15


def prove(
    module: Elaboratable, inputs: list[Value], *, cycles: int, for_ever: bool = False, any_start: str = ""
) -> None:
    """Prove every Assert of a module.

    Parameters
    ----------
    inputs: what may be anything in every cycle.
    cycles: of the runs from reset that are looked at; with `for_ever`, the longest history that the induction
        may take into account.
    for_ever: prove it for runs of any length.
    any_start: registers (a pattern of their names) that may begin with any value, reset or not.

    Raises
    ------
    AssertionError: there is a counterexample (its trace follows), or the induction does not close.
    """
    text = rtlil.convert(module, name="proof", ports=inputs, emit_src=False)
    mode = "-tempinduct" if for_ever else "-tempinduct-baseonly"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "proof.il").write_text(text, encoding="utf-8")
        commands = [
            "read_rtlil proof.il",
            "hierarchy -top proof",
            "proc",
            "flatten",
            "opt_expr",
            "memory_map",
            "chformal -lower",
            "async2sync",
            *([f"setattr -unset init w:{any_start}"] if any_start else []),
            "opt -full",
            "clean",
            # Reset is what the initial values say; the input stays low.
            f"sat -prove-asserts -set-assumes -set rst 0 {mode} -maxsteps {cycles} -show-public",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "popshift.gen.implement.yosys_process"],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=60 * _MINUTES,
        )
    log = f"{done.stdout[-6000:]}{done.stderr[-2000:]}"
    assert "Import proof for assert" in done.stdout, f"nothing to prove:\n{log}"
    finished = "SUCCESS!" if for_ever else "Reached maximum number of time steps"
    proved = done.returncode == 0 and finished in done.stdout and "FAIL!" not in done.stdout
    assert proved, f"not proved:\n{log}"
