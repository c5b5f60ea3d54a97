"""Three hundred random networks, golden model against instructions, some of them against gates."""

import numpy as np
import pytest
from tests.random_networks import RandomNetwork

from popshift.firmware_py.protocol import Link
from popshift.firmware_py.session import Accelerator
from popshift.gen import golden
from popshift.gen.compilation import compile_graph
from popshift.hw.config import load_config
from popshift.hw.errors import ModelError
from popshift.hw.isa import Counter
from popshift.sim.board import open_board
from popshift.sim.cycles import predicted_cycles
from popshift.sim.run import run_program

_MEMORIES = {"activation_depth": 8192, "weight_depth": 2048, "parameter_depth": 256, "accumulator_depth": 48}
_TINY = load_config("tiny").replace(**_MEMORIES)
ARRAYS = {
    "tiny": _TINY,
    "tall": _TINY.replace(rows=12, cols=4, tile_rows=6, post_lanes=4, multiplier_stages=2, window_depth=8),
    "compact": _TINY.replace(
        rows=5, cols=3, tile_rows=5, tile_cols=1, post_lanes=1, requantise="compact", accumulator_width=24
    ),
    "pairs of banks": _TINY.replace(
        **{"rows": 4, "cols": 2, "tile_rows": 4, "tile_cols": 1, "post_lanes": 1, "requantise": "compact"},
        **{"residual": False, "paired_banks": True},
    ),
    "wide": _TINY.replace(
        **{"rows": 16, "cols": 16, "tile_rows": 4, "tile_cols": 4, "post_lanes": 8, "window_depth": 16},
        pe_kinds=["mul", "xnor"],
    ),
    "channel multipliers": _TINY.replace(
        **{"rows": 8, "cols": 8, "tile_rows": 2, "post_lanes": 4, "multiplier_stages": 4},
        **{"depthwise": True, "accumulator_depth": 128},
    ),
}
NETWORKS, AT_RTL, BLOCK = 50, 10, 10
"""Of each array; a test does a block."""


@pytest.fixture(scope="module")
def boards():
    opened: dict = {}
    yield opened
    for board in opened.values():
        board.__exit__(None, None, None)


@pytest.mark.parametrize("first", range(0, NETWORKS, BLOCK))
@pytest.mark.parametrize("array", ARRAYS)
def test_random_networks_are_equal_at_all_levels(array, first, boards):
    config = ARRAYS[array]
    for seed in range(first, first + BLOCK):
        made = RandomNetwork(seed, config.requantise, operators=2 + seed % 7, sums=config.residual)
        told = f"array {array}, seed {seed}: {made.graph}"
        images = made.images(2)
        wanted = golden.run(made.graph, images)
        try:
            compiled = compile_graph(made.graph, config)
        except ModelError as error:
            raise AssertionError(told) from error
        for layer in compiled.program.layers:
            chain = list(layer.mapping.get("chain", {}).values())
            assert chain == sorted(chain, reverse=True), f"{told}: {layer.name}, {layer.mapping['chain']}"
        found = compiled.run(images, "isa")
        assert set(made.graph.outputs) <= set(found.tensors), told
        for name, values in found.tensors.items():
            name = name if name in wanted else name.removesuffix(".copy")  # with padding for another reader
            np.testing.assert_array_equal(values, wanted[name], err_msg=f"{told}, tensor {name}")
        stored = compiled.program.quantise_inputs(images)
        overlapped = run_program(compiled.program, stored, every_tensor=False, check_hazards=True)
        for name, values in overlapped.items():
            np.testing.assert_array_equal(values, wanted[name], err_msg=f"layers overlap, {told}, {name}")
        if seed % (NETWORKS // AT_RTL) == 0:
            if array not in boards:
                boards[array] = open_board(config, seed=1)
                boards[array].__enter__()
            device = Accelerator(Link(boards[array], fifo_bytes=config.link_fifo_depth))
            found = compiled.run(images, "rtl", board=device)
            for name, values in found.outputs.items():
                np.testing.assert_array_equal(values, wanted[name], err_msg=f"rtl, {told}, tensor {name}")
            if len(compiled.program.segments) == 1:
                assert found.counters is not None
                assert found.counters[Counter.CYCLES] == predicted_cycles(compiled.program), told
