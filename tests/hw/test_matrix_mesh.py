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
]
COEFFICIENTS = [0, *(sign << power for power in range(numerics.EXPONENTS) for sign in (1, -1))]
CODES = range(1 << numerics.CODE_BITS)


def stored(config: AcceleratorConfig, kind: str, weight: int) -> int:
    """The bits of a PE's word for a weight of one of its kinds."""
    word = pe_word(config)
    value = shift.decoded_value(numerics.coefficient_code(weight)) if kind == "shift" else weight
    field = word[kind]
    return (value & ((1 << field.width) - 1)) << field.offset


def sums_of(config: AcceleratorConfig, passes: list[tuple[np.ndarray, np.ndarray]]) -> list[list[int]]:
    """Sums of every cycle for passes of ``words (rows, cols)`` and ``waves (waves, rows)``; the first pass
    switches in cycle 0, each other one without a gap behind the pass before, in which its words are loaded.
    """
    mesh = Mesh(config=config, technology=TECHNOLOGIES["simulated"]())
    seen: list[list[int]] = []
    # One row after the other into its tile; the mesh moves weights down a tile a cycle.
    loading = [
        (row, row // config.tile_rows, wait)
        for row in range(config.rows)
        for wait in range(row // config.tile_rows + 1)
    ]
    settled = config.mesh_cols + config.mesh_rows
    waves = np.concatenate([waves for _, waves in passes])
    switches = [0, *itertools.accumulate(len(waves) for _, waves in passes)][: len(passes)]
    loads = {0: 0} | {switch + settled: index for index, switch in enumerate(switches[:-1], 1)}
    for (start, index), switch in zip(loads.items(), switches, strict=True):
        assert not index or start + len(loading) + settled <= switch, "too few waves to load meanwhile"

    def load(ctx, step: int, words: np.ndarray) -> None:
        row, tile, wait = loading[step]
        for c in range(config.cols):
            ctx.set(mesh.weights[c].as_value(), int(words[row, c]))
        ctx.set(mesh.load, (1 << tile) if wait == tile else 0)

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


def check(config: AcceleratorConfig, passes: list[tuple[list[list[str]], np.ndarray, np.ndarray]]) -> None:
    """The right sums when they are due, and zeros before and behind, where activations are zero.

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
    wanted = np.concatenate([waves @ weights for _, weights, waves in passes])
    for c in range(config.cols):
        due = 1 + mesh_latency(config) + c // config.tile_cols
        behind = len(seen) - due - len(wanted)
        assert [sums[c] for sums in seen] == [0] * due + wanted[:, c].tolist() + [0] * behind, c


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_sums_come_after_the_latency_and_not_before(shape, kinds):
    config = TINY.replace(**shape, **kinds)
    rng = np.random.default_rng(3)
    size = config.rows, config.cols
    limit = 1 << (config.weight_bits - 1)
    weights = {
        "mul": rng.integers(-limit, limit, size),
        "shift": rng.choice(COEFFICIENTS, size),
    }
    # Whole passes with one kind of weights, and one in which every PE has its own.
    kinds_of = [np.full(size, kind) for kind in config.pe_kinds]
    kinds_of.append(rng.choice(config.pe_kinds, size))
    passes = []
    for chosen in kinds_of:
        waves = rng.integers(ACTIVATION_MIN, ACTIVATION_MAX + 1, (40, config.rows))
        waves[3] = 0
        waves[4:6] = [[ACTIVATION_MIN], [ACTIVATION_MAX]]
        values = np.where(chosen == "mul", weights["mul"], weights["shift"])
        passes.append((chosen.tolist(), values, waves))
    check(config, passes)


@pytest.mark.parametrize("shape", [{}, {"tile_rows": 4}], ids=str)
@pytest.mark.parametrize("kinds", KINDS, ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_fit(shape, kinds, sign):
    """Every product as large as it can be, with either sign."""
    config = TINY.replace(**shape, **kinds)
    for kind in config.pe_kinds:
        largest = COEFFICIENT_MAX if kind == "shift" else (1 << (config.weight_bits - 1)) - (sign > 0)
        weights = np.full((config.rows, config.cols), sign * largest)
        waves = np.full((1, config.rows), ACTIVATION_MIN)
        check(config, [([[kind] * config.cols] * config.rows, weights, waves)])


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
    for kinds, rebuild in itertools.product((["shift"], ["mul", "shift"], ["mul"]), (False, True)):
        if rebuild and "mul" not in kinds:
            continue
        other = TINY.replace(pe_kinds=kinds, rebuild=rebuild)
        assert [name for name, _ in pe_word(other)] == kinds
        assert pe_word(other).size == ("mul" in kinds) * (16 if rebuild else 8) + ("shift" in kinds) * 5


@pytest.mark.parametrize(("rows", "levels"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6)])
def test_tree_latency(rows, levels):
    assert tree_latency(rows) == levels
