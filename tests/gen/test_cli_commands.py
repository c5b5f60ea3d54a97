"""The commands from a model to a result: what they print and write, and how they refuse."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_compilation import TINY, graph_of_every_operator
from typer.testing import CliRunner

from popshift.firmware_py.program import Program
from popshift.gen import generation, interface
from popshift.gen.cli.main import app
from popshift.gen.compilation import compile_graph, compile_model
from popshift.hw.config import AcceleratorConfig
from popshift.sim import regression
from popshift.sim.cycles import predicted_cycles

MODULE = "cli_command_networks"
SOURCE = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(8, 1, 4, 4)
    return network, x[:1], x

def bare():
    return net()[:2]

def bad():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Softplus()), torch.randn(1, 1, 4, 4)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A current folder with networks, images and program files."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / f"{MODULE}.py").write_text(SOURCE)
    rng = np.random.default_rng(1)
    np.save(folder / "x.npy", rng.normal(size=(5, 1, 4, 4)).astype(np.float32))
    np.save(folder / "wrong.npy", np.zeros((5, 4, 4), np.float32))
    np.save(folder / "integers.npy", np.zeros((5, 1, 4, 4), np.int32))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(folder / "two.npz", input=np.zeros((1, 1, 4, 4)), other=np.zeros(3))
    (folder / "text.npy").write_text("no array")
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture(scope="module")
def program(folder: Path) -> str:
    """A program file, made once without the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        compile_model(f"{MODULE}:net", TINY).program.save(folder / "net.pop")
    return "net.pop"


def popshift(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def printed(*arguments: str) -> dict:
    done = popshift(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def refused(*arguments: str) -> tuple[int, str]:
    """Exit status and the one line on standard error."""
    done = popshift(*arguments)
    assert done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    return done.exit_code, done.stderr


# ---- compile and explain ----------------------------------------------------------------------------------


def test_compile_writes_a_program_and_says_what_it_did(folder: Path):
    done = popshift("compile", f"{MODULE}:net", "-c", "tiny", "-o", "out.pop")
    assert done.exit_code == 0, done.stderr
    for text in ("net on tiny", "convolution", "SQNR", "of the array's peak", "wrote out.pop"):
        assert text in done.stdout
    again = printed("compile", f"{MODULE}:net", "-c", "tiny")
    assert (folder / "out.pop").read_bytes() == (folder / "net.pop").read_bytes(), "the default name"
    loaded = Program.load("out.pop")
    assert again["predicted_cycles"] == predicted_cycles(loaded)
    assert [layer["name"] for layer in again["layers"]] == [layer.name for layer in loaded.layers]
    assert again["quantisation"]["samples"] == 8 and again["file"] == "net.pop"


def test_compile_takes_calibration_data_and_ranges():
    done = printed("compile", f"{MODULE}:bare", "-c", "tiny", "--calibration", "x.npy", "-o", "a.pop")
    assert done["quantisation"]["samples"] == 5
    options = ("--ranges", "percentile", "--percentile", "80", "-o", "b.pop")
    printed("compile", f"{MODULE}:bare", "-c", "tiny", "--calibration", "x.npy", *options)
    assert Program.load("b.pop").inputs[0].scale < Program.load("a.pop").inputs[0].scale


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((f"{MODULE}:bare", "-c", "tiny"), "no calibration data"),
        ((f"{MODULE}:net", "-c", "tinny"), "did you mean tiny?"),
        (
            (f"{MODULE}:net", "-c", "tiny", "--calibration", "none.npy"),
            "none.npy: cannot read it (No such file",
        ),
        (
            (f"{MODULE}:net", "-c", "tiny", "--calibration", "text.npy"),
            "text.npy: not a NumPy file of numbers",
        ),
        ((f"{MODULE}:net", "-c", "tiny", "--calibration", "objects.npy"), "not a NumPy file of numbers"),
        (
            (f"{MODULE}:net", "-c", "tiny", "--calibration", "two.npz"),
            "one array is needed, it holds input, other",
        ),
        ((f"{MODULE}:net", "-c", "tiny", "--calibration", "wrong.npy"), "the shape must be (N, 1, 4, 4)"),
        (
            (f"{MODULE}:net", "-c", "tiny", "--ranges", "widest"),
            "ranges must be one of minmax, percentile, mse",
        ),
        ((f"{MODULE}:net", "-c", "tiny", "-o", "nowhere/net.pop"), "nowhere/net.pop: cannot write it (No"),
        (("missing:net", "-c", "tiny", "-o", "."), ".: cannot write it (Is a directory)"),
        (
            (f"{MODULE}:bad", "-c", "tiny"),
            "2 operators of the network cannot run on the accelerator: layer 1 (gelu): ",
        ),
        ((f"{MODULE}:bad", "-c", "tiny"), " | layer 2 (softplus): "),
        (("net.bin", "-c", "tiny"), "net.bin: unknown kind of model"),
    ],
)
def test_compile_refuses(arguments, message):
    status, line = refused("compile", *arguments)
    assert status == 2 and message in line


