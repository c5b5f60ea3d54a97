"""The engine that rebuilds SmartDeal weights, against plain integers."""

import itertools
import random

import pytest
from amaranth.sim import Simulator

from popshift.hw import isa
from popshift.hw.config import load_config
from popshift.hw.isa import Kind
from popshift.hw.matrix.rebuild import LATENCY, Rebuild

SEED = 17
CONFIG = load_config("tiny").replace(cols=5, post_lanes=1, tile_cols=1, rebuild=True)
MIXED = CONFIG.replace(pe_kinds=["mul", "shift"])
LEVELS = {
    0: 0,
    8: 0,
    **{8 * negative + 1 + p: (-1) ** negative * 2**p for negative in (0, 1) for p in range(7)},
}
"""Every code and the number it stands for; 8 is negative zero."""
assert sorted(LEVELS) == list(range(16))

Basis = list[list[int]]


def row_word(codes: list[list[int]]) -> int:
    """A word with three codes for each column."""
    return sum(code << 12 * index + 4 * j for index, row in enumerate(codes) for j, code in enumerate(row))


def basis_words(bases: list[Basis]) -> list[int]:
    """The words of all columns' bases, 12 bits of each column in every word."""
    flat = [[value for row in basis for value in row] for basis in bases]
    bits = [sum((value & 255) << 8 * at for at, value in enumerate(values)) for values in flat]
    return [sum((b >> 12 * number & 0xFFF) << 12 * i for i, b in enumerate(bits)) for number in range(6)]


def rebuilt(codes: list[list[int]], bases: list[Basis], column: int) -> list[int]:
    """The weights of a row by their definition."""
    if column > 2:
        return [0] * len(codes)
    return [
        sum(LEVELS[code] * basis[j][column] for j, code in enumerate(row))
        for row, basis in zip(codes, bases, strict=True)
    ]


def run(steps: list[tuple[int, int, int]], kind: int, config=CONFIG) -> list[list[int]]:
    """Give one (payload, column, basis) a cycle; the weights that come out for each."""
    engine, found = Rebuild(config=config), []

    async def bench(ctx):
        ctx.set(engine.kind, kind)
        await ctx.tick().repeat(3)
        for cycle in range(len(steps) + LATENCY):
            payload, column, basis = steps[min(cycle, len(steps) - 1)]
            ctx.set(engine.payload, payload)
            ctx.set(engine.column, column)
            ctx.set(engine.basis, basis if cycle < len(steps) else 0)
            if cycle >= LATENCY:
                found.append([ctx.get(engine.weights[index]) for index in range(config.cols)])
            await ctx.tick()

    simulator = Simulator(engine)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def compare(rounds: list[tuple[list[Basis], list[tuple[list[list[int]], int]]]]) -> None:
    """Rounds of bases and, right behind them, rows (codes, column) to be rebuilt with them."""
    steps, wanted = [], []
    for bases, rows in rounds:
        words = basis_words(bases)
        assert len(words) == isa.BASIS_WORDS
        steps += [(word, 0, 1) for word in words]
        wanted += [None] * len(words)
        steps += [(row_word(codes), column, 0) for codes, column in rows]
        wanted += [rebuilt(codes, bases, column) for codes, column in rows]
    for index, (found, want) in enumerate(zip(run(steps, Kind.REBUILD), wanted, strict=True)):
        assert want is None or found == want, (index, rounds)


def test_every_code_with_every_element_at_its_ends():
    ends = (-128, -127, -1, 0, 1, 127)
    rounds = []
    for value in ends:
        bases = [[[value * (at == j) for _ in range(3)] for j in range(3)] for at in range(3)] * 2
        rows = [
            ([[code] * 3] * CONFIG.cols, column) for code, column in itertools.product(range(16), range(3))
        ]
        rounds.append((bases[: CONFIG.cols], rows))
    compare(rounds)


def test_largest_weights():
    bases = [[[127] * 3] * 3, [[-127] * 3] * 3, [[127, -127, 127]] * 3, [[-128] * 3] * 3, [[0] * 3] * 3]
    signs = itertools.product((7, 15), repeat=3)
    compare([(bases, [([list(row)] * 5, column) for row in signs for column in range(3)])])
    assert rebuilt([[7] * 3] * 5, bases, 0)[:2] == [24384, -24384]


def test_random_rows_and_columns_beyond_the_basis():
    """A new basis takes effect with the row behind its last word, the old one lasts until its first."""
    rng = random.Random(SEED)

    def basis() -> Basis:
        return [[rng.choice((rng.randint(-128, 127), 127, -128)) for _ in range(3)] for _ in range(3)]

    def row() -> tuple[list[list[int]], int]:
        return [[rng.randrange(16) for _ in range(3)] for _ in range(CONFIG.cols)], rng.randrange(8)

    rounds = [
        ([basis() for _ in range(CONFIG.cols)], [row() for _ in range(rng.choice((1, 2, 9)))])
        for _ in range(60)
    ]
    compare(rounds)


@pytest.mark.parametrize("config", [CONFIG, MIXED], ids=["mul", "mul and shift"])
def test_weights_of_other_kinds(config):
    """int8 weights pass; of what is for shift PEs, the ``mul`` PEs get zeros."""
    rng = random.Random(SEED)
    weights = [[rng.choice((-128, 127, rng.randint(-128, 127))) for _ in range(5)] for _ in range(40)]
    payloads = [sum((w & 255) << 8 * i for i, w in enumerate(row)) for row in weights]
    steps = [(payload | rng.getrandbits(20) << 40, rng.randrange(8), 0) for payload in payloads]
    assert run(steps, Kind.DENSE, config) == weights
    assert run(steps, Kind.SHIFT, config) == [[0] * 5] * 40
