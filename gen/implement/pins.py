"""Which port goes to which pin: nextpnr's constraint files, for a board or for no board at all."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from popshift.gen.implement.devices import Device
from popshift.gen.implement.synthesis import Netlist
from popshift.hw.errors import InputError

CLOCK_PORT = "clk"
TIMING_RIPUP = "--tmg-ripup"
# router2 is several times faster than the default router1, but needs the clock at a clock pin, and lets nets
# make long detours unless it is told to rip up those that miss the constraint.
_ECP5_ROUTER = ("--router", "router2", TIMING_RIPUP)


@dataclass(frozen=True, slots=True)
class Pins:
    """Constraints: text by file name, and the arguments of nextpnr that go with them."""

    files: Mapping[str, str]
    arguments: tuple[str, ...]


def of_board(constraints: Mapping[str, str], family: str) -> Pins:
    """The pins of a board (`popshift.boards.board.Board.describe`)."""
    name = next(iter(constraints))
    options = {"ecp5": ("--lpf", name, *_ECP5_ROUTER), "ice40": ("--pcf", name)}
    return Pins(constraints, options.get(family, ("--vopt", f"cst={name}")))


def anywhere(netlist: Netlist, device: Device, constraint_mhz: float) -> Pins:
    """Out of context: the clock at a clock pin, other ports where they fit.

    Raises
    ------
    InputError: the design has more ports than the device's table has pins (Gowin only).
    """
    if device.family == "ecp5":
        text = f'LOCATE COMP "{CLOCK_PORT}" SITE "{device.clock_pin}";\n'
        text += f'FREQUENCY PORT "{CLOCK_PORT}" {constraint_mhz:.3f} MHz;\n'
        return Pins({"pins.lpf": text}, ("--lpf", "pins.lpf", "--lpf-allow-unconstrained", *_ECP5_ROUTER))
    if device.family == "ice40":
        text = f"set_io {CLOCK_PORT} {device.clock_pin}\n"
        return Pins({"pins.pcf": text}, ("--pcf", "pins.pcf", "--pcf-allow-unconstrained"))
    ports = _port_bits(netlist)
    if len(ports) > len(device.pins):
        remedy = "build it with a UART link, or for a device of another family"
        what = f"the design has {len(ports)} pins besides the clock, the device's table {len(device.pins)}"
        raise InputError(what, where=device.name, remedy=remedy)
    places = {CLOCK_PORT: device.clock_pin, **dict(zip(ports, device.pins, strict=False))}
    text = "".join(f'IO_LOC "{port}" {pin};\n' for port, pin in places.items())
    return Pins({"pins.cst": text}, ("--vopt", "cst=pins.cst"))


def _port_bits(netlist: Netlist) -> list[str]:
    """Every bit of every port but the clock, named as Gowin's constraints name it."""
    ports = json.loads(netlist.path.read_text(encoding="utf-8"))["modules"][netlist.top]["ports"]
    names = []
    for name, port in ports.items():
        wide = len(port["bits"]) > 1
        names += [f"{name}[{bit}]" if wide else name for bit in range(len(port["bits"]))]
    return [name for name in names if name != CLOCK_PORT]
