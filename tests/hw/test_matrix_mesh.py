"""The mesh's sums and its cycle law: a wave comes out `mesh_latency` cycles later, and one more per column
tile.
"""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from popshift.hw import numerics
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.matrix.mesh import Mesh, mesh_latency, tree_latency
from popshift.hw.matrix.pe import pe_word, shift
from popshift.hw.numerics import ACTIVATION_MAX, ACTIVATION_MIN, COEFFICIENT_MAX
from popshift.hw.tech import TECHNOLOGIES

TINY = load_config("tiny").replace(post_lanes=1)  # with shift PEs, at least three groups of columns
SHAPES = [
    {},
    {"tile_rows": 1, "tile_cols": 1, "multiplier_stages": 2},
    {"rows": 6, "tile_rows": 3, "tile_cols": 4, "multiplier_stages": 4},
    {"tile_rows": 4, "tile_cols": 1},
    {"rows": 8, "tile_rows": 4},
    {"rows": 10, "tile_rows": 5, "multiplier_stages": 2},
    {"rows": 7, "tile_rows": 7},
    {"rows": 1, "cols": 3, "tile_rows": 1, "tile_cols": 1},
    {"rows": 1, "cols": 3, "tile_rows": 1, "tile_cols": 1, "multiplier_stages": 2},
]
KINDS = [
    {},
    {"pe_kinds": ["mul"], "rebuild": True},
    {"pe_kinds": ["shift"]},
    {"pe_kinds": ["mul", "shift"]},
    {"pe_kinds": ["shift", "mul"], "rebuild": True},
    {"pe_kinds": ["xnor"], "cols": 8},
    {"pe_kinds": ["mul", "xnor"], "cols": 8},
    {"pe_kinds": ["xnor", "shift", "mul"], "cols": 8, "rebuild": True},
]
COEFFICIENTS = [0, *(sign << power for power in range(numerics.EXPONENTS) for sign in (1, -1))]
CODES = range(1 << numerics.CODE_BITS)
ON = 1 << numerics.LANE_CHANNELS
"""Of an ``xnor`` weight: beside the bits of 8 channels; without it, it adds nothing."""
COUNT = np.array([byte.bit_count() for byte in range(256)])


def stored(config: AcceleratorConfig, kind: str, weight: int) -> int:
    """The bits of a PE's word for a weight of one of its kinds."""
    word = pe_word(config)
    value = shift.decoded_value(numerics.coefficient_code(weight)) if kind == "shift" else weight
    field = word[kind]
    return (value & ((1 << field.width) - 1)) << field.offset


