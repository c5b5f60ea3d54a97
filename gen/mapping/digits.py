"""Integers as sums of coefficients times a basis, exactly: how an array of ``shift`` PEs takes any weight.

Three coefficients of 15 levels each can be combined in 3,375 ways; with the right basis every int8 weight is
among them, and every rebuilt SmartDeal weight is a sum of three.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from popshift.hw.numerics import BASIS_MAX, EXPONENTS, WEIGHT_MAX

_SMALL = (1, 2, 13)
"""Basis for magnitudes up to 127 in one row."""
_LARGE = (1, 24, BASIS_MAX)
"""Basis for magnitudes up to 24,384 in three rows."""
_IMPOSSIBLE = 1 << 20


def digits(weights: NDArray[np.integer]) -> tuple[NDArray[np.int8], tuple[int, int, int]]:
    """Coefficients (…, rows, 3) and the basis (3,) with ``weights = (coefficients @ basis).sum(-1)``.

    `weights` must be of magnitude 24,384 at most; one row if it is at most 127.
    """
    values, back = np.unique(weights, return_inverse=True)
    small = np.abs(values).max(initial=0) <= WEIGHT_MAX
    basis = _SMALL if small else _LARGE
    sums, codes = _one_row(basis)
    if small:
        found = codes[np.searchsorted(sums, values)][:, None]
    else:
        found = np.stack([_three_rows(int(value)) for value in values])
    rows = found[back.reshape(weights.shape)].astype(np.int8)
    assert (np.sum(rows.astype(np.int64) @ np.array(basis), axis=-1) == weights).all()
    return rows, basis


@cache
def _one_row(basis: tuple[int, int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What one row can make, sorted, and the smallest coefficients (sums, 3) that do."""
    powers = 1 << np.arange(EXPONENTS)
    levels = np.concatenate([[0], powers, -powers])
    codes = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    codes = codes[np.argsort(np.abs(codes).sum(axis=1), kind="stable")]
    sums, first = np.unique(codes @ np.array(basis), return_index=True)
    return sums, codes[first]


@cache
def _two_rows() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every number from -2 m to 2 m, m the most that a row can make: the least sum of magnitudes of two
    rows that make it, and the position of one of them in `_one_row`.
    """
    sums, codes = _one_row(_LARGE)
    size = np.abs(codes).sum(axis=1)
    most = 2 * int(sums[-1])
    least = np.full(2 * most + 1, _IMPOSSIBLE)
    chosen = np.zeros(2 * most + 1, np.int64)
    for index, (value, magnitude) in enumerate(zip(sums.tolist(), size.tolist(), strict=True)):
        places = sums + value + most
        better = size + magnitude < least[places]
        least[places[better]] = size[better] + magnitude
        chosen[places[better]] = index
    return least, chosen


@cache
def _three_rows(value: int) -> NDArray[np.int64]:
    """The coefficients (3, 3) of least magnitude."""
    sums, codes = _one_row(_LARGE)
    least, chosen = _two_rows()
    most = len(least) // 2
    rest = value - sums
    inside = np.abs(rest) <= most
    cost = np.full(len(sums), _IMPOSSIBLE)
    cost[inside] = np.abs(codes[inside]).sum(axis=1) + least[rest[inside] + most]
    first = int(cost.argmin())
    second = chosen[rest[first] + most]
    third = np.searchsorted(sums, rest[first] - sums[second])
    return codes[[first, second, third]]
