"""Deploying up to the cable: the loader is a script, the board a simulation."""

import hashlib
import json
import os
import stat
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from tests.networks import small_network
from typer.testing import CliRunner

from popshift.boards import board
from popshift.firmware_py.protocol import Link
from popshift.firmware_py.session import Accelerator
from popshift.gen import deploy
from popshift.gen.cli.main import app
from popshift.gen.compilation import compile_graph
from popshift.gen.deploy import require_identity
from popshift.gen.execution import verify
from popshift.gen.implement import program_board, toolchain
from popshift.gen.implement.bitstream import with_dfu_suffix
from popshift.gen.selftest import known_inputs, probes, self_test, suspects
from popshift.hw import packet
from popshift.hw.config import load_config
from popshift.hw.errors import DeviceError, ToolError
from popshift.sim import verilate
from popshift.sim.board import SimulatedBoard, accelerator_verilog

CONFIG = load_config("tiny")


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def loader(folder: Path, monkeypatch, script: str) -> None:
    """An openFPGALoader that does what the script says."""
    path = folder / "openFPGALoader"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nif '--Version' in sys.argv: print('v1.2.3'); sys.exit()\n{script}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(toolchain, "_version", toolchain._version.__wrapped__)


def test_what_the_loader_gets(tmp_path, monkeypatch):
    told = tmp_path / "told"
    loader(
        tmp_path,
        monkeypatch,
        f"open({str(told)!r}, 'a').write(' '.join(sys.argv[1:-1]) + open(sys.argv[-1]).read())",
    )
    for name, flash in (("ulx3s-85f", False), ("ulx3s-85f", True), ("icebreaker", True)):
        program_board.write_bitstream(board(name), "x.bit", b"[contents]", flash=flash)
    expected = "--board ulx3s[contents]--board ulx3s --write-flash[contents]--board ice40_generic[contents]"
    assert told.read_text() == expected


def test_a_bitstream_of_ones_own_is_programmed_and_identified(tmp_path, monkeypatch):
    """The port is a simulation that answers as the configuration beside the file."""
    told, others = tmp_path / "told", os.environ["PATH"]
    loader(tmp_path, monkeypatch, f"open({str(told)!r}, 'a').write(open(sys.argv[-1]).read())")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{others}")  # the simulation needs its compiler
    (tmp_path / "mine.bin").write_text("[bits]")
    report = {"board": "icebreaker", "bitstream_sha256": hashlib.sha256(b"[bits]").hexdigest()}
    (tmp_path / "mine.json").write_text(json.dumps(report))
    (tmp_path / "mine.toml").write_text(CONFIG.replace(name="mine").to_toml())
    monkeypatch.setattr(deploy, "find_port", lambda board, port: "sim:tiny")
    done = invoke("deploy", "--board", "icebreaker", "--bitstream", str(tmp_path / "mine.bin"), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["config"] == "mine" and told.read_text() == "[bits]"
    gone = invoke("deploy", "--board", "icebreaker", "--bitstream", str(tmp_path / "gone.bin"))
    assert gone.exit_code == 2 and "gone.bin" in gone.output
    other = invoke("deploy", "--board", "ulx3s-12f", "--bitstream", str(tmp_path / "mine.bin"))
    assert other.exit_code == 2 and "it was built for icebreaker, not for ulx3s-12f" in other.output
    (tmp_path / "mine.bin").write_text("[other bits]")
    changed = invoke("deploy", "--board", "icebreaker", "--bitstream", str(tmp_path / "mine.bin"))
    assert changed.exit_code == 2 and "not the bitstream that mine.json tells of" in changed.output
    (tmp_path / "mine.json").write_text("{}")
    strange = invoke("deploy", "--board", "icebreaker", "--bitstream", str(tmp_path / "mine.bin"))
    assert strange.exit_code == 2 and "no report of popshift build" in strange.output


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("unable to open ftdi device: -3 (device not found)", "no ULX3S with LFE5U-85F was found"),
        ("unable to open ftdi device: -4 (usb_open() failed: permission)", "no permission to use ULX3S"),
        ("Error: CRC mismatch", "programming ULX3S with LFE5U-85F failed: Error: CRC mismatch"),
    ],
)
def test_what_the_loader_says_is_explained(tmp_path, monkeypatch, says, expected):
    loader(tmp_path, monkeypatch, f"print({says!r}); sys.exit(1)")
    with pytest.raises(ToolError, match=expected.replace("(", r"\(")) as caught:
        program_board.write_bitstream(board("ulx3s-85f"), "x.bit", b"")
    assert caught.value.exit_status == 3 and caught.value.remedy


def test_a_loader_without_its_libraries_says_which_and_how(tmp_path, monkeypatch):
    says = "openFPGALoader: error while loading shared libraries: libusb-1.0.so.0: cannot open"
    loader(tmp_path, monkeypatch, "")
    path = tmp_path / "openFPGALoader"
    path.write_text(f"#!{sys.executable}\nimport sys; print({says!r}, file=sys.stderr); sys.exit(127)\n")
    with pytest.raises(ToolError, match=r"libusb-1.0.so.0 is missing; .*libftdi1") as caught:
        program_board.require_loader()
    assert caught.value.exit_status == 3


