"""Synthesis on every family, and one small place and route."""

import json
import re

import pytest
from tests.installed import needs
from typer.testing import CliRunner

from popshift.gen.cli.main import app
from popshift.gen.implement import units
from popshift.gen.implement.devices import DEVICES, device
from popshift.gen.implement.place_route import Report, median, place_and_route
from popshift.gen.implement.synthesis import FAMILIES, count, synthesise
from popshift.gen.implement.timing import Use
from popshift.hw.config import load_config
from popshift.hw.emit import emit_rtlil
from popshift.hw.errors import InputError, ToolError
from popshift.hw.out_of_context import OutOfContext
from popshift.hw.tech import Simulated

MULTIPLY = """
module popshift(input clk, input rst, input rx, output reg tx);
    reg [15:0] operands;
    reg signed [15:0] product;
    reg [11:0] count;
    reg [7:0] memory [0:2047];
    reg [7:0] word;
    always @(posedge clk) begin
        operands <= {operands[14:0], rx};
        product <= $signed(operands[7:0] ^ word) * $signed(operands[15:8]);
        count <= rst ? 0 : count + 1;
        if (rx) memory[count[10:0]] <= operands[7:0];
        word <= memory[count[10:0]];
        tx <= ^product ^ count[11];
    end
endmodule
"""

