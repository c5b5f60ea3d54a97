"""Moves registers that follow block RAM into the block RAM's own output register (ECP5).

Yosys has no rule for it (its issue 5814), so this works on the netlist it wrote. A block's data come 5.7 ns
after the clock without that register and 1 ns after it with it, and the flip-flops outside are saved.
"""

from collections.abc import Iterator
from typing import Any

_CLOCKS = {"DOA": "CLKA", "DOB": "CLKB"}
_REGISTER_MODES = {"DOA": "REGMODE_A", "DOB": "REGMODE_B"}


def absorb(module: dict[str, Any]) -> int:
    """Absorb what can be absorbed; returns how many flip-flops have gone.

    A block RAM takes part if each of its data outputs that is used at all drives nothing but one flip-flop on
    the block's clock, and neither the flip-flop nor the block's register has an enable, set or reset.

    Parameters
    ----------
    module: a flat module of DP16KD, TRELLIS_FF and other cells, as Yosys' ``write_json`` gives it; changed in
        place.
    """
    cells, loads = module["cells"], _loads(module)
    gone = 0
    for cell in [cell for cell in cells.values() if cell["type"] == "DP16KD"]:
        outputs = {port: bits[0] for port, bits in _outputs(cell) if loads[bits[0]]}
        sides = {port[:3] for port in outputs}
        registers = {port: loads[bit] for port, bit in outputs.items()}
        if not all(
            len(found) == 1 and _plain(cells, found[0], cell["connections"][_CLOCKS[port[:3]]])
            for port, found in registers.items()
        ) or not all(_free_running(cell, side[-1]) for side in sides):
            continue
        for port, ((name, _),) in registers.items():
            cell["connections"][port] = cells.pop(name)["connections"]["Q"]
            gone += 1
        cell["parameters"] |= {_REGISTER_MODES[side]: "OUTREG" for side in sides}
    return gone


def _free_running(cell: dict[str, Any], side: str) -> bool:
    """Whether the output register of this side would be always enabled and never reset."""
    connections = cell["connections"]
    return connections[f"OCE{side}"] == ["1"] and connections[f"RST{side}"] == ["0"]


def _outputs(cell: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Data outputs with a net (the others carry "x" or nothing)."""
    for port, bits in cell["connections"].items():
        if cell["port_directions"][port] == "output" and bits and isinstance(bits[0], int):
            yield port, bits


def _loads(module: dict[str, Any]) -> dict[Any, list[tuple[str, str]]]:
    """Net -> the (cell, port) pairs it drives; a port of the module counts as a cell without a name."""
    found: dict[Any, list[tuple[str, str]]] = {}
    for name, cell in module["cells"].items():
        for port, bits in cell["connections"].items():
            for bit in bits:
                found.setdefault(bit, [])
                if cell["port_directions"][port] == "input":
                    found[bit].append((name, port))
    for port in module["ports"].values():
        if port["direction"] == "output":
            for bit in port["bits"]:
                found.setdefault(bit, []).append(("", ""))
    return found


def _plain(cells: dict[str, Any], load: tuple[str, str], clock: list[Any]) -> bool:
    """Whether a load is the data input of a flip-flop that does no more than the block's own register."""
    name, port = load
    if port != "DI" or cells[name]["type"] != "TRELLIS_FF":
        return False
    parameters, connections = cells[name]["parameters"], cells[name]["connections"]
    return (
        connections["CLK"] == clock
        and connections.get("LSR", ["0"]) == ["0"]
        and parameters["CLKMUX"] == "CLK"
        and parameters["CEMUX"].strip() == "1"
        and parameters["REGSET"] == "RESET"
    )