def summed(kinds: np.ndarray, weights: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """What weights (rows, cols) of `kinds` make of waves (waves, rows): (waves, cols)."""
    binary = kinds == "xnor"
    agree = numerics.LANE_CHANNELS - COUNT[(waves[:, :, None] & 0xFF) ^ (weights & 0xFF)]
    matches = 2 * agree * (binary & (weights & ON > 0))
    return waves @ np.where(binary, 0, weights) + matches.sum(axis=1)


def sums_of(config: AcceleratorConfig, passes: list[tuple[np.ndarray, np.ndarray]]) -> list[list[int]]:
    """Sums of every cycle for passes of ``words (rows, cols)`` and ``waves (waves, rows)``; the first pass
    switches in cycle 0, each other one without a gap behind the pass before, in which its words are loaded.
    """
    mesh = Mesh(config=config, technology=TECHNOLOGIES["simulated"]())
    seen: list[list[int]] = []
    loading = [(row, row // config.tile_rows) for row in range(config.rows)]  # one after the other
    settled = config.mesh_cols + config.mesh_rows
    waves = np.concatenate([waves for _, waves in passes])
    switches = [0, *itertools.accumulate(len(waves) for _, waves in passes)][: len(passes)]
    loads = {0: 0} | {switch + settled: index for index, switch in enumerate(switches[:-1], 1)}
    for (start, index), switch in zip(loads.items(), switches, strict=True):
        assert not index or start + len(loading) + settled <= switch, "too few waves to load meanwhile"

    def load(ctx, step: int, words: np.ndarray) -> None:
        row, tile = loading[step]
        for c in range(config.cols):
            ctx.set(mesh.weights[c].as_value(), int(words[row, c]))
        ctx.set(mesh.load, 1 << tile)

    async def bench(ctx):
        for step in range(len(loading)):
            load(ctx, step, passes[0][0])
            await ctx.tick()
        ctx.set(mesh.load, 0)
        await ctx.tick().repeat(settled)
        for cycle in range(len(waves) + mesh_latency(config) + settled + 4):
            ctx.set(mesh.load, 0)
            for start, index in loads.items():
                if index and start <= cycle < start + len(loading):
                    load(ctx, cycle - start, passes[index][0])
            for tile in range(config.mesh_rows):
                ctx.set(mesh.switch[tile], cycle - tile in switches)
            for row in range(config.rows):  # the switch comes a cycle before the wave
                wave = cycle - row // config.tile_rows - 1
                ctx.set(mesh.activations[row], int(waves[wave, row]) if 0 <= wave < len(waves) else 0)
            seen.append([ctx.get(mesh.sums[c]) for c in range(config.cols)])
            await ctx.tick()

    simulator = Simulator(mesh)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


def check(config: AcceleratorConfig, passes: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """The right sums when they are due; before them zeros, as no weights are loaded, and behind them what the
    last weights make of activations that are zero.

    Each pass has the kinds of its weights, the weights, and its waves.
    """
    words = [
        np.array(
            [
                [stored(config, kind, int(weight)) for kind, weight in zip(*row, strict=True)]
                for row in zip(kinds, weights, strict=True)
            ]
        )
        for kinds, weights, _ in passes
    ]
    seen = sums_of(config, [(each, waves) for each, (_, _, waves) in zip(words, passes, strict=True)])
    wanted = np.concatenate([summed(*each) for each in passes])
    last_kinds, last_weights, _ = passes[-1]
    (after,) = summed(last_kinds, last_weights, np.zeros((1, config.rows), int))
    for c in range(config.cols):
        due = 1 + mesh_latency(config) + c // config.tile_cols
        behind = len(seen) - due - len(wanted)
        assert [sums[c] for sums in seen] == [0] * due + wanted[:, c].tolist() + [after[c]] * behind, c


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_sums_come_after_the_latency_and_not_before(shape, kinds):
    config = TINY.replace(**(shape | kinds))
    rng = np.random.default_rng(3)
    size = config.rows, config.cols
    limit = 1 << (config.weight_bits - 1)
    weights = {
        "mul": rng.integers(-limit, limit, size),
        "shift": rng.choice(COEFFICIENTS, size),
        "xnor": rng.integers(0, 256, size) + ON * (rng.random(size) < 0.8),
    }
    # Whole passes with one kind of weights, and one in which every PE has its own.
    kinds_of = [np.full(size, kind) for kind in config.pe_kinds]
    kinds_of.append(rng.choice(config.pe_kinds, size))
    passes = []
    for chosen in kinds_of:
        waves = rng.integers(ACTIVATION_MIN, ACTIVATION_MAX + 1, (40, config.rows))
        waves[3] = 0
        waves[4:6] = [[ACTIVATION_MIN], [ACTIVATION_MAX]]
        values = np.select([chosen == kind for kind in weights], list(weights.values()))
        passes.append((chosen, values, waves))
    check(config, passes)


@pytest.mark.parametrize("shape", [{}, {"tile_rows": 4}], ids=str)
@pytest.mark.parametrize("kinds", KINDS, ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_fit(shape, kinds, sign):
    """Every product as large as it can be, with either sign; of binary channels all, or none, agree."""
    config = TINY.replace(**shape, **kinds)
    limit = 1 << (config.weight_bits - 1)
    byte = ACTIVATION_MIN & 0xFF
    largest = {
        "mul": sign * (limit - (sign > 0)),
        "shift": sign * COEFFICIENT_MAX,
        "xnor": ON | (byte if sign > 0 else byte ^ 0xFF),
    }
    for kind in config.pe_kinds:
        weights = np.full((config.rows, config.cols), largest[kind])
        waves = np.full((1, config.rows), ACTIVATION_MIN)
        check(config, [(np.full(weights.shape, kind), weights, waves)])


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2], ids=["alone", "chained"])
def test_every_code_times_every_activation(rows, stages):
    """Without a chain the PE adds the last carry itself."""
    config = TINY.replace(
        rows=rows,
        cols=16,
        tile_rows=1,
        tile_cols=1,
        pe_kinds=["shift"],
        multiplier_stages=stages,
    )
    coefficients = np.array([numerics.coefficient_of(code) for code in CODES])
    waves = np.zeros((256, rows), int)
    waves[:, 0] = range(ACTIVATION_MIN, ACTIVATION_MAX + 1)
    words = np.zeros((rows, config.cols), int)
    words[0] = [shift.decoded_value(code) for code in CODES]
    seen = sums_of(config, [(words, waves)])
    for c, coefficient in enumerate(coefficients):
        due = 1 + mesh_latency(config) + c
        assert [sums[c] for sums in seen[due : due + 256]] == (waves[:, 0] * coefficient).tolist()
    assert min(waves[:, 0]) * min(coefficients) == 8192


def test_decoding_in_hardware_is_that_in_python():
    code = Signal(numerics.CODE_BITS)
    value = shift.decoded(code)
    assert len(value) == shift.DECODED.size
    found = []

    async def bench(ctx):
        for each in CODES:
            ctx.set(code, each)
            found.append(ctx.get(value))

    simulator = Simulator(Module())
    simulator.add_testbench(bench)
    simulator.run()
    assert found == [shift.decoded_value(each) for each in CODES]
    views = [shift.DECODED.from_bits(each) for each in found]
    again = [(1 - 2 * view.negative) * view.nonzero << view.amount for view in views]
    assert again == [numerics.coefficient_of(each) for each in CODES]


def test_words_of_one_kind_are_its_weights():
    """What is loaded as plain bits fits."""
    assert pe_word(TINY).size == 8
    choices = (["shift"], ["mul", "shift"], ["mul"], ["xnor"], ["mul", "xnor"], ["mul", "shift", "xnor"])
    for kinds, rebuild in itertools.product(choices, (False, True)):
        if rebuild and "mul" not in kinds:
            continue
        other = TINY.replace(cols=8, pe_kinds=kinds, rebuild=rebuild)
        assert [name for name, _ in pe_word(other)] == kinds
        sizes = {"mul": 16 if rebuild else 8, "shift": 5, "xnor": 9}
        assert pe_word(other).size == sum(sizes[kind] for kind in kinds)


@pytest.mark.parametrize(("rows", "levels"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6)])
def test_tree_latency(rows, levels):
    assert tree_latency(rows) == levels