# With the ports of the accelerator.
WHOLE = MULTIPLY.replace("input rx, output reg tx", "input rx, output reg tx, output busy").replace(
    "reg [15:0] operands;", "reg [15:0] operands; assign busy = rx;"
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("POPSHIFT_CACHE", str(tmp_path_factory.getbasetemp() / "implement-cache"))


@pytest.mark.parametrize(("family", "block_rams"), [("ecp5", 1), ("ice40", 4), ("gowin", 1)])
def test_synthesis_maps_memory_and_leaves_multipliers_to_luts(family, block_rams):
    netlist = synthesise(MULTIPLY, family=family)
    found = netlist.resources
    assert found.block_ram == block_rams
    assert found.dsp == found.spram == found.lutram == 0
    assert 16 + 16 + 12 + 1 <= found.ff <= 16 + 16 + 12 + 1 + 40  # and what read-during-write needs
    # Booth's multiplier takes about 130 LUT4; one without booth or with wide LUTs takes 180 to 300.
    assert 100 < found.lut4 < 200
    assert found.carry > 0
    modules = json.loads(netlist.path.read_text())["modules"]
    assert set(modules[netlist.top]["ports"]) == {"clk", "rst", "rx", "tx"}


OUTPUT_REGISTERS = """
module popshift(input clk, input [10:0] address, input write, input [7:0] data, input enable,
                output reg [7:0] plain, output reg [7:0] enabled, output reg [7:0] changed);
    (* no_rw_check *) reg [7:0] first [0:2047];
    (* no_rw_check *) reg [7:0] second [0:2047];
    (* no_rw_check *) reg [7:0] third [0:2047];
    reg [7:0] first_word, second_word, third_word;
    always @(posedge clk) begin
        if (write) first[address] <= data;
        if (write) second[address] <= data;
        if (write) third[address] <= data;
        first_word <= first[~address];
        second_word <= second[~address];
        third_word <= third[~address];
        plain <= first_word;
        if (enable) enabled <= second_word;
        changed <= third_word ^ {8{enable}};
    end
endmodule
"""


def test_block_ram_takes_in_plain_registers_behind_it():
    netlist = synthesise(OUTPUT_REGISTERS, family="ecp5")
    module = json.loads(netlist.path.read_text())["modules"]["popshift"]
    drivers = {
        bits[0]: cell["type"]
        for cell in module["cells"].values()
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == "output"
    }
    kinds = {
        name: {drivers[bit] for bit in module["ports"][name]["bits"]}
        for name in ("plain", "enabled", "changed")
    }
    assert kinds == {"plain": {"DP16KD"}, "enabled": {"TRELLIS_FF"}, "changed": {"TRELLIS_FF"}}
    rams = [cell["parameters"] for cell in module["cells"].values() if cell["type"] == "DP16KD"]
    assert len(rams) == 3
    assert sum("OUTREG" in (ram["REGMODE_A"], ram["REGMODE_B"]) for ram in rams) == 1
    assert netlist.resources.ff == 16


def test_synthesis_comes_from_the_cache_unless_something_changed(monkeypatch):
    first = synthesise(MULTIPLY, family="ice40")
    monkeypatch.setattr("popshift.gen.implement.synthesis.run", None)  # would fail if it ran again
    assert synthesise(MULTIPLY, family="ice40") == first
    with pytest.raises(TypeError):
        synthesise(MULTIPLY, family="ice40", options=("-device", "hx"))


def test_source_from_a_file_is_the_same_as_its_text(tmp_path):
    path = tmp_path / "design.v"
    path.write_text(MULTIPLY)
    assert synthesise(path, family="ice40") == synthesise(MULTIPLY, family="ice40")


def test_rtlil_of_amaranth_is_taken():
    from amaranth.back import rtlil
    from amaranth.hdl import Module, Signal

    module, total = Module(), Signal(8)
    module.d.sync += total.eq(total + 1)
    text = rtlil.convert(module, ports=[total], name="popshift")
    assert synthesise(text, family="ice40", language="rtlil").resources.ff == 8


def test_refused_designs_name_the_error():
    with pytest.raises(ToolError, match=r"synthesis for ecp5 failed: .*ERROR.*"):
        synthesise("module popshift(input a; endmodule", family="ecp5")
    with pytest.raises(InputError, match="unknown device family 'spartan'; choose from ecp5, ice40, gowin"):
        synthesise(MULTIPLY, family="spartan")
    with pytest.raises(InputError, match="unknown language 'vhdl'; choose verilog or rtlil"):
        synthesise(MULTIPLY, family="ecp5", language="vhdl")


def test_counting_weighs_carry_cells_as_their_luts():
    cells = {
        "LUT4": 10,
        "CCU2C": 3,
        "TRELLIS_FF": 5,
        "DP16KD": 2,
        "MULT18X18D": 4,
        "TRELLIS_DPR16X4": 6,
        "GSR": 1,
    }
    found = count(cells, "ecp5")
    assert (found.lut4, found.carry, found.ff, found.block_ram) == (16, 3, 5, 2)
    assert (found.dsp, found.lutram, found.spram) == (4, 6, 0)
    cells = {
        "LUT1": 1,
        "LUT3": 2,
        "LUT4": 3,
        "ALU": 4,
        "DFFRE": 5,
        "DFF": 6,
        "SDPX9B": 7,
        "MULT9X9": 8,
        "RAM16SDP4": 9,
    }
    found = count(cells, "gowin")
    assert (found.lut4, found.carry, found.ff, found.block_ram) == (10, 4, 11, 7)
    assert (found.dsp, found.lutram) == (8, 9)
    cells = {
        "SB_LUT4": 1,
        "SB_CARRY": 2,
        "SB_DFFSR": 3,
        "SB_DFF": 4,
        "SB_RAM40_4K": 5,
        "SB_MAC16": 6,
        "SB_SPRAM256KA": 7,
    }
    found = count(cells, "ice40")
    assert (found.lut4, found.carry, found.ff) == (1, 2, 7)
    assert (found.block_ram, found.dsp, found.spram) == (5, 6, 7)


def test_unknown_device_names_the_known_ones():
    with pytest.raises(InputError, match=f"unknown device 'up6k'; choose from {', '.join(DEVICES)}"):
        device("up6k")
    assert all(entry.family in FAMILIES for entry in DEVICES.values())


@needs("ice40")
def test_place_and_route_reports_what_nextpnr_found(monkeypatch):
    up5k = device("up5k")
    netlist = synthesise(MULTIPLY, family="ice40", options=up5k.synthesis)
    reports = [place_and_route(netlist, up5k, seed=seed, clock_mhz=24.0) for seed in (1, 2)]
    for report in reports:
        assert list(report.fmax_mhz) == ["clk"]
        assert 20 < report.slowest_mhz < 80
        assert report.lut and report.lut.available == 5280
        assert netlist.resources.lut4 <= report.lut.used < 1.5 * netlist.resources.lut4
        assert report.block_ram == Use(4, 30) and report.dsp == Use(0, 8) and report.spram == Use(0, 4)
        assert report.ff is None
        delay = sum(step.logic_ns + step.routing_ns for step in report.critical_path)
        assert delay == pytest.approx(1000 / report.slowest_mhz, rel=0.01)
        signals = {step.signal.split("[")[0] for step in report.critical_path}
        assert signals & {"operands", "product", "word"}
        assert not [signal for signal in signals if "SB_" in signal]
    assert reports[0].slowest_mhz != reports[1].slowest_mhz
    assert median(reports).slowest_mhz == min(report.slowest_mhz for report in reports)
    monkeypatch.setattr("popshift.gen.implement.place_route.run", None)  # would fail if it ran again
    assert place_and_route(netlist, up5k, seed=1, clock_mhz=24.0) == reports[0]


@needs("ecp5")
def test_wires_that_stay_slow_are_routed_without_the_constraint(monkeypatch):
    """With nextpnr's part played: it goes on for ever unless it may leave wires slow."""
    asked = []

    def nextpnr(command, *, log, cwd, **_):
        asked.append("--tmg-ripup" in command)
        log.write_text("iter=1 wires=9 overused=0 tmgfail=3\n" * 20)
        if asked[-1]:
            raise ToolError("the router does not find faster wires")
        report = {"fmax": {"clk": {"achieved": 99.0}}, "critical_paths": [], "utilization": {}}
        (cwd / "report.json").write_text(json.dumps(report))
        (cwd / "routed.json").write_text(json.dumps({"modules": {"top": {"cells": {}}}}))

    monkeypatch.setattr("popshift.gen.implement.place_route.run", nextpnr)
    small = device("lfe5u-25f")
    found = place_and_route(synthesise(MULTIPLY, family="ecp5"), small, clock_mhz=100.0)
    assert asked == [True, False] and found.slowest_mhz == 99.0


def test_a_design_that_needs_more_than_the_device_has_is_refused_before_placing():
    deep = MULTIPLY.replace("memory [0:2047]", "memory [0:65535]").replace("[10:0]", "[15:0]")
    deep = deep.replace("reg [11:0] count", "reg [15:0] count")
    up5k = device("up5k")
    netlist = synthesise(deep, family="ice40", options=up5k.synthesis)
    with pytest.raises(
        InputError, match=r"up5k: the design does not fit: 128 block_ram of 30; take a smaller"
    ):
        place_and_route(netlist, up5k, clock_mhz=10)


def test_capacities_are_those_of_the_resources():
    for entry in DEVICES.values():
        assert set(entry.capacity) == {"lut4", "ff", "block_ram", "dsp", "spram"}


@needs("ice40")
def test_a_design_with_too_many_pins_is_an_error_not_a_crash():
    ports = "input clk, input [99:0] a, output reg [99:0] y"
    wide = f"module popshift({ports}); always @(posedge clk) y <= a; endmodule"
    up5k = device("up5k")
    with pytest.raises(ToolError, match="place and route for up5k, seed 1 failed: ERROR: "):
        place_and_route(synthesise(wide, family="ice40", options=up5k.synthesis), up5k, clock_mhz=10)


def test_a_netlist_for_another_family_or_with_too_many_ports_is_refused():
    netlist = synthesise(MULTIPLY, family="ice40")
    with pytest.raises(
        InputError, match="lfe5u-25f: the netlist was synthesised for ice40; synthesise it for ecp5"
    ):
        place_and_route(netlist, device("lfe5u-25f"), clock_mhz=10)
    wide = (
        "module popshift(input clk, input [49:0] a, output reg y); always @(posedge clk) y <= ^a; endmodule"
    )
    small = device("gw1nr-9")
    netlist = synthesise(wide, family="gowin", options=small.synthesis)
    with pytest.raises(
        InputError, match="gw1nr-9: the design has 51 pins besides the clock, the device's table 28"
    ):
        place_and_route(netlist, small, clock_mhz=10)


@needs("ice40")
def test_build_command_reports_the_median_and_the_seeds_that_failed(monkeypatch):
    """With the small design in the accelerator's place; seed 3 cannot be routed."""
    asked = []

    def emit(config, *, technology):
        asked.append((config.link, technology))
        return WHOLE

    def place(netlist, device, *, seed, clock_mhz, minutes, board_pins=None):
        assert minutes == 120
        if seed == 3:
            raise ToolError("no way through", where="router")
        return place_and_route(netlist, device, seed=seed, clock_mhz=clock_mhz)

    monkeypatch.setattr("popshift.hw.emit.emit_verilog", emit)
    monkeypatch.setattr("popshift.gen.implement.build.place_and_route", place)
    arguments = ["build", "tiny", "--device", "up5k", "--clock", "24"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert asked == [("uart", "ice40")]
    found = json.loads(done.stdout)
    clocks = found["fmax_mhz_by_seed"]
    assert set(clocks) == {"1", "2"}
    assert found["fmax_mhz"] == min(clocks.values()) == found["median"]["slowest_mhz"]
    assert found["failed"] == {"3": "router: no way through"}
    assert found["median"]["block_ram"] == {"used": 4, "available": 30}
    assert found["synthesis"]["block_ram"] == 4
    assert {"popshift", "pyosys", "nextpnr-ice40"} <= set(found["tools"])
    text = CliRunner().invoke(app, arguments).stdout
    for part in (
        "tiny on up5k",
        "seed 3 failed",
        "Critical path",
        f"Fmax {found['fmax_mhz']:.1f} MHz",
        "5,280",
    ):
        assert part in text


def test_build_without_any_routed_seed_fails_with_the_size_of_the_netlist(monkeypatch):
    def place(netlist, device, *, seed, clock_mhz, minutes, board_pins=None):
        raise ToolError(f"seed {seed}: no way through", where="router", remedy="try again")

    monkeypatch.setattr("popshift.hw.emit.emit_verilog", lambda config, *, technology: WHOLE)
    monkeypatch.setattr("popshift.gen.implement.build.place_and_route", place)
    done = CliRunner().invoke(app, ["build", "tiny", "--device", "up5k"])
    assert done.exit_code == 3
    size = r"\(the netlist has \d+ LUT4, \d+ FF, 4 block RAM, 0 DSP\)"
    assert re.fullmatch(rf"error: router: seed 1: no way through {size}; try again\n", done.stderr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "0"), "seeds must be at least 1, not 0"),
        (("--clock", "-5"), "the clock must be a positive number of MHz, not -5"),
        (("--clock", "nan"), "the clock must be a positive number of MHz, not nan"),
        (("--minutes", "0"), "the minutes for a seed must be a positive number, not 0"),
    ],
)
def test_build_refuses_impossible_options(options, message):
    done = CliRunner().invoke(app, ["build", "tiny", "--device", "up5k", *options])
    assert done.exit_code == 2
    assert message in done.stderr


