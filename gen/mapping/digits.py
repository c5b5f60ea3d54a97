"""Integers as sums of coefficients times a basis, exactly: how an array of ``shift`` PEs takes any weight.

Three coefficients of 15 levels each can be combined in 3,375 ways; with the right basis every int8 weight is
among them, and every rebuilt SmartDeal weight is a sum of three.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from popshift.hw.numerics import COEFFICIENT_MAX, EXPONENTS, WEIGHT_MAX

_SMALL = (1, 2, 13)
"""Basis for magnitudes up to 127 in one row."""
_LARGE = (1, 24, COEFFICIENT_MAX * 2 - 1)
"""Basis for magnitudes up to 24,384 in three rows."""


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
    """What one row can make, sorted, and the coefficients (sums, 3) for it."""
    powers = 1 << np.arange(EXPONENTS)
    levels = np.concatenate([[0], powers, -powers])
    codes = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    sums, first = np.unique(codes @ np.array(basis), return_index=True)
    return sums, codes[first]


@cache
def _two_rows() -> dict[int, tuple[int, int]]:
    """What two rows can make: sum -> positions of the rows in `_one_row`."""
    sums, _ = _one_row(_LARGE)
    total = sums[:, None] + sums
    values, first = np.unique(total, return_index=True)
    left, right = np.divmod(first, len(sums))
    return dict(zip(values.tolist(), zip(left.tolist(), right.tolist(), strict=True), strict=True))


def _three_rows(value: int) -> NDArray[np.int64]:
    sums, codes = _one_row(_LARGE)
    pairs = _two_rows()
    for index in np.argsort(np.abs(sums - value), kind="stable"):
        rest = pairs.get(value - int(sums[index]))
        if rest is not None:
            return codes[[index, *rest]]
    raise AssertionError(f"{value} is beyond three rows")
