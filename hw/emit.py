"""From configuration to Verilog."""

import hashlib
import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Value
from amaranth.lib import wiring

from popshift.hw.accelerator import Accelerator
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ToolError
from popshift.hw.memory import ram
from popshift.hw.tech import TECHNOLOGIES

TOP = "popshift"


def emit_rtlil(component: wiring.Component, *, top: str = TOP) -> str:
    """RTLIL of a component; its members become the ports ``member`` or, of streams, ``member__payload`` and
    so on.
    """
    ports = []
    for _, _, value in component.signature.flatten(component):
        ports.append(Value.cast(value))
    return rtlil.convert(component, name=top, ports=ports, emit_src=False)


def verilog_from_rtlil(text: str, *, header: str = "") -> str:
    """Verilog of an RTLIL design, written by yosys.

    Raises
    ------
    ToolError: yosys is missing or refuses the design.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "design.il"), Path(folder, "design.v")
        source.write_text(text, encoding="utf-8")
        script = (
            "import sys; from pyosys import libyosys as ys; design = ys.Design()\n"
            "for command in sys.argv[1:]: ys.run_pass(command, design)"
        )
        commands = [
            f"read_rtlil {source}",
            "proc -noopt -norom",
            "pmuxtree",  # plain multiplexers: a parallel one comes out as a case with overlapping items
            "clean -purge",
            f"write_verilog -noattr {target}",
        ]
        run = subprocess.run(
            [sys.executable, "-c", script, *commands], capture_output=True, text=True, check=False
        )
        if run.returncode:
            lines = (run.stdout + run.stderr).strip().splitlines()
            found = [line for line in lines if "ERROR" in line or "Error" in line] or lines[-1:]
            raise ToolError(
                f"yosys failed: {found[0] if found else 'no message'}",
                remedy="pip install 'pyosys>=0.70', then popshift doctor",
            )
        return header + target.read_text(encoding="utf-8") + ram.verilog_source()


def component_verilog(component: wiring.Component, *, top: str = TOP, header: str = "") -> str:
    """Verilog of any component."""
    return verilog_from_rtlil(emit_rtlil(component, top=top), header=header)


def emit_verilog(config: AcceleratorConfig, technology: str = "portable") -> str:
    """Verilog of the accelerator, top module `popshift`; the same configuration and tools give the same
    bytes.

    Parameters
    ----------
    technology: a name in `popshift.hw.tech.TECHNOLOGIES`; ``portable`` for simulation.
    """
    chosen = TECHNOLOGIES[technology](dsp_multipliers=config.dsp_multipliers)
    return component_verilog(
        Accelerator(config=config, technology=chosen), header=_header(config, technology)
    )


def _header(config: AcceleratorConfig, technology: str) -> str:
    tools = {name: metadata.version(name) for name in ("amaranth", "pyosys")}
    facts = {"configuration": config.to_dict(), "technology": technology, "tools": tools}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    lines = [
        f"popshift accelerator {config.name}, technology {technology}",
        f"architecture {config.digest:016x}; configuration and tools sha256 {digest}",
        ", ".join(f"{name} {version}" for name, version in tools.items()),
    ]
    return "".join(f"// {line}\n" for line in lines)