# ---- one part alone ----------------------------------------------------------------------------------------


def test_every_unit_can_be_made_alone():
    config = load_config("tiny")
    for entry in units.UNITS:
        assert units.unit(entry.name) is entry
        assert "popshift" in emit_rtlil(OutOfContext(entry.build(config, Simulated())))


def test_build_of_a_unit(monkeypatch):
    """Its ports are those of the accelerator, so that pins and reset are the same."""
    placed = []

    def place(netlist, device, *, seed, clock_mhz, minutes, board_pins=None):
        placed.append(json.loads(netlist.path.read_text())["modules"][netlist.top]["ports"])
        return Report(
            device=device.name, seed=seed, clock_mhz=clock_mhz, fmax_mhz={"clk": 50.0}, lut=None, ff=None,
            block_ram=None, dsp=None, spram=None, cells={}, critical_path=[], seconds=1.0, log="", routed="",
            placement="",
        )  # fmt: skip

    monkeypatch.setattr("popshift.gen.implement.build.place_and_route", place)
    arguments = ["build", "tiny", "--device", "lfe5u-25f", "--unit", "mesh", "--seeds", "1"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["config"], found["unit"]) == ("tiny", "mesh")
    assert found["synthesis"]["dsp"] == 16 and found["synthesis"]["block_ram"] == 0
    assert set(placed[0]) == {"clk", "rx", "tx"}
    assert "mesh of tiny on lfe5u-25f" in CliRunner().invoke(app, arguments).stdout
    refused = CliRunner().invoke(app, [*arguments[:-3], "array", "--seeds", "1"])
    assert refused.exit_code == 2
    assert "no unit 'array'; choose from mesh, accumulators, row gather" in refused.stderr
