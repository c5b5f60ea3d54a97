"""The integer truth against exact rational arithmetic and against gemmlowp's definitions, for ints, arrays
and tensors.
"""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch

from popshift.hw import numerics
from popshift.hw.numerics import Requantise, Rounding

SEED = 3


def nearest(x: Fraction, tie: Rounding) -> int:
    """Round to nearest by exact comparison."""
    floor = math.floor(x)
    rest = x - floor
    if rest != Fraction(1, 2):
        return floor + (rest > Fraction(1, 2))
    return floor + 1 if tie is Rounding.UP or x > 0 else floor


@pytest.mark.parametrize("tie", list(Rounding))
def test_rounding_shift(tie):
    for n in range(0, 7):
        for x in range(-300, 300):
            assert numerics.rounding_shift(x, n, tie) == nearest(Fraction(x, 1 << n), tie), (x, n)


def gemmlowp(acc: int, multiplier: int, shift: int) -> int:
    """SaturatingRoundingDoublingHighMul and RoundingDivideByPOT as gemmlowp/fixedpoint.h defines them."""
    product = acc * multiplier
    nudge = 1 << 30 if product >= 0 else 1 - (1 << 30)
    high = abs(product + nudge) // (1 << 31) * (1 if product + nudge >= 0 else -1)  # C division truncates
    mask = (1 << shift) - 1
    threshold = (mask >> 1) + (high < 0)
    return (high >> shift) + ((high & mask) > threshold)


def test_exact_is_gemmlowp():
    rng = random.Random(SEED)
    for _ in range(20_000):
        acc = rng.randrange(-(1 << 31), 1 << 31) >> rng.randrange(31)
        multiplier, shift = rng.randrange(1 << 30, 1 << 31), rng.randrange(0, 20)
        assert numerics.scale(acc, multiplier, shift, Requantise.EXACT) == gemmlowp(acc, multiplier, shift)


@pytest.mark.parametrize("mode", list(Requantise))
def test_ints_arrays_and_tensors_agree(mode):
    rng = np.random.default_rng(SEED)
    acc = rng.integers(-(1 << 27), 1 << 27, 1000)
    multiplier, shift = (
        np.array(c)
        for c in zip(
            *(numerics.quantise_multiplier(f, mode) for f in rng.uniform(1e-5, 1.9, 1000)), strict=True
        )
    )
    arguments = {"zero_point": -3, "low": -100, "high": 90, "mode": mode}
    array = numerics.requantise(acc, multiplier, shift, **arguments)
    tensor = numerics.requantise(*map(torch.from_numpy, (acc, multiplier, shift)), **arguments)
    ints = [
        numerics.requantise(int(a), int(m), int(s), **arguments)
        for a, m, s in zip(acc, multiplier, shift, strict=True)
    ]
    assert array.tolist() == tensor.tolist() == ints


@pytest.mark.parametrize("mode", list(Requantise))
def test_multiplier_is_the_nearest(mode):
    rng = random.Random(SEED)
    bits = 31 if mode is Requantise.EXACT else 16
    for _ in range(2000):
        real = 2.0 ** rng.uniform(-20, math.log2(mode.factor_limit) - 0.1)
        multiplier, shift = numerics.quantise_multiplier(real, mode)
        represented = Fraction(multiplier, 1 << (shift + (31 if mode is Requantise.EXACT else 0)))
        assert abs(represented / Fraction(real) - 1) <= Fraction(1, 1 << bits)


def test_refused_factors():
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be positive and finite"):
            numerics.quantise_multiplier(bad, Requantise.EXACT)
    with pytest.raises(ValueError, match="must be below 8, not 8"):
        numerics.quantise_multiplier(8.0, Requantise.EXACT)
    with pytest.raises(ValueError, match="must be below 2, not 2"):
        numerics.quantise_multiplier(2.0, Requantise.COMPACT)


@pytest.mark.parametrize("mode", list(Requantise))
def test_identity(mode):
    multiplier, shift = numerics.identity_multiplier(mode)
    for x in (*range(-600, 600), -(1 << 20), 1 << 20):
        assert numerics.scale(x, multiplier, shift, mode) == x


def test_mesh_sums_fit():
    for rows in range(1, 65):
        limit = 1 << (numerics.mesh_psum_bits(rows, 16) - 1)
        assert rows * 128 * 128 < limit
