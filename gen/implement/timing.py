"""What nextpnr's JSON report says: utilisation, clocks, and the critical path in the design's names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """One stretch of a critical path.

    Attributes
    ----------
    signal: the design's signal that the path runs along (or whose logic it runs through).
    logic_ns, routing_ns: delay through cells (clock to output and setup included) and through wires.
    """

    signal: str
    logic_ns: float
    routing_ns: float


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a resource is used, of how much there is."""

    used: int
    available: int


# Yosys names what it creates after a signal of the design followed by cell types and ports:
# `sum_LUT4_Z_D_CCU2C_S0`. The design's own part ends where the first cell type begins.
_CELL_TYPE = re.compile(
    r"_(LUT[1-4]|CCU2C|TRELLIS_\w+?|DP16KD|PDPW16KD|MULT\d+X\d+D?|ALU54[BD]|L6MUX21|PFUMX"
    r"|SB_[A-Z]\w+?|ALU|DFF[A-Z]*|SDPX?9?B?|DPX?9?B?|SPX?9?|MUX2_LUT\d|RAM16SDP\d|IBUF|OBUF|INV)(_|$)"
)


def design_name(name: str) -> str:
    """The design's signal in a net or cell name made by Yosys; with its bit index if the net is one."""
    match = _CELL_TYPE.search(name)
    return name[: match.start()] if match and match.start() else name


def utilisation(report: Mapping[str, Any]) -> dict[str, Use]:
    """Used and available cells by nextpnr's cell type; unused kinds are left out."""
    table = report["utilization"]
    return {kind: Use(entry["used"], entry["available"]) for kind, entry in table.items() if entry["used"]}


def clocks(report: Mapping[str, Any]) -> dict[str, float]:
    """Highest frequency in MHz of each clock, by the name of the port or signal it comes from."""
    return {_clock_name(net): entry["achieved"] for net, entry in report["fmax"].items()}


def _clock_name(net: str) -> str:
    return design_name(re.sub(r"^\$glbnet\$", "", net).split("$", 1)[0])


def critical_path(report: Mapping[str, Any]) -> list[Step]:
    """The slowest register-to-register path: consecutive stretches along one signal are one step."""
    paths = [
        path
        for path in report["critical_paths"]
        if path["from"] == path["to"] and "async" not in path["from"]
    ]
    if not paths:
        return []
    slowest = max(paths, key=lambda path: sum(segment["delay"] for segment in path["path"]))
    return _steps(slowest["path"])


def _steps(segments: Sequence[Mapping[str, Any]]) -> list[Step]:
    steps: list[Step] = []
    for segment in segments:
        routing = segment["type"] == "routing"
        signal = design_name(segment["net"] if routing else segment["to"]["cell"])
        added = Step(signal, 0.0 if routing else segment["delay"], segment["delay"] if routing else 0.0)
        last = steps[-1] if steps else None
        if last and _bare(last.signal) == _bare(signal):
            longer = max(last.signal, signal, key=len)
            steps[-1] = replace(
                last,
                signal=longer,
                logic_ns=last.logic_ns + added.logic_ns,
                routing_ns=last.routing_ns + added.routing_ns,
            )
        else:
            steps.append(added)
    return [
        replace(step, logic_ns=round(step.logic_ns, 3), routing_ns=round(step.routing_ns, 3))
        for step in steps
    ]


def _bare(signal: str) -> str:
    return re.sub(r"\[\d+\]$", "", signal)
