"""The devices that `popshift build --device` knows: one entry each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from popshift.hw.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device in one package and speed grade.

    Attributes
    ----------
    name: how the command line calls it.
    family: ``ecp5``, ``ice40`` or ``gowin``: decides synthesis, place and route, and device primitives.
    synthesis: options of the synthesis pass.
    nextpnr, packer: arguments that choose the device, of place and route and of what packs its result.
    capacity: what there is of each of `popshift.gen.implement.synthesis.Resources`.
    clock_pin: a pin from which a clock net can be driven directly.
    pins: other pins, for the families whose place and route wants a place for every port.
    multiplier_sites: nextpnr's names of the multiplier blocks, neighbours next to each other, where a floor
        plan is made (`popshift.gen.implement.floor_plan`).
    """

    name: str
    family: str
    synthesis: tuple[str, ...] = ()
    nextpnr: tuple[str, ...]
    packer: tuple[str, ...] = ()
    capacity: Mapping[str, int]
    clock_pin: str
    pins: tuple[str, ...] = ()
    multiplier_sites: tuple[str, ...] = ()


def _capacity(lut4: int, ff: int, block_ram: int, dsp: int, spram: int = 0) -> dict[str, int]:
    return {"lut4": lut4, "ff": ff, "block_ram": block_ram, "dsp": dsp, "spram": spram}


def _multiplier_sites(columns: Sequence[int], rows: Sequence[int]) -> tuple[str, ...]:
    """Groups of four blocks, down one column of groups and up the next."""
    group = ((0, 0), (1, 1), (4, 4), (5, 5))  # place within the group, number in the name
    return tuple(
        f"X{x + dx}/Y{y}/MULT18_{number}"
        for index, x in enumerate(columns)
        for y in (rows if index % 2 == 0 else rows[::-1])
        for dx, number in group
    )


_ECP5 = {"25": (24_288, 56, 28), "45": (43_848, 108, 72), "85": (83_640, 208, 156)}
"""LUT4, block RAM and multipliers by size."""


def _ecp5(size: str, multiplier_sites: tuple[str, ...] = ()) -> Device:
    # G2 is PCLKT6_1 of all three sizes in the 381-ball package. Speed grade 6 is the slowest.
    lut4, block_ram, dsp = _ECP5[size]
    return Device(
        name=f"lfe5u-{size}f",
        family="ecp5",
        nextpnr=(f"--{size}k", "--package", "CABGA381", "--speed", "6"),
        packer=("--compress",),
        capacity=_capacity(lut4, lut4, block_ram, dsp),
        clock_pin="G2",
        multiplier_sites=multiplier_sites,
    )


_GW1N_PINS = "25 26 27 28 29 30 33 34 35 40 41 42 51 53 54 55 56 57 68 69 70 71 72 73 74 75 76 77"
_GW2A_PINS = "71 72 73 74 75 76 77 80 85 86 25 26 27 28 29 30 31 41 42 48 49 51 52 53 54 55 56"

DEVICES = {
    device.name: device
    for device in (
        _ecp5("25"),
        # As on the OrangeCrab: small package, the fastest grade.
        replace(
            _ecp5("25"),
            name="lfe5u-25f-mg285",
            nextpnr=("--25k", "--package", "CSFBGA285", "--speed", "8"),
            packer=("--compress", "--freq", "38.8"),
            clock_pin="A9",
        ),
        _ecp5("45"),
        _ecp5("85", _multiplier_sites((4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114), (10, 34, 58))),
        Device(
            name="up5k",
            family="ice40",
            synthesis=("-device", "u", "-spram"),
            nextpnr=("--up5k", "--package", "sg48"),
            capacity=_capacity(5_280, 5_280, 30, 8, spram=4),
            clock_pin="35",
        ),
        Device(
            name="hx8k",
            family="ice40",
            synthesis=("-device", "hx"),
            nextpnr=("--hx8k", "--package", "ct256"),
            capacity=_capacity(7_680, 7_680, 32, 0),
            clock_pin="J3",
        ),
        Device(
            name="gw1nr-9",
            family="gowin",
            synthesis=("-family", "gw1n"),
            nextpnr=("--device", "GW1NR-LV9QN88PC6/I5", "--vopt", "family=GW1N-9C"),
            packer=("--device", "GW1N-9C"),
            capacity=_capacity(8_640, 6_480, 26, 40),
            clock_pin="52",
            pins=tuple(_GW1N_PINS.split()),
        ),
        Device(
            name="gw2ar-18",
            family="gowin",
            synthesis=("-family", "gw2a"),
            nextpnr=("--device", "GW2AR-LV18QN88C8/I7", "--vopt", "family=GW2A-18C"),
            packer=("--device", "GW2A-18C"),
            capacity=_capacity(20_736, 15_552, 46, 96),
            clock_pin="4",
            pins=tuple(_GW2A_PINS.split()),
        ),
    )
}


def device(name: str) -> Device:
    """A device by name.

    Raises
    ------
    InputError: no such device; the known ones are named.
    """
    if name not in DEVICES:
        raise InputError(f"unknown device {name!r}", remedy=f"choose from {', '.join(DEVICES)}")
    return DEVICES[name]