def test_explain_a_model_and_a_program(program):
    model = popshift("explain", f"{MODULE}:net", "-c", "tiny")
    assert model.exit_code == 0, model.stderr
    for text in ("fused into 0", "rows 75 %", "post unit and pipeline filling", "loading weights"):
        assert text in model.stdout
    as_json = printed("explain", f"{MODULE}:net", "-c", "tiny")
    assert as_json["maps"]
    one_by_one = 5 + sum(layer["predicted_cycles"] for layer in as_json["layers"])
    assert 0.9 * one_by_one < as_json["cycles"] < one_by_one
    file = printed("explain", program, "-c", "tiny")
    assert file["layers"] == as_json["layers"] and file["operators"] == []
    tables = [popshift("explain", *of).stdout for of in ((f"{MODULE}:net", "-c", "tiny"), (program,))]
    of_model, of_program = (text[text.index("Multiply-accumulates a cycle") :] for text in tables)
    assert of_program == of_model
    assert of_model.index("all at once") < of_model.index("dataflow") < of_model.index("tiling")
    measured = popshift("explain", program, "--measure").stdout
    for text in ("counted by the hardware", "together", f"counted: {as_json['cycles']:,} cycles an image"):
        assert text in measured


def test_explain_exits_1_with_every_finding():
    done = popshift("explain", f"{MODULE}:bad", "-c", "tiny")
    assert done.exit_code == 1 and done.stderr == ""
    assert "gelu" in done.stdout and "softplus" in done.stdout and "2 operators cannot run" in done.stdout
    as_json = popshift("explain", f"{MODULE}:bad", "-c", "tiny", "--json")
    assert as_json.exit_code == 1
    assert [entry["supported"] for entry in json.loads(as_json.stdout)["operators"]] == [True, False, False]


def test_explain_exits_1_when_it_does_not_fit(folder: Path):
    (folder / "small.toml").write_text(TINY.replace(activation_depth=16).to_toml())
    done = popshift("explain", f"{MODULE}:net", "-c", "small.toml")
    assert done.exit_code == 1 and "It does not map onto tiny" in done.stdout
    assert "raise activation_depth" in done.stdout


def test_explain_refuses(program):
    assert refused("explain", f"{MODULE}:net") == (
        2,
        f"error: {MODULE}:net: no configuration to map it on; give one with -c NAME; "
        "`popshift configs` lists them\n",
    )
    assert refused("compile", f"{MODULE}:net") == refused("explain", f"{MODULE}:net")
    status, line = refused("explain", program, "-c", "a8")
    assert (
        status == 2 and "compiled for configuration tiny, not for configuration a8: rows 4 against 8" in line
    )
    assert refused("explain", "missing.pop")[0] == 2


