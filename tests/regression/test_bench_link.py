"""The whole accelerator behind its link, for every chosen configuration."""

from cocotb_bench import build_bench, run_bench, side_by_side

from popshift.hw.accelerator import Accelerator
from popshift.hw.config import AcceleratorConfig


def test_link_and_command_unit(regression_config: AcceleratorConfig, regression_seed: int, tmp_path):
    config = regression_config.replace(link="stream")
    bench = build_bench(side_by_side({"accelerator": Accelerator(config=config)}))
    parameters = {"config": config.to_dict()}
    run_bench(bench, "bench_link", scratch=tmp_path, seed=regression_seed, parameters=parameters).check()
