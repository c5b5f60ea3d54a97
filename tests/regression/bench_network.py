"""Cocotb tests of the whole accelerator: networks by the real host driver, every tensor against PyTorch."""

import random

import cocotb
import numpy as np
from bench_link import start
from case_files import load_cases
from cocotb_bench import bench_parameters
from host_thread import run_host

from popshift.firmware_py.program import Program
from popshift.firmware_py.protocol import Link
from popshift.firmware_py.session import Accelerator
from popshift.hw.isa import CYCLE_CAUSES, Counter


def _equal(what: str, found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape, (what, found.shape)
    places = np.argwhere(found != wanted)
    if len(places):
        at = tuple(places[0].tolist())
        raise AssertionError(
            f"{len(places)} differ in {what}, first at {at}: {found[at]} instead of {wanted[at]}"
        )


@cocotb.test(timeout_time=200, timeout_unit="ms")
async def every_tensor_equals_pytorch(dut):
    config, transport = await start(dut, "none")
    cases = load_cases(bench_parameters()["networks"])

    def host(transport):
        device = Accelerator(Link(transport, fifo_bytes=config.link_fifo_depth, seed=random.getrandbits(32)))
        for case in cases:
            program = Program.load(case["program"])
            device.load(program, progress=False)
            profile = device.run_profiled(case["inputs"][:1])
            written = {
                layer.output: entry.tensor
                for layer, entry in zip(program.layers, profile.layers, strict=True)
            }
            for name, tensor in written.items():
                _equal(f"{name} of {case['name']}", tensor, case[f"tensor {name}"][0])
            for name, values in device.run(case["inputs"][1:], progress=False).items():
                _equal(f"output {name} of {case['name']}", values, case[f"tensor {name}"][1:])
            counters = device.counters()
            if config.performance_counters:
                assert counters[Counter.CYCLES] == sum(counters[cause] for cause in CYCLE_CAUSES)

    await run_host(host, transport)