# ---- simulate and run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["golden", "isa", "rtl"])
def test_simulate_gives_the_same_at_every_level(program, level):
    done = printed("simulate", program, "-i", "x.npy", "--level", level, "-o", f"{level}.npz", "-c", "tiny")
    assert (done["level"], done["images"], done["difference"]) == (level, 5, None)
    assert done["compared_with_golden"] is (level != "golden")
    (name,) = done["outputs"]
    with np.load(f"{level}.npz") as outputs:
        assert outputs.files == [name, f"{name}_real"] and outputs[name].shape == (5, 3, 1, 1)
        entry = done["outputs"][name]
        real = entry["scale"] * (outputs[name].reshape(5, 3).astype(float) - entry["zero_point"])
        np.testing.assert_array_equal(outputs[f"{name}_real"], real, strict=True)
        assert done["outputs"][name]["classes"] == outputs[name].reshape(5, 3).argmax(1).tolist()
        golden = compile_model(f"{MODULE}:net", TINY).run(np.load("x.npy"), "golden").outputs[name]
        np.testing.assert_array_equal(outputs[name], golden, strict=True)
    if level == "rtl":
        assert done["counters"]["cycles"] == done["predicted_cycles"]
        for layer in done["layers"]:
            assert layer["cycles"] == layer["predicted_cycles"]
    else:
        assert done["counters"] is None and done["layers"] is None


def test_counters_that_are_not_built_are_not_shown(program):
    bare = TINY.replace(performance_counters=False)
    compile_model(f"{MODULE}:net", bare).program.save("uncounted.pop")
    done = printed("simulate", "uncounted.pop", "-i", "x.npy", "--level", "rtl")
    assert set(done["counters"]) == {"cycles", "link_errors"}
    shown = popshift("simulate", "uncounted.pop", "-i", "x.npy", "--level", "rtl").stdout
    assert "drain" not in shown and "performance_counters = false" in shown
    ran = popshift("run", "uncounted.pop", "--port", "sim:", "-i", "x.npy").stdout
    assert "link errors 0" in ran and "drain" not in ran
    assert "no performance counters" in interface.markdown(bare)
    assert "drain" in popshift("simulate", program, "-i", "x.npy", "--level", "rtl").stdout


@pytest.mark.parametrize("command", [("simulate", "--level", "isa"), ("run", "--port", "sim:")])
def test_inputs_far_outside_the_calibrated_range_are_noted(program, command):
    np.save("loud.npy", 100 * np.load("x.npy"))
    done = popshift(command[0], program, "-i", "loud.npy", *command[1:])
    assert done.exit_code == 0
    assert re.search(r"^note: 9\d % of the values of input \w+ lie outside its range", done.stderr)
    assert popshift(command[0], program, "-i", "x.npy", *command[1:]).stderr == ""
    np.save("whole.npy", np.random.default_rng(1).integers(-128, 128, np.load("x.npy").shape).astype(float))
    done = popshift(command[0], program, "-i", "whole.npy", *command[1:])
    assert "if they are the int8 values themselves, save them as int8" in done.stderr


def test_simulate_names_the_first_difference(folder: Path, program):
    loaded = Program.load(program)
    loaded.segments[0].weights[:, 2:] ^= 0x40
    loaded.save(folder / "wrong.pop")
    done = popshift("simulate", "wrong.pop", "-i", "x.npy", "--level", "isa")
    assert done.exit_code == 1 and done.stderr == ""
    first = loaded.layers[1].output  # layer 0 fills the padding of the input
    assert f"differs from golden: tensor {first}, index (0, 0, 0, 0) is " in done.stdout
    as_json = popshift("simulate", "wrong.pop", "-i", "x.npy", "--level", "isa", "--json")
    assert as_json.exit_code == 1 and json.loads(as_json.stdout)["difference"]["tensor"] == first


