"""Every unit and the whole accelerator, one build and one simulation for each configuration."""

import os

import pytest
from case_files import save_cases
from cocotb_bench import TOP, BenchRun, build_bench, run_bench, side_by_side
from matrix_cases import images, matrix_cases, sequences
from network_cases import network_cases
from post_cases import post_cases
from unit_benches import bench_units

from popshift.gen.implement.netlist import synthesised
from popshift.hw.accelerator import Accelerator
from popshift.hw.config import AcceleratorConfig
from popshift.hw.tech import TECHNOLOGIES
from popshift.sim.regression import NETLIST_VARIABLE

MODULES = ("bench_memory", "bench_matrix", "bench_post", "bench_link", "bench_network")
FEW_PASSES = 1_000
"""Passes of the longest accumulation. `LONG_CONFIG` does as many as it can hold, which takes seconds (of a
netlist, many minutes)."""
LONG_CONFIG = "tiny"


@pytest.fixture(scope="module")
def run(regression_config: AcceleratorConfig, regression_seed: int, tmp_path_factory) -> BenchRun:
    config = regression_config.replace(link="stream")
    print(f"configuration {config.name}, seed {regression_seed}")
    family = os.environ.get(NETLIST_VARIABLE, "")
    technology = TECHNOLOGIES[family](dsp_multipliers=config.dsp_multipliers) if family else None
    units = bench_units(config) | {"accelerator": Accelerator(config=config, technology=technology)}
    verilog = side_by_side(units)
    bench = build_bench(synthesised(verilog, family, TOP) if family else verilog, gates=bool(family))
    folder = tmp_path_factory.mktemp(config.name)
    most = (1 << (config.accumulator_width - 1)) // (128 * 128 * config.rows) - 1
    of_matrix = matrix_cases(config, regression_seed)
    in_sequence = sequences(config, of_matrix, regression_seed)
    parameters = {
        "config": config.to_dict(),
        "passes": most if config.name == LONG_CONFIG and not family else min(most, FEW_PASSES),
        "images": save_cases(folder / "images.npz", [images(config, regression_seed)]),
        "matrix": save_cases(folder / "matrix.npz", of_matrix),
        "sequences": save_cases(folder / "sequences.npz", in_sequence),
        "post": save_cases(folder / "post.npz", post_cases(config, regression_seed)),
        "networks": network_cases(config, folder, regression_seed),
    }
    return run_bench(bench, *MODULES, scratch=folder, seed=regression_seed, parameters=parameters)


@pytest.mark.parametrize("module", MODULES)
def test_configuration(run: BenchRun, module: str):
    run.only(module).check()