def test_the_suffix_of_dfu_is_that_of_its_standard():
    """Appendix B: the checksum of the whole file but itself, without a final inversion."""
    file = with_dfu_suffix(b"bitstream", 0x1209, 0x5AF0)
    suffix = file[-16:]
    assert suffix[:12] == bytes.fromhex("ffff f05a 0912 0001") + b"UFD\x10"
    assert int.from_bytes(suffix[12:], "little") == zlib.crc32(file[:-4]) ^ 0xFFFFFFFF


def test_another_bitstream_is_named():
    found = packet.identity(load_config("icebreaker"))
    with pytest.raises(
        DeviceError, match=r"another bitstream runs there: icebreaker \(4 x 2, digest .*; not tiny"
    ):
        require_identity(found, CONFIG, "here")
    require_identity(packet.identity(CONFIG), CONFIG, "here")


def test_a_board_that_is_programmed_already_is_identified_and_checked(tmp_path):
    graph = small_network(CONFIG, np.random.default_rng(2))
    program = tmp_path / "small.pop"
    compile_graph(graph, CONFIG).program.save(program)
    common = ("deploy", "tiny", "--board", "ulx3s-12f", "--skip-programming", "--check")
    done = invoke(*common, "--port", "sim:tiny", "--program", str(program), "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert (
        values["port"] == "sim:tiny"
        and values["programmed"] is False
        and values["program_difference"] is None
    )
    assert len(values["check"]) == 1 + len(probes(CONFIG)) and not any(
        entry["wrong"] for entry in values["check"]
    )
    table = invoke(*common, "--port", "sim:tiny")
    assert table.exit_code == 0 and "every value is the golden model's" in table.stdout


def test_what_can_be_told_before_anything_is_tried():
    missing = invoke("deploy")
    assert missing.exit_code == 2 and "give --board: ulx3s-12f, ulx3s-85f" in missing.output
    alone = invoke("deploy", "--board", "icebreaker", "--program", "x.pop")
    assert alone.exit_code == 2 and "give --check, too" in alone.output
    simulated = invoke("deploy", "--board", "icebreaker", "--port", "sim:icebreaker")
    assert simulated.exit_code == 2 and "a simulated board cannot be programmed" in simulated.output
    absent = invoke("deploy", "--board", "icebreaker")
    assert absent.exit_code == 3 and "its serial port (0403:6010 on USB) was not found" in absent.output
    gone = invoke("deploy", "--board", "icebreaker", "--skip-programming", "--port", "/dev/none")
    assert gone.exit_code == 3 and "cannot open the serial port" in gone.output
    which = invoke("deploy", "tiny", "--board", "icebreaker", "--bitstream", "x.bin")
    assert which.exit_code == 2 and "a bitstream is what it is" in which.output
    near = invoke("deploy", "--board", "ulx3s-25f")
    assert near.exit_code == 2 and "did you mean ulx3s-" in near.output
    both = invoke("build", "--board", "icebreaker", "--device", "up5k")
    assert both.exit_code == 2 and "a board has its device" in both.output
    clock = invoke("build", "--board", "icebreaker", "--clock", "13.37")
    assert clock.exit_code == 2 and clock.output.count("\n") == 1
    unknown = invoke("build", "--board", "ulx4s")
    assert unknown.exit_code == 2 and "unknown board" in unknown.output
    nothing = invoke("build", "tiny")
    assert nothing.exit_code == 2 and "give --board" in nothing.output


# What is changed in a module of the Verilog, what the self-test finds first, and where it points.
FAULTS = {
    "a stuck bit of a bank": (
        "popshift.core.activations$155.bank_2",
        ".read_data(read_data)",
        ".read_data(good)",
        "wire [7:0] good; assign read_data = good | 8'h20;",
        ("memory", "activation memory"),
    ),
    "an inverted bit of the channel unit": (
        "popshift.core.channel",
        "assign values = { value_1, value_0 };",
        "assign values = { value_1, value_0 } ^ 40'd4;",
        "",
        ("maximum", "channel unit"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_self_test_points_at_the_unit_that_is_broken(fault):
    """As a board would have it whose simulation is right."""
    module, right, wrong, more, (probe, unit) = FAULTS[fault]
    verilog = accelerator_verilog(CONFIG)
    start = verilog.index(f"module \\{module} ")
    end = verilog.index("endmodule", start)
    body = verilog[start:end]
    assert body.count(right) == 1
    broken = verilog[:start] + body.replace(right, wrong) + more + "\n" + verilog[end:]
    board = SimulatedBoard(verilate.build(broken, optimise="compile"))
    with Accelerator(Link(board, fifo_bytes=CONFIG.link_fifo_depth)) as device:
        findings = list(self_test(device, CONFIG))
    first = next(finding for finding in findings if finding.wrong)
    assert first.probe == probe and unit in first.suspect and first.first


def test_a_program_on_a_broken_device_tells_the_layer():
    graph = small_network(CONFIG, np.random.default_rng(2))
    program = compile_graph(graph, CONFIG).program
    _, right, wrong, _, _ = FAULTS["an inverted bit of the channel unit"]
    verilog = accelerator_verilog(CONFIG)
    assert verilog.count(right) == 1
    board = SimulatedBoard(verilate.build(verilog.replace(right, wrong), optimise="compile"))
    with Accelerator(Link(board, fifo_bytes=CONFIG.link_fifo_depth)) as device:
        difference = verify(program, known_inputs(program), board=device)[1]
    assert difference is not None and suspects(program, difference) == "pool (max pool)"