def test_simulate_without_the_network_says_that_nothing_was_compared(folder: Path, program):
    dataclasses.replace(Program.load(program), attachments={}).save(folder / "bare.pop")
    done = popshift("simulate", "bare.pop", "-i", "x.npy", "--level", "isa")
    assert done.exit_code == 0 and "not compared: the file does not carry" in done.stdout
    status, line = refused("simulate", "bare.pop", "-i", "x.npy", "--level", "golden")
    assert status == 2 and "does not carry the network it was compiled from" in line


@pytest.mark.parametrize("command", ["simulate", "bench"])
def test_an_unknown_level_is_refused_with_those_that_exist(command):
    done = popshift(command, "conv64", "-i" if command == "simulate" else "-c", "tiny", "--level", "silicon")
    assert done.exit_code == 2 and "'isa'" in done.stderr and "'rtl'" in done.stderr


def test_run_on_a_simulated_board(program):
    done = popshift("run", program, "--port", "sim:", "-i", "x.npy", "-o", "run.npz")
    assert done.exit_code == 0, done.stderr
    for text in ("largest at: ", "wrote run.npz", "counters of the last image: cycles ", "link: requests "):
        assert text in done.stdout
    found = printed("run", program, "--port", "sim:tiny", "-i", "x.npy")
    (name,) = found["outputs"]
    assert found["counters"]["cycles"] > 0 and found["link"]["requests"] > 5
    expected = compile_model(f"{MODULE}:net", TINY).run(np.load("x.npy"), "golden").outputs[name]
    with np.load("run.npz") as outputs:
        np.testing.assert_array_equal(outputs[name], expected)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("simulate", "net.pop", "-i", "none.npy"), 2, "none.npy: cannot read it"),
        (("simulate", "net.pop", "-i", "wrong.npy"), 2, "the shape must be (n, 1, 4, 4), not (5, 4, 4)"),
        (("simulate", "net.pop", "-i", "integers.npy"), 2, "the dtype must be float"),
        (("simulate", "net.pop", "-i", "two.npz"), 2, "the inputs must be input, not input, other"),
        (
            ("simulate", "net.pop", "-i", "x.npy", "-o", "nowhere/y.npz"),
            2,
            "nowhere/y.npz: cannot write it (No",
        ),
        (("simulate", "net.pop", "-i", "x.npy", "-c", "a8"), 2, "not for configuration a8"),
        (("simulate", "x.npy", "-i", "x.npy"), 2, "x.npy: "),
        (("simulate", "cut.pop", "-i", "x.npy"), 2, "cut.pop: truncated"),
        (("run", "net.pop", "-p", "/dev/tty-none", "-i", "x.npy"), 3, "cannot open the serial port"),
        (("run", "net.pop", "-p", "tcp:127.0.0.1:1", "-i", "x.npy"), 1, "cannot connect"),
        (("run", "net.pop", "-p", "foo", "-i", "x.npy"), 2, "foo: unknown port; use sim:, tcp:HOST:PORT or"),
        (("run", "net.pop", "-p", "usb:1", "-i", "x.npy"), 2, "no transport is called 'usb'"),
        (("run", "net.pop", "-p", "sim:", "-i", "wrong.npy"), 2, "the shape must be (n, 1, 4, 4)"),
        (("run", "net.pop", "-p", "sim:a32", "-i", "x.npy"), 2, "not for configuration a32: "),
        (("run", "net.pop", "-p", "sim:", "--baud", "9600", "-i", "x.npy"), 2, "leave --baud out"),
    ],
)
def test_simulate_and_run_refuse(folder: Path, program, arguments, status, message):
    (folder / "cut.pop").write_bytes((folder / program).read_bytes()[:-100])
    found, line = refused(*arguments)
    assert (found, message in line) == (status, True), line


