"""A configuration placed and routed on a device, over several seeds."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from popshift.gen.implement.devices import Device
from popshift.gen.implement.place_route import Report, median, place_and_route
from popshift.gen.implement.synthesis import Resources, synthesise
from popshift.gen.implement.toolchain import NEXTPNR, package_version
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import InputError, ToolError

# Flip-flops of an FPGA start as the configuration says, and the host can reset the machine: no reset pin, and
# no net to every corner of the device.
_WITHOUT_RESET = """
module board(input clk, input rx, output tx);
    popshift accelerator(.clk(clk), .rst(1'b0), .rx(rx), .tx(tx));
endmodule
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What came out.

    Attributes
    ----------
    config, device: names. config_digest: of the configuration, as the device tells it.
    unit: the part that was built alone; None: the whole accelerator.
    tools: version of every tool that decides about the figures.
    resources: of the netlist, before place and route.
    median: the run with the median clock.
    runs: one report for each seed that could be routed.
    failed: seed and reason of the others.
    """

    config: str
    config_digest: str
    unit: str | None
    device: str
    tools: dict[str, str]
    resources: Resources
    median: Report
    runs: list[Report]
    failed: dict[int, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return {
            "config": self.config,
            "config_digest": self.config_digest,
            "unit": self.unit,
            "device": self.device,
            "tools": self.tools,
            "fmax_mhz": self.median.slowest_mhz,
            "fmax_mhz_by_seed": {run.seed: run.slowest_mhz for run in self.runs},
            "synthesis": dataclasses.asdict(self.resources),
            "median": self.median.to_dict(),
            "runs": [run.to_dict() for run in self.runs],
            "failed": self.failed,
        }


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
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, not {seeds}")
    wanted = config.clock_hz / 1e6 if clock_mhz is None else clock_mhz
    if not 0 < wanted < math.inf:
        raise InputError(f"the clock must be a positive number of MHz, not {wanted:g}")
    if minutes is not None and not minutes > 0:
        raise InputError(f"the minutes for a seed must be a positive number, not {minutes:g}")
    from popshift.hw.emit import emit_verilog  # amaranth: only once the options are known to be right

    with_uart = config if config.link == "uart" else config.replace(link="uart")
    if unit is None:
        source = emit_verilog(with_uart, technology=device.family) + _WITHOUT_RESET
    else:
        source = _alone(with_uart, unit, device.family) + _WITHOUT_RESET
    netlist = synthesise(source, family=device.family, top="board", options=device.synthesis)
    runs: list[Report] = []
    failures: dict[int, ToolError] = {}
    for seed in range(1, seeds + 1):
        try:
            runs.append(place_and_route(netlist, device, seed=seed, clock_mhz=wanted, minutes=minutes))
        except ToolError as error:
            failures[seed] = error
    if not runs:
        first, size = failures[1], netlist.resources
        found = f"{size.lut4:,} LUT4, {size.ff:,} FF, {size.block_ram} block RAM, {size.dsp} DSP"
        raise ToolError(f"{first.what} (the netlist has {found})", where=first.where, remedy=first.remedy)
    return Build(
        config=config.name,
        config_digest=f"{config.digest:016x}",
        unit=unit,
        device=device.name,
        tools=_tools(device),
        resources=netlist.resources,
        median=median(runs),
        runs=runs,
        failed={seed: str(error) for seed, error in failures.items()},
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
