"""What synthesis has made is what was simulated: the regression on a netlist, and networks through one."""

import json

import numpy as np
import pytest
from tests.networks import small_network
from typer.testing import CliRunner

from popshift.gen.cli.main import app
from popshift.gen.compilation import compile_graph
from popshift.gen.execution import verify
from popshift.gen.implement import netlist
from popshift.hw.config import load_config
from popshift.hw.errors import ConfigError, InputError
from popshift.sim.netlist import cell_models
from popshift.sim.regression import run_regression


def test_the_regression_passes_on_an_ecp5_netlist():
    """Units and accelerator, with the same cocotb tests as their Verilog."""
    done = run_regression(["tiny"], netlist="ecp5")
    assert done.good and len(done.passed) >= 9, done.log[-3000:]


def test_a_network_on_an_ice40_netlist(tmp_path):
    config = load_config("icebreaker")
    graph = small_network(config, np.random.default_rng(6))
    program, inputs = tmp_path / "small.pop", tmp_path / "x.npy"
    compile_graph(graph, config).program.save(program)
    np.save(
        inputs, np.random.default_rng(7).integers(-128, 128, (3, *graph.tensors["x"].shape)).astype(np.int8)
    )
    command = ["simulate", str(program), "-i", str(inputs), "--level", "netlist", "-t", "ice40", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["level"] == "netlist" and found["compared_with_golden"] and found["difference"] is None
    assert found["counters"]["cycles"] == found["predicted_cycles"]


def test_what_cannot_be_simulated_as_a_netlist(monkeypatch):
    with pytest.raises(InputError, match=r"netlists of 'gowin' cannot be simulated.*choose ecp5 or ice40"):
        cell_models("gowin")
    config = load_config("tiny")
    graph = small_network(config, np.random.default_rng(6))
    program = compile_graph(graph, config).program
    images = np.zeros((1, *graph.tensors["x"].shape), np.int8)
    with pytest.raises(ConfigError, match="iCE40"):
        verify(program, images, "netlist", family="ice40")
    monkeypatch.setattr(netlist, "LARGEST_CELLS", 1000)
    with pytest.raises(InputError, match=r"a netlist of [\d,]+ cells is too large to be simulated"):
        verify(program, images, "netlist")