def test_several_outputs_are_saved_under_their_names(folder: Path):
    graph = graph_of_every_operator()
    graph.outputs.append("a")
    compile_graph(graph, TINY).program.save(folder / "outputs.pop")
    np.savez(folder / "named.npz", x=np.zeros((2, 3, 8, 8), np.int8))
    printed("simulate", "outputs.pop", "-i", "named.npz", "--level", "isa", "-o", "two_outputs.npz")
    with np.load("two_outputs.npz") as outputs:
        assert sorted(outputs.files) == ["a", "a_real", "y", "y_real"]
        assert outputs["a"].shape == (2, 6, 8, 8)


# ---- generate and test ------------------------------------------------------------------------------------


def test_generate_writes_its_files_and_leaves_others_alone(folder: Path, monkeypatch: pytest.MonkeyPatch):
    # tests/gen/test_generation.py looks into the Verilog.
    monkeypatch.setattr(generation, "emit_verilog", lambda config, technology: f"{config.name} {technology}")
    (folder / "mini.toml").write_text(TINY.replace(name="mini", link="uart", link_fifo_depth=64).to_toml())
    (folder / "rtl").mkdir()
    (folder / "rtl" / "mine.txt").write_text("keep")
    (folder / "rtl" / "mini.v").write_text("old")
    done = popshift("generate", "mini.toml", "-o", "rtl", "--technology", "gowin")
    assert done.exit_code == 0, done.stderr
    names = ["mini.interface.json", "mini.interface.md", "mini.resources.json", "mini.toml", "mini.v"]
    assert sorted(path.name for path in (folder / "rtl").iterdir()) == ["mine.txt", *names]
    assert (folder / "rtl" / "mine.txt").read_text() == "keep"
    assert (folder / "rtl" / "mini.v").read_text() == "mini gowin"
    assert AcceleratorConfig.from_toml(folder / "rtl" / "mini.toml").link == "uart"
    for name in names:
        assert f"wrote rtl/{name}" in done.stdout
    assert "popshift build" in done.stdout


def test_generate_refuses(folder: Path):
    (folder / "file").write_text("")
    (folder / "named.toml").write_text(TINY.replace(name="../up").to_toml())
    for arguments, message in (
        (("tinny", "-o", "rtl2"), "did you mean tiny?"),
        (
            ("tiny", "-o", "rtl2", "-t", "asic"),
            "unknown technology 'asic'; choose from portable, ecp5, ice40, gowin",
        ),
        (("tiny", "-o", "file"), "file: cannot write there"),
        (("named.toml", "-o", "rtl2"), "the configuration's name '../up' cannot begin a file name"),
    ):
        status, line = refused("generate", *arguments)
        assert status == 2 and message in line
    assert not (folder / "rtl2").exists()


def test_test_refuses_what_it_cannot_run(monkeypatch: pytest.MonkeyPatch, folder: Path):
    assert refused("test", "tinny")[0] == 2
    assert refused("test", "--seed", "0") == (
        2,
        "error: seed must be 1 .. 2147483647, not 0; choose another seed\n",
    )
    files = regression.resources.files
    installed = {"popshift.sim": folder / "installed" / "sim"}
    monkeypatch.setattr(regression.resources, "files", lambda name: installed.get(name) or files(name))
    status, line = refused("test")
    assert status == 3 and "clone the repository" in line


def test_test_reports_what_failed(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def run(configs, *, seed, select, netlist, show):
        calls.append((configs, seed, select, show))
        return regression.RegressionResult(
            passed=("a::b",),
            failed=("a::c",) if seed == 2 else (),
            skipped=(),
            seed=seed,
            seconds=1.0,
            log="",
        )

    monkeypatch.setattr(regression, "run_regression", run)
    assert printed("test")["passed"] == ["a::b"]
    done = popshift("test", "tiny", "a8", "--seed", "2", "-k", "link")
    assert done.exit_code == 1 and "tiny, a8: 1 passed, 1 failed, 0 skipped; seed 2" in done.stdout
    assert calls == [(["tiny"], 1, "", False), (["tiny", "a8"], 2, "link", True)]
