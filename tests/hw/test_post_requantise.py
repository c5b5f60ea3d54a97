"""The post unit's lane against the one integer truth, on corners and seeded random values."""

import random

import pytest
from amaranth.sim import Simulator

from popshift.hw import numerics
from popshift.hw.config import load_config
from popshift.hw.numerics import Requantise
from popshift.hw.post import requantise
from popshift.hw.post.requantise import RequantiseLane
from popshift.hw.tech import TECHNOLOGIES

SEED = 20


def cases(mode: Requantise) -> list[dict[str, int]]:
    """Corners first (extreme accumulators, ties, zero points at both ends), then random ones."""
    rng = random.Random(SEED)
    found = []
    limit = 1 << 31
    corners = [0, 1, -1, 2, -2, 3, -3, 127, -128, 255, -256, limit - 1, -limit, 1 << 30, -(1 << 30)]
    for accumulator in corners:
        for factor in (0.5, 0.25, 1.0, 1 / 256, 1 / 3, 0.0001, 1.9):
            multiplier, shift = numerics.quantise_multiplier(factor, mode)
            for zero_point in (-128, 0, 127):
                found.append((accumulator, 0, multiplier, shift, zero_point, -128, 127))
    for _ in range(3000):
        accumulator = rng.randrange(-limit, limit) >> rng.randrange(31)
        bias = max(-limit, min(limit - 1, accumulator + rng.randrange(-1000, 1000))) - accumulator
        multiplier = rng.randrange(1 << mode.multiplier_bits) >> rng.choice((0, 0, 0, 3, 10))
        low = rng.randrange(-128, 128)
        found.append(
            (
                accumulator,
                bias,
                multiplier,
                rng.choice(mode.shifts),
                rng.randrange(-128, 128),
                low,
                rng.randrange(low, 128),
            )
        )
    names = ("accumulator", "bias", "multiplier", "shift", "zero_point", "low", "high")
    proven = [c for c in found if abs((c[0] + c[1]) * c[2]) <= numerics.PRODUCT_MAX]
    return [dict(zip(names, case, strict=True)) for case in proven]


@pytest.mark.parametrize("mode", list(Requantise))
def test_lane_equals_numerics(mode):
    config = load_config("tiny").replace(requantise=mode)
    lane = RequantiseLane(config=config, technology=TECHNOLOGIES["simulated"]())
    todo = cases(mode)
    print(f"seed {SEED}, {len(todo)} cases")
    latency = requantise.latency(mode)

    async def bench(ctx):
        # Limits and zero point are constant while elements are under way: one case after the other.
        for case in todo:
            for name, value in case.items():
                ctx.set(getattr(lane, name), value)
            await ctx.tick().repeat(latency)
            wanted = numerics.requantise(
                case["accumulator"] + case["bias"],
                case["multiplier"],
                case["shift"],
                zero_point=case["zero_point"],
                low=case["low"],
                high=case["high"],
                mode=mode,
            )
            assert ctx.get(lane.activation) == wanted, case

    simulator = Simulator(lane)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("mode", list(Requantise))
def test_lane_takes_one_element_a_cycle(mode):
    config = load_config("tiny").replace(requantise=mode)
    lane = RequantiseLane(config=config, technology=TECHNOLOGIES["simulated"]())
    latency = requantise.latency(mode)
    multiplier, shift = numerics.quantise_multiplier(0.37, mode)
    inputs = list(range(-200, 200))
    results = []

    async def bench(ctx):
        ctx.set(lane.low, -128)
        ctx.set(lane.high, 127)
        for index in range(len(inputs) + latency):
            ctx.set(lane.accumulator, inputs[min(index, len(inputs) - 1)])
            ctx.set(lane.multiplier, multiplier)
            ctx.set(lane.shift, shift)
            await ctx.tick()
            if index >= latency - 1:
                results.append(ctx.get(lane.activation))

    simulator = Simulator(lane)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    scaled = (numerics.scale(x, multiplier, shift, mode) for x in inputs)
    assert results[: len(inputs)] == [numerics.clamp(x, -128, 127) for x in scaled]
