"""The ``xnor`` PE on its own: every byte of activations times every byte of weights."""

import itertools
import random

import pytest
from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data
from amaranth.sim import Simulator

from popshift.hw import numerics
from popshift.hw.matrix.pe.xnor import LANE, XnorColumn
from popshift.hw.tech import TECHNOLOGIES

SEED = 12
ROWS = 16
CORNERS = (0x00, 0xFF, 0x80, 0x7F, 0x01, 0xFE, 0x55, 0xAA, 0x0F, 0xF0)

Pair = tuple[int, int, int]
"""A byte of activations, one of weights, and whether these are on."""


def products(pairs: list[Pair], stages: int) -> list[int]:
    """The product of each pair; a column of `ROWS` PEs takes as many in a cycle, new ones in every cycle."""
    m = Module()
    activations, weights = Signal(8 * ROWS), Signal(data.ArrayLayout(LANE, ROWS))
    made = XnorColumn.products(
        m,
        TECHNOLOGIES["simulated"](),
        [activations.word_select(row, 8).as_signed() for row in range(ROWS)],
        [weights[row] for row in range(ROWS)],
        stages=stages,
        whole=0,
    )
    assert all(product.high is None and product.carries == () for product in made)
    assert [product.low.shape() for product in made] == [signed(numerics.MATCH_BITS)] * ROWS
    results = Cat(*(product.low for product in made))
    steps = [pairs[first : first + ROWS] for first in range(0, len(pairs), ROWS)]
    found: list[int] = []

    async def bench(ctx):
        for index in range(len(steps) + stages):
            step = steps[min(index, len(steps) - 1)]
            ctx.set(activations, sum(x << 8 * row for row, (x, _, _) in enumerate(step)))
            lanes = [(bits | on << 8) << LANE.size * row for row, (_, bits, on) in enumerate(step)]
            ctx.set(weights.as_value(), sum(lanes))
            if index >= stages:
                word, mask = ctx.get(results), (1 << numerics.MATCH_BITS) - 1
                found.extend(word >> numerics.MATCH_BITS * row & mask for row in range(ROWS))
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found[: len(pairs)]


def wanted(pair: Pair) -> int:
    """Twice the places where two bytes agree, bit by bit."""
    x, bits, on = pair
    return 2 * sum((x >> bit & 1) == (bits >> bit & 1) for bit in range(8)) if on else 0


def check(pairs: list[Pair], stages: int) -> None:
    """No product is negative, so its bits are the number."""
    found = products(pairs, stages)
    assert len(found) == len(pairs)
    wrong = [(pair, product) for pair, product in zip(pairs, found, strict=True) if product != wanted(pair)]
    assert not wrong, f"{len(wrong)} products differ, the first: {wrong[0]}"


def test_every_activation_times_every_weight():
    check(list(itertools.product(range(256), range(256), [1])), 3)


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_pairs_switched_on_and_off(stages):
    """Within a cycle, from one to the next, and for several at a time."""
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    corners = list(itertools.product(CORNERS, CORNERS, (1, 0)))
    rng.shuffle(corners)
    pairs = [(rng.randrange(256), rng.randrange(256), rng.getrandbits(1)) for _ in range(10_000)]
    turns = [(0xFF, rng.choice((0xFF, 0)), index // (7 * ROWS) % 2) for index in range(50 * ROWS)]
    check([*corners, *pairs, *turns], stages)


def test_the_largest_product_takes_all_its_bits():
    largest = wanted((0x3C, 0x3C, 1))
    assert 1 << (numerics.MATCH_BITS - 2) <= largest < 1 << (numerics.MATCH_BITS - 1)
    assert LANE.size == numerics.LANE_CHANNELS + 1
