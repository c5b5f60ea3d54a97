"""Place and route with nextpnr."""

import inspect
import json
import re
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from popshift.gen.implement import floor_plan, pins, placement, timing
from popshift.gen.implement.devices import Device
from popshift.gen.implement.synthesis import Netlist
from popshift.gen.implement.toolchain import NEXTPNR, run
from popshift.hw.errors import InputError, ToolError
from popshift.sim.build_cache import cached, digest

_PATIENCE, _MANY = 60, 40
"""Turns of the router, and wires in conflict after them that half of the turns have not made fewer: runs that
found an end had fewer than 30 by then."""
_SLOW = 20
"""Turns without conflicts that still rip up wires which miss the constraint: every run that found an end had
one."""
_LONG = 300
"""Turns without fewer conflicts than ever before. Of the runs that found an end none had more than 34, but
for one that had 1,446; another seed takes less time."""
CONSTRAINT_MARGIN = 1.05
"""nextpnr stops improving a path that meets its constraint, so it is asked for a little more than is wanted.
"""
_SECONDS_PER_CELL = {"ecp5": 0.014, "ice40": 0.042, "gowin": 0.037}
_NATIVE_IS_FASTER = 3
"""Of LUTs and flip-flops, as the WebAssembly builds took on one core."""
_SILENT_MINUTES = {"ice40": 3.0}
"""nextpnr's placer tells of each of its turns, which take seconds; in a nearly full iCE40 one can go on for
ever (the legaliser moves cells at random until they fit).
"""
_DESIGN = ("--write", "routed.json")
"""How nextpnr is asked for the design with the places of its cells, and the file it becomes."""
_ROUTED = {"ecp5": ("--textcfg", "routed.config"), "ice40": ("--asc", "routed.asc"), "gowin": _DESIGN}
"""The same for what a family's packer takes."""
_PLACEMENT = "placement.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One placed and routed design.

    Attributes
    ----------
    device, seed: what it was made for, and nextpnr's random seed.
    clock_mhz: the clock that was wanted.
    fmax_mhz: highest frequency nextpnr's timing model allows, by clock.
    lut, ff, block_ram, dsp, spram: used and available, as nextpnr counts them (None: the device has none). On
        iCE40 ``lut`` counts logic cells, each a LUT and a flip-flop, and ``ff`` is None.
    cells: every kind nextpnr counts.
    critical_path: slowest path between registers, in the design's names.
    seconds: how long nextpnr took when the result was made.
    log: file with all that nextpnr printed.
    routed: its result, as `popshift.gen.implement.bitstream` takes it.
    placement: file that `popshift.gen.implement.placement.Placement` loads.
    """

    device: str
    seed: int
    clock_mhz: float
    fmax_mhz: dict[str, float]
    lut: timing.Use | None
    ff: timing.Use | None
    block_ram: timing.Use | None
    dsp: timing.Use | None
    spram: timing.Use | None
    cells: dict[str, timing.Use]
    critical_path: list[timing.Step]
    seconds: float
    log: str
    routed: str
    placement: str

    @property
    def slowest_mhz(self) -> float:
        """The lowest of the clocks."""
        return min(self.fmax_mhz.values())

    def resources(self) -> dict[str, timing.Use]:
        """What the device has of each kind, by name."""
        kinds = {
            "LUT": self.lut,
            "FF": self.ff,
            "block RAM": self.block_ram,
            "DSP": self.dsp,
            "SPRAM": self.spram,
        }
        return {name: use for name, use in kinds.items() if use is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return {**asdict(self), "slowest_mhz": self.slowest_mhz}


# nextpnr's names for lut, ff, block_ram, dsp, spram. Gowin's carry cells take the places of LUTs.
_KINDS = {
    "ecp5": (("TRELLIS_COMB",), ("TRELLIS_FF",), ("DP16KD",), ("MULT18X18D",), ()),
    "ice40": (("ICESTORM_LC",), (), ("ICESTORM_RAM",), ("ICESTORM_DSP",), ("ICESTORM_SPRAM",)),
    "gowin": (("LUT4", "ALU"), ("DFF",), ("BSRAM",), ("MULT9X9",), ()),
}


def _use(table: dict[str, Any], kinds: tuple[str, ...]) -> timing.Use | None:
    found = [table[kind] for kind in kinds if kind in table]
    return timing.Use(sum(entry["used"] for entry in found), found[0]["available"]) if found else None


def place_and_route(
    netlist: Netlist,
    device: Device,
    *,
    seed: int = 1,
    clock_mhz: float,
    minutes: float | None = None,
    board_pins: pins.Pins | None = None,
) -> Report:
    """Place and route a netlist; a run done before comes from the cache.

    Parameters
    ----------
    netlist: synthesised for the device's family; out of context, its clock port is called ``clk``.
    clock_mhz: the clock that is wanted; nextpnr is asked for a little more. Missing it is no error: read
        `Report.fmax_mhz`.
    minutes: when to give up.
    board_pins: of a board; None: out of context.

    Raises
    ------
    InputError: a netlist for another family, one that needs more than the device has, or with more ports than
        the device's table has pins.
    ToolError: nextpnr is missing, gave up or took too long.
    """
    if netlist.family != device.family:
        remedy = f"synthesise it for {device.family}"
        raise InputError(
            f"the netlist was synthesised for {netlist.family}", where=device.name, remedy=remedy
        )
    _check_room(netlist, device)
    tool = NEXTPNR[device.family]
    constraint = clock_mhz * CONSTRAINT_MARGIN
    placed = board_pins or pins.anywhere(netlist, device, constraint)
    result = _ROUTED[device.family]
    command = [*device.nextpnr, *placed.arguments, *dict.fromkeys((*_DESIGN, *result)), "--seed", str(seed)]
    command += ["--freq", f"{constraint:.3f}"]
    path, version = tool.require(), tool.version or "unknown"

    def produce(folder: Path) -> None:
        for name, text in placed.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        # The WebAssembly builds see the working folder but not every other place (/tmp is a private one).
        copy = _planned(netlist, device, folder / "netlist.json")
        whole = [path, *command, "--json", copy.name, "--top", netlist.top]
        whole += ["--timing-allow-fail", "--report", "report.json"]
        start = time.monotonic()
        task = f"place and route for {device.name}, seed {seed}"
        _until_routed(whole, folder, task, minutes, _SILENT_MINUTES.get(device.family))
        copy.unlink()
        _note_places(folder, keep=result == _DESIGN)
        (folder / "seconds").write_text(f"{time.monotonic() - start:.1f}", encoding="utf-8")

    noted = inspect.getsource(placement)
    plan = [inspect.getsource(floor_plan), *device.multiplier_sites] if device.multiplier_sites else []
    key = digest(netlist.digest, path.name, version, " ".join(command), *placed.files.values(), *plan, noted)
    what = f"{device.name}, place and route with seed {seed} (about {_minutes(netlist, path)} min)"
    return _read(cached("place_route", key, produce, what=what), device, seed, clock_mhz)


def _until_routed(
    command: list[str | Path], folder: Path, task: str, minutes: float | None, silent_minutes: float | None
) -> None:
    """Run nextpnr, and once more without ripping up slow wires where that does not end."""
    log = folder / "nextpnr.log"
    how = {"minutes": minutes, "hopeless": _hopeless, "silent_minutes": silent_minutes}
    try:
        run(command, task=task, log=log, cwd=folder, **how)
    except ToolError:
        if not _only_slow(log.read_text(encoding="utf-8", errors="replace")):
            raise
        run([word for word in command if word != pins.TIMING_RIPUP], task=task, log=log, cwd=folder, **how)


def _minutes(netlist: Netlist, nextpnr: Path) -> int:
    """How long it will take, by the size of the netlist; nobody should wait without knowing for what."""
    cells = netlist.resources.lut4 + netlist.resources.ff
    faster = 1 if nextpnr.name.startswith("yowasp") else _NATIVE_IS_FASTER
    return max(1, round(cells * _SECONDS_PER_CELL[netlist.family] / faster / 60))


def _overused(log: str) -> list[int]:
    """Wires in conflict after each of router2's turns."""
    return [int(number) for number in re.findall(r"\biter=\d+ .*?\boverused=(\d+)", log)]


