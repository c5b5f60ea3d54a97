"""The arithmetic of TensorFlow Lite for Microcontrollers in the terms of `popshift.gen.graph`: real scales to
multipliers, windows and clamps, as its kernels prepare them.

Scales are float32; what TFLM computes in float32 is computed so here, everything else in float64.
"""

import math
from collections.abc import Iterable

import numpy as np
import tflite

from popshift.gen.compress.sums import sum_factors
from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.graph import Factor, Requantisation
from popshift.hw import numerics
from popshift.hw.numerics import ACTIVATION_MAX, ACTIVATION_MIN, Requantise

_SPARE_BITS = numerics.EXACT_MULTIPLIER_BITS - numerics.EXACT_FRACTION_BITS
"""Bits that an ``exact`` multiplier of a factor below 1 leaves unused."""
_ACTIVATIONS = {
    tflite.ActivationFunctionType.NONE: (None, None),
    tflite.ActivationFunctionType.RELU: (0.0, None),
    tflite.ActivationFunctionType.RELU_N1_TO_1: (-1.0, 1.0),
    tflite.ActivationFunctionType.RELU6: (0.0, 6.0),
}
"""Least and largest real value."""


def factor(real: float, mode: Requantise) -> tuple[int, int]:
    """(multiplier, shift) of a real factor.

    Raises
    ------
    UnsupportedError: it is too large, or not positive.
    """
    try:
        return numerics.quantise_multiplier(real, mode)
    except ValueError as error:
        raise UnsupportedError(f"its scales are impossible here ({error})", _RESCALE) from error


def requantisation(reals: Iterable[float], limits: tuple[int, int], mode: Requantise) -> Requantisation:
    """One real factor per channel."""
    return from_factors([factor(real, mode) for real in reals], limits)


def from_factors(factors: list[tuple[int, int]], limits: tuple[int, int]) -> Requantisation:
    """One (multiplier, shift) per channel."""
    pairs = np.array(factors, np.int64).reshape(-1, 2)
    return Requantisation(
        multiplier=pairs[:, 0].copy(), shift=pairs[:, 1].copy(), low=limits[0], high=limits[1]
    )


def division(count: int, mode: Requantise) -> tuple[int, int]:
    """(multiplier, shift) that divide a sum of `count` int8 values, rounding half away from zero.

    ``exact``: as the first of the two roundings would round some values to a tie, the fraction behind it gets
    three more bits than `numerics.quantise_multiplier` gives; no sum of up to 4096 values comes out wrong.
    """
    if count == 1:
        return numerics.identity_multiplier(mode)
    if mode is not Requantise.EXACT:
        return numerics.quantise_multiplier(1 / count, mode)
    _, shift = numerics.quantise_multiplier(1 / count, mode)
    shift += _SPARE_BITS
    return ((1 << (numerics.EXACT_FRACTION_BITS + shift)) + count // 2) // count, shift


def mean(real: float, count: int, mode: Requantise) -> tuple[int, int]:
    """(multiplier, shift) of TFLM's MEAN: of `real`, divided by `count`, rounded down."""
    multiplier, shift = factor(real, mode)
    if mode is not Requantise.EXACT:
        return factor(real / count, mode)
    if not multiplier:
        return 0, 0
    bits = max(0, multiplier.bit_length() - numerics.EXACT_FRACTION_BITS)  # shift is 0 then
    exponent = bits - shift
    raised = min(count.bit_length() - 1, numerics.EXACT_FRACTION_BITS + exponent)
    divided, exponent = ((multiplier >> bits) << raised) // count, exponent - raised
    return (divided << exponent, 0) if exponent > 0 else (divided, -exponent)


def addition(
    scales: tuple[np.float32, np.float32], result: np.float32, limits: tuple[int, int], mode: Requantise
) -> tuple[Factor, Factor, Requantisation]:
    """Factors of the two inputs of an ADD, and what follows."""
    try:
        first, second, last = sum_factors(float(scales[0]), float(scales[1]), float(result), mode)
    except ValueError as error:
        raise UnsupportedError(f"its scales are impossible here ({error})", _RESCALE) from error
    return first, second, from_factors([(last.multiplier, last.shift)], limits)


def limits(activation: int, scale: np.float32, zero_point: int) -> tuple[int, int]:
    """Least and largest integer behind a fused activation, as TFLM's CalculateActivationRangeQuantized.

    Raises
    ------
    UnsupportedError: another activation.
    """
    if activation not in _ACTIVATIONS:
        raise UnsupportedError("its fused activation is not supported", "use RELU, RELU6 or RELU_N1_TO_1")
    low, high = _ACTIVATIONS[activation]
    return (
        ACTIVATION_MIN if low is None else max(ACTIVATION_MIN, quantised(low, scale, zero_point)),
        ACTIVATION_MAX if high is None else min(ACTIVATION_MAX, quantised(high, scale, zero_point)),
    )


def quantised(value: float, scale: np.float32, zero_point: int) -> int:
    """A real value as an integer, not clamped; the quotient is float32."""
    real = float(np.float32(value) / scale)
    return zero_point + int(math.copysign(math.floor(abs(real) + 0.5), real))


_RESCALE = "train or convert it again with other ranges"
