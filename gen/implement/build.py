"""A configuration placed and routed, over several seeds: on a board, with a bitstream, or on a bare
device.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popshift.gen.implement import pins
from popshift.gen.implement.bitstream import pack
from popshift.gen.implement.devices import Device
from popshift.gen.implement.devices import device as device_named
from popshift.gen.implement.place_route import CONSTRAINT_MARGIN, Report, median, place_and_route
from popshift.gen.implement.synthesis import Netlist, Resources, synthesise
from popshift.gen.implement.toolchain import NEXTPNR, package_version
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import InputError, PopshiftError, ToolError

if TYPE_CHECKING:
    from popshift.boards import Board

SEEDS_TRIED = 5
_TOP = "board"
# Flip-flops of an FPGA start as the configuration says, and the host can reset the machine: no reset pin, and
# no net to every corner of the device.
_WHOLE = """
module board(input clk, input rx, output tx, output busy);
    popshift accelerator(.clk(clk), .rst(1'b0), .rx(rx), .tx(tx), .busy(busy));
endmodule
"""
_PART = """
module board(input clk, input rx, output tx);
    popshift accelerator(.clk(clk), .rst(1'b0), .rx(rx), .tx(tx));
endmodule
"""


class TimingError(PopshiftError):
    """A design that is too slow for its clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What came out.

    Attributes
    ----------
    config: as it was built: link, clock and baud included.
    unit: the part that was built alone; None: the whole accelerator.
    board: name of the board it was built for; None: out of context.
    device: name of the device.
    tools: version of every tool that decides about the figures.
    resources: of the netlist, before place and route.
    median, best: the run with the median clock, and the one with the highest.
    runs: one report for each seed that could be routed.
    failed: seed and reason of the others.
    bitstream: of the best run; None: out of context.
    """

    config: AcceleratorConfig
    unit: str | None
    board: str | None
    device: str
    tools: dict[str, str]
    resources: Resources
    median: Report
    best: Report
    runs: list[Report]
    failed: dict[int, str]
    bitstream: Path | None

    @property
    def meets_timing(self) -> bool:
        """Whether the best run is as fast as was wanted."""
        return self.best.slowest_mhz >= self.best.clock_mhz

    @property
    def peak_gmacs(self) -> float:
        """10^9 multiplications a second if all processing elements are always busy, at the clock that was
        wanted.
        """
        return self.config.peak_macs_per_cycle * self.best.clock_mhz / 1e3

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return {
            "config": self.config.name,
            "config_digest": f"{self.config.digest:016x}",
            "unit": self.unit,
            "board": self.board,
            "device": self.device,
            "clock_mhz": self.best.clock_mhz,
            "baud": self.config.baud if self.board else None,
            "tools": self.tools,
            "fmax_mhz": self.median.slowest_mhz,
            "fmax_mhz_by_seed": {run.seed: run.slowest_mhz for run in self.runs},
            "best_seed": self.best.seed,
            "meets_timing": self.meets_timing,
            "peak_macs_per_cycle": self.config.peak_macs_per_cycle,
            "peak_gmacs": self.peak_gmacs,
            "synthesis": dataclasses.asdict(self.resources),
            "median": self.median.to_dict(),
            "runs": [run.to_dict() for run in self.runs],
            "failed": self.failed,
            "bitstream": str(self.bitstream) if self.bitstream else None,
        }

    def require_timing(self) -> None:
        """Refuse a bitstream that may compute nonsense.

        Raises
        ------
        TimingError: the best run is slower than the clock.
        """
        if not self.meets_timing:
            wanted, reached = self.best.clock_mhz, self.best.slowest_mhz
            raise TimingError(
                f"too slow: {reached:.1f} MHz where the clock has {wanted:g} MHz",
                where=f"{self.config.name} on {self.board or self.device}",
                remedy="try more --seeds, a lower --clock or a smaller configuration; or --accept-slow",
            )


@dataclass(frozen=True, slots=True)
class _Design:
    """What goes into place and route: config as it is built, its netlist, and the pins of a board."""

    config: AcceleratorConfig
    netlist: Netlist
    board_pins: pins.Pins | None = None


def build(
    config: AcceleratorConfig,
    device: Device,
    *,
    seeds: int = 3,
    clock_mhz: float | None = None,
    minutes: float | None = None,
    unit: str | None = None,
) -> Build:
    """Generate, synthesise, place and route the accelerator, its UART the only pins besides the clock.

    Parameters
    ----------
    unit: build this part alone (`popshift.gen.implement.units`), between registers, instead of the whole.
    seeds: nextpnr runs with seeds 1 .. seeds; their median is what one can expect.
    clock_mhz: the clock that is wanted, by default the configuration's.
    minutes: when to give up a seed.

    Raises
    ------
    InputError: no seed, a clock or a time that is not positive, or no such unit.
    ToolError: a tool is missing, synthesis failed, or no seed could be routed.
    """
    wanted = _checked(config, seeds, clock_mhz, minutes)
    from popshift.hw.emit import emit_verilog  # amaranth: only once the options are known to be right

    with_uart = config if config.link == "uart" else config.replace(link="uart")
    if unit is None:
        source = emit_verilog(with_uart, technology=device.family) + _WHOLE
    else:
        source = _alone(with_uart, unit, device.family) + _PART
    netlist = synthesise(source, family=device.family, top=_TOP, options=device.synthesis)
    design = _Design(with_uart, netlist)
    return _routed(design, device, range(1, seeds + 1), wanted, minutes, unit=unit)


def build_for_board(
    config: AcceleratorConfig,
    board: "Board",
    *,
    seeds: int | None = None,
    clock_mhz: float | None = None,
    minutes: float | None = None,
) -> Build:
    """The same on a board: its clock, pins and lights, and the bitstream of the fastest seed.

    Parameters
    ----------
    seeds: so many, from the board's first on; by default as many as it takes until one is as fast as wanted,
        at most `SEEDS_TRIED`.

    Raises
    ------
    InputError: as `build`, or a clock that the board cannot make.
    ToolError: as `build`, or the bitstream cannot be packed.
    """
    wanted = _checked(config, 1 if seeds is None else seeds, clock_mhz, minutes)
    from popshift.boards.board import TOP
    from popshift.hw.emit import emit_verilog

    device = device_named(board.device)
    configured = board.configure(config, clock_hz=round(wanted * 1e6))
    source = emit_verilog(configured, technology=device.family)
    wrapper, constraints = board.describe(configured, margin=CONSTRAINT_MARGIN)
    netlist = synthesise(
        source,
        wrapper=wrapper,
        family=device.family,
        top=TOP,
        options=device.synthesis,
    )
    design = _Design(configured, netlist, pins.of_board(constraints, device.family))
    tried = range(board.first_seed, board.first_seed + (seeds or SEEDS_TRIED))
    done = _routed(design, device, tried, wanted, minutes, until_met=seeds is None)
    return dataclasses.replace(done, board=board.name, bitstream=pack(done.best, device))


def _checked(config: AcceleratorConfig, seeds: int, clock_mhz: float | None, minutes: float | None) -> float:
    """The clock that is wanted, in MHz."""
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, not {seeds}")
    wanted = config.clock_hz / 1e6 if clock_mhz is None else clock_mhz
    if not 0 < wanted < math.inf:
        raise InputError(f"the clock must be a positive number of MHz, not {wanted:g}")
    if minutes is not None and not minutes > 0:
        raise InputError(f"the minutes for a seed must be a positive number, not {minutes:g}")
    return wanted


def _routed(
    design: _Design,
    device: Device,
    seeds: range,
    wanted: float,
    minutes: float | None,
    *,
    unit: str | None = None,
    until_met: bool = False,
) -> Build:
    runs: list[Report] = []
    failures: dict[int, ToolError] = {}
    for seed in seeds:
        try:
            report = place_and_route(
                design.netlist,
                device,
                seed=seed,
                clock_mhz=wanted,
                minutes=minutes,
                board_pins=design.board_pins,
            )
            runs.append(report)
            if until_met and report.slowest_mhz >= wanted:
                break
        except ToolError as error:
            failures[seed] = error
    if not runs:
        first, size = failures[seeds[0]], design.netlist.resources
        found = f"{size.lut4:,} LUT4, {size.ff:,} FF, {size.block_ram} block RAM, {size.dsp} DSP"
        raise ToolError(f"{first.what} (the netlist has {found})", where=first.where, remedy=first.remedy)
    return Build(
        config=design.config,
        unit=unit,
        board=None,
        device=device.name,
        tools=_tools(device),
        resources=design.netlist.resources,
        median=median(runs),
        best=max(runs, key=lambda run: run.slowest_mhz),
        runs=runs,
        failed={seed: str(error) for seed, error in failures.items()},
        bitstream=None,
    )


def _alone(config: AcceleratorConfig, unit: str, family: str) -> str:
    """Verilog of a part alone; its ports are those of the accelerator with its UART."""
    from popshift.gen.implement import units
    from popshift.hw.emit import component_verilog
    from popshift.hw.out_of_context import OutOfContext
    from popshift.hw.tech import TECHNOLOGIES

    technology = TECHNOLOGIES[family](dsp_multipliers=config.dsp_multipliers)
    return component_verilog(OutOfContext(units.unit(unit).build(config, technology)))


def _tools(device: Device) -> dict[str, str]:
    nextpnr = NEXTPNR[device.family]
    versions = {name: package_version(name) for name in ("popshift", "amaranth", "pyosys")}
    return {
        name: version or "unknown" for name, version in {**versions, nextpnr.name: nextpnr.version}.items()
    }