def _only_slow(log: str) -> bool:
    """No conflict is left, but wires that miss the constraint are routed again and again."""
    return len(last := _overused(log)[-_SLOW:]) == _SLOW and not any(last)


def _hopeless(log: str) -> str | None:
    """router2 can go on for ever with some placements: conflicts that only move, or wires that stay slow."""
    overused = _overused(log)
    turns = len(overused)
    if _only_slow(log):
        return f"the router does not find faster wires (in {turns} turns)"
    many = turns >= _PATIENCE and overused[-1] >= _MANY and overused[-1] >= overused[turns // 2]
    long = turns > _LONG and min(overused[-_LONG:]) >= min(overused[:-_LONG])
    if not many and not long:
        return None
    return f"the router does not get rid of its conflicts ({overused[-1]} after {turns} turns)"


def _planned(netlist: Netlist, device: Device, copy: Path) -> Path:
    """A copy of the netlist, with the sites that the floor plan gives."""
    if device.multiplier_sites:
        design = json.loads(netlist.path.read_text(encoding="utf-8"))
        floor_plan.place_multipliers(design["modules"][netlist.top], device.multiplier_sites)
        copy.write_text(json.dumps(design), encoding="utf-8")
    else:
        shutil.copyfile(netlist.path, copy)
    return copy


def _note_places(folder: Path, *, keep: bool) -> None:
    """Keep of nextpnr's design, which is large, only where its cells are; `keep`: all the same."""
    written = folder / _DESIGN[1]
    design = json.loads(written.read_text(encoding="utf-8"))
    placement.Placement.of_design(design).save(folder / _PLACEMENT)
    if not keep:
        written.unlink()


def _check_room(netlist: Netlist, device: Device) -> None:
    """Refuse at once what nextpnr would refuse with the name of one cell, perhaps after minutes."""
    lacking = []
    for resource, available in device.capacity.items():
        needed = getattr(netlist.resources, resource)
        if needed > available:
            lacking.append(f"{needed:,} {resource} of {available:,}")
    if lacking:
        remedy = (
            "take a smaller configuration (array for lut4 and dsp, depths for memories) or a larger device"
        )
        raise InputError(f"the design does not fit: {', '.join(lacking)}", where=device.name, remedy=remedy)


def _read(folder: Path, device: Device, seed: int, clock_mhz: float) -> Report:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    lut, ff, block_ram, dsp, spram = (_use(report["utilization"], kinds) for kinds in _KINDS[device.family])
    frequencies = timing.clocks(report)
    if not frequencies:
        where = str(folder / "nextpnr.log")
        raise ToolError(
            "nextpnr found no path between registers, hence no frequency",
            where=where,
            remedy="is the design empty?",
        )
    return Report(
        device=device.name,
        seed=seed,
        clock_mhz=clock_mhz,
        fmax_mhz=frequencies,
        lut=lut,
        ff=ff,
        block_ram=block_ram,
        dsp=dsp,
        spram=spram,
        cells=timing.utilisation(report),
        critical_path=timing.critical_path(report),
        seconds=float((folder / "seconds").read_text(encoding="utf-8")),
        log=str(folder / "nextpnr.log"),
        routed=str(folder / _ROUTED[device.family][1]),
        placement=str(folder / _PLACEMENT),
    )


def median(reports: Sequence[Report]) -> Report:
    """The run with the median of the slowest clock over several seeds (the lower one of an even number)."""
    middle = statistics.median_low(report.slowest_mhz for report in reports)
    return next(report for report in reports if report.slowest_mhz == middle)
