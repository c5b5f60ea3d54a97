"""Bitstreams for one board of each small family, made by one command, fast enough for their clocks."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.installed import needs
from tests.networks import small_network
from typer.testing import CliRunner

from popshift.firmware_py.program import Program
from popshift.gen.cli.main import app
from popshift.gen.compilation import compile_graph
from popshift.gen.implement.placement import Placement
from popshift.hw.config import load_config


@pytest.mark.parametrize(
    ("board", "config", "macs", "mhz", "suffix", "begins"),
    [
        # An iCE40 bitstream begins with its preamble, an ECP5 one with a comment.
        pytest.param(
            "icebreaker", "icebreaker", 8, 20, ".bin", bytes.fromhex("ff0000ff7eaa997e"), marks=needs("ice40")
        ),
        pytest.param("ulx3s-12f", "tiny", 16, 100, ".bit", bytes.fromhex("ff00"), marks=needs("ecp5")),
    ],
)
def test_a_bitstream_that_meets_timing(tmp_path, board, config, macs, mhz, suffix, begins):
    loaded = load_config(config)
    graph = small_network(loaded, np.random.default_rng(3))
    program = tmp_path / "small.pop"
    compiled: Program = compile_graph(graph, loaded).program
    compiled.save(program)
    command = ["build", config, "--board", board, "-o", str(tmp_path), "--network", str(program), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["meets_timing"] and found["clock_mhz"] >= mhz and found["peak_macs_per_cycle"] >= macs
    names = {f"{config}-{board}{ending}" for ending in (suffix, ".toml", ".json", ".html")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"small.pop"}
    assert (tmp_path / f"{config}-{board}{suffix}").read_bytes().startswith(begins)
    report = json.loads((tmp_path / f"{config}-{board}.json").read_text())
    assert report["network"]["macs"] == sum(layer.macs for layer in compiled.layers)
    page = (tmp_path / f"{config}-{board}.html").read_text()
    assert "Critical path" in page and "Floor plan" in page
    placement = Placement.load(Path(report["median"]["placement"]))
    multipliers = sum(count for (_, _, part), count in placement.cells.items() if part == "PE array")
    assert multipliers > loaded.peak_macs_per_cycle  # at least a cell for each, and what adds them up
    assert sum(placement.cells.values()) > 0.5 * report["synthesis"]["ff"]
    assert load_config(tmp_path / f"{config}-{board}.toml").digest == loaded.digest
