"""The accelerator as it is after synthesis, as a simulated board: what the FPGA gets, gate for gate."""

import json
import sys
from pathlib import Path

from popshift.gen.implement.synthesis import synthesise
from popshift.gen.implement.toolchain import run
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import InputError
from popshift.sim import netlist, verilate
from popshift.sim.board import SimulatedBoard
from popshift.sim.build_cache import cached, digest

LARGEST_CELLS = 40_000
"""Cells of the largest netlist that is simulated: Verilator takes minutes for them."""


def synthesised(verilog: str, family: str, top: str) -> str:
    """Verilog of a design after synthesis: its netlist and the models of the cells in it.

    Raises
    ------
    InputError: no models of the family's cells, or a netlist too large to be simulated.
    ToolError: synthesis failed.
    """
    models = netlist.cell_models(family)
    made = synthesise(verilog, family=family, top=top)
    cells = sum(made.resources.cells.values())
    if cells > LARGEST_CELLS:
        raise InputError(
            f"a netlist of {cells:,} cells is too large to be simulated (at most {LARGEST_CELLS:,})",
            remedy="take a smaller array, e.g. -c tiny; or --level rtl",
        )
    _check_memories(made.path, top)

    def write(folder: Path) -> None:
        script = f"read_json {made.path}\nwrite_verilog -noattr netlist.v\n"
        command = [sys.executable, "-m", "popshift.gen.implement.yosys_process"]
        run(command, task="writing the netlist", log=folder / "yosys.log", cwd=folder, text=script)

    key = digest(made.digest, "write_verilog -noattr")
    place = cached("netlist", key, write, what=f"the Verilog of the {family} netlist")
    return (place / "netlist.v").read_text(encoding="utf-8") + models


def netlist_verilog(config: AcceleratorConfig, family: str) -> str:
    """The accelerator with the byte-stream link after synthesis; errors as `synthesised`, and

    Raises
    ------
    ConfigError: the family cannot have this configuration.
    """
    from popshift.hw.emit import TOP, emit_verilog

    netlist.cell_models(family)  # refuses an unknown family, before anything is generated for it
    plain = config.replace(link="stream", name="simulated")  # as the simulated board has it
    return synthesised(emit_verilog(plain, technology=family), family, TOP)


def open_netlist_board(
    config: AcceleratorConfig, family: str = "ecp5", *, seed: int | None = None
) -> SimulatedBoard:
    """A simulated board whose accelerator is the netlist; errors as `netlist_verilog` and
    `SimulatedBoard`.
    """
    program = verilate.build(netlist_verilog(config, family), gates=True)
    return SimulatedBoard(program, name=f"netlist:{config.name} ({family})", seed=seed)


def _check_memories(path: Path, top: str) -> None:
    """The block RAM's model has no initial contents: no memory of the accelerator has any."""
    cells = json.loads(path.read_text(encoding="utf-8"))["modules"][top]["cells"].values()
    for cell in cells:
        contents = [bits for name, bits in cell["parameters"].items() if name.startswith("INITVAL_")]
        assert not any("1" in bits for bits in contents), "a block RAM with contents has no model"
