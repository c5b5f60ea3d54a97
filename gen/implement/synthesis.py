"""Synthesis with Yosys: from Verilog or RTLIL to a netlist of device primitives, and what it costs."""

import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from popshift.gen.implement import output_registers
from popshift.gen.implement.toolchain import package_version, pip_install, run
from popshift.hw.errors import InputError, ToolError
from popshift.sim.build_cache import cached, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a netlist is made of.

    Attributes
    ----------
    lut4: look-up tables, those inside carry cells included (two per CCU2C on ECP5, one per ALU on Gowin; on
        iCE40 a carry cell shares its logic cell with a counted LUT). LUT RAM is not included.
    ff: flip-flops.
    carry: carry cells: CCU2C (two bits each), SB_CARRY, ALU.
    block_ram, dsp, spram: blocks.
    lutram: 16 x 4 bit LUT RAMs.
    cells: every cell type with its count.
    """

    lut4: int
    ff: int
    carry: int
    block_ram: int
    dsp: int
    spram: int
    lutram: int
    cells: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Family:
    """How Yosys is told to synthesise for a family, and which cells count as what.

    Attributes
    ----------
    command: the synthesis pass with the options that hold for the whole family.
    second_part: label of the pass at which the hierarchy is resolved and nothing is flattened yet.
    options: for a device of the family when none is named.
    counts: (pattern of cell types, resources it adds); the first match counts.
    flip_flops: a pass on flip-flops before the family's own.
    """

    command: str
    second_part: str
    options: tuple[str, ...]
    counts: tuple[tuple[str, Mapping[str, int]], ...]
    flip_flops: str = ""


# -nowidelut and booth decide the area of multipliers and popcounts (docs/decisions.md). Multipliers that
# shall be DSP blocks are instances in the design, so all others are meant for LUTs: no DSP inference. abc9 is
# the default mapper of all three passes.
FAMILIES = {
    "ecp5": Family(
        "synth_ecp5 -nowidelut -nodsp",
        "coarse",
        (),
        (
            (r"LUT4", {"lut4": 1}),
            (r"CCU2C", {"lut4": 2, "carry": 1}),
            (r"TRELLIS_FF", {"ff": 1}),
            (r"DP16KD|PDPW16KD", {"block_ram": 1}),
            (r"MULT18X18D", {"dsp": 1}),
            (r"TRELLIS_DPR16X4", {"lutram": 1}),
        ),
    ),
    "ice40": Family(
        "synth_ice40 -dffe_min_ce_use 5",
        "flatten",
        ("-device", "u", "-spram"),
        (
            (r"SB_LUT4", {"lut4": 1}),
            (r"SB_CARRY", {"carry": 1}),
            (r"SB_DFF\w*", {"ff": 1}),
            (r"SB_RAM40_4K\w*", {"block_ram": 1}),
            (r"SB_MAC16", {"dsp": 1}),
            (r"SB_SPRAM256KA", {"spram": 1}),
        ),
        # The eight cells of a tile share one reset, too: resets of a few flip-flops become logic.
        "dfflegalize -cell $_DFF_?_ 0 -cell $_DFFE_?P_ 0 -cell $_DFF_?P?_ 0 -cell $_DFFE_?P?P_ 0 "
        "-cell $_SDFF_?P?_ 0 -cell $_SDFFCE_?P?P_ 0 -mince 5 -minsrst 6",
    ),
    "gowin": Family(
        "synth_gowin -nowidelut -nodsp",
        "coarse",
        ("-family", "gw2a"),
        (
            (r"LUT[1-4]", {"lut4": 1}),
            (r"ALU", {"lut4": 1, "carry": 1}),
            (r"DFF\w*", {"ff": 1}),
            (r"SPX?9?|SDP[BX]?9?B?|DP[BX]?9?B?|pROMX?9?", {"block_ram": 1}),
            (r"MULT\w+|ALU54D|PADD\w+", {"dsp": 1}),
            (r"RAM16\w+", {"lutram": 1}),
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Netlist:
    """A synthesised design.

    Attributes
    ----------
    path: the netlist, JSON as nextpnr reads it.
    log: what Yosys printed.
    family, top: what it was synthesised for, and the name of its top module.
    digest: of the source, the options and the tool; names everything derived from the netlist.
    """

    path: Path
    log: Path
    family: str
    top: str
    digest: str
    resources: Resources


def synthesise(
    source: str | Path,
    *,
    family: str,
    wrapper: str = "",
    top: str = "popshift",
    options: tuple[str, ...] | None = None,
    language: str = "verilog",
) -> Netlist:
    """Synthesise a design; a design synthesised before comes from the cache.

    Parameters
    ----------
    source: text of the design, or a file (``.il`` is RTLIL, anything else Verilog).
    wrapper: RTLIL of modules around a Verilog design.
    family: ``ecp5``, ``ice40`` or ``gowin``.
    options: of the synthesis pass for one device (`popshift.gen.implement.devices`); by default for the usual
        device of the family.
    language: of a text: ``verilog`` or ``rtlil``.

    Raises
    ------
    InputError: unknown family or language.
    ToolError: Yosys is missing or refused the design.
    """
    if family not in FAMILIES:
        raise InputError(f"unknown device family {family!r}", remedy=f"choose from {', '.join(FAMILIES)}")
    if isinstance(source, Path):
        text, language = source.read_text(encoding="utf-8"), "rtlil" if source.suffix == ".il" else "verilog"
    else:
        text = source
    if language not in ("verilog", "rtlil"):
        raise InputError(f"unknown language {language!r}", remedy="choose verilog or rtlil")
    version = package_version("pyosys")
    if version is None:
        raise ToolError("pyosys (Yosys) is not installed", remedy=f"run: {pip_install('pyosys')}")
    chosen = FAMILIES[family].options if options is None else options
    script = _script(FAMILIES[family], top, chosen, language, wrapped=bool(wrapper))
    # The netlist depends on the script, the tool, and what is done to it afterwards.
    key = digest(text, wrapper, script, version, inspect.getsource(output_registers))

    def produce(folder: Path) -> None:
        (folder / f"source.{language}").write_text(text, encoding="utf-8")
        (folder / "wrapper.rtlil").write_text(wrapper, encoding="utf-8")
        command = [sys.executable, "-m", "popshift.gen.implement.yosys_process"]
        run(command, task=f"synthesis for {family}", log=folder / "synthesis.log", cwd=folder, text=script)
        written = folder / "netlist.json"
        netlist = json.loads(written.read_text(encoding="utf-8"))
        if family == "ecp5" and output_registers.absorb(netlist["modules"][top]):
            written.write_text(json.dumps(netlist), encoding="utf-8")
        cells = Counter(cell["type"] for cell in netlist["modules"][top]["cells"].values())
        (folder / "cells.json").write_text(json.dumps(cells), encoding="utf-8")

    place = cached("synthesis", key, produce, what=f"the {family} netlist")
    return Netlist(
        path=place / "netlist.json",
        log=place / "synthesis.log",
        family=family,
        top=top,
        digest=key,
        resources=count(json.loads((place / "cells.json").read_text(encoding="utf-8")), family),
    )


def _script(family: Family, top: str, options: tuple[str, ...], language: str, *, wrapped: bool) -> str:
    synthesis = f"{family.command} {' '.join(options)} -top {top} -json netlist.json"
    # Verilog goes through RTLIL: a module that still knows its Verilog is elaborated again when it meets the
    # model of a device primitive, after its parts have been flattened away.
    from_verilog = [
        "read_verilog -sv source.verilog",
        *(["read_rtlil wrapper.rtlil"] if wrapped else []),
        f"hierarchy -top {top}",
        "write_rtlil source.rtlil",
        "design -reset",
    ]
    commands = [
        *(from_verilog if language == "verilog" else []),
        "read_rtlil source.rtlil",
        # The first part of the pass reads the device's cells and resolves the hierarchy.
        f"{synthesis} -run begin:{family.second_part}",
        "proc",
        "opt",
        "booth",
        f"{synthesis} -run {family.second_part}:map_ffs",
        *([family.flip_flops] if family.flip_flops else []),
        f"{synthesis} -run map_ffs:map_luts",
        # abc9 can give a bit of one wire the name of another (Yosys issue 4451); single bits cannot clash.
        "splitnets",
        f"{synthesis} -run map_luts:",
    ]
    return "\n".join(commands) + "\n"


def count(cells: Mapping[str, int], family: str) -> Resources:
    """Resources of a flat design from the number of its cells of each type."""
    totals: dict[str, int] = dict.fromkeys(("lut4", "ff", "carry", "block_ram", "dsp", "spram", "lutram"), 0)
    for cell, number in cells.items():
        for pattern, added in FAMILIES[family].counts:
            if re.fullmatch(pattern, cell):
                for resource, weight in added.items():
                    totals[resource] += weight * number
                break
    return Resources(**totals, cells=dict(cells))
