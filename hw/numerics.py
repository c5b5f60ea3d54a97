"""The one integer truth: every arithmetic step, written once with integer operators only.

Each function serves Python ints, NumPy int64 arrays and torch int64 tensors alike, because it uses nothing
but ``+ - * & >> <<`` and comparison-free tricks. The hardware's pipeline is tested against these functions,
the golden model and the instruction executor call them.

Ranges (proved by the compiler before a program is written): accumulators fit the configuration's
`accumulator_width` in two's complement, and the product of an accumulator and its multiplier stays below
2**62 in magnitude.
"""

import math
from enum import StrEnum
from typing import Any

ACTIVATION_BITS = 8
WEIGHT_BITS = 8
ACTIVATION_MIN, ACTIVATION_MAX = -128, 127
WEIGHT_MAX = 127  # weights are symmetric: -127 .. 127 (the array itself also takes -128)
EXPONENTS = 7
"""Magnitudes 2**0 .. 2**6 of a SmartDeal coefficient; with zero and a sign they fit a code of four bits."""
COEFFICIENT_MAX = 1 << (EXPONENTS - 1)
CODE_BITS = 4
BASIS_BITS = 8
BASIS_MAX = 127
BASIS_SIZE = 3
"""Rows and columns of a basis that the hardware can work with."""
REBUILT_BITS = 16
"""Of a rebuilt weight: its magnitude is at most 3 * 64 * 127 = 24,384."""
FACTORED_BITS = 24
"""Of a sum of activations times coefficients, before the basis: the compiler proves that they fit."""
COMBINED_BITS = 32
"""Of such sums times basis."""
LANE_CHANNELS = 8
"""Binary channels in a byte: bit i of byte b is channel 8 b + i; 1 stands for +1, 0 for -1."""
MATCH_BITS = 6
"""Of what an ``xnor`` PE adds, signed: twice the channels of a byte in which activation and weight agree."""
DEPTHWISE_BITS = 19
"""Of a depthwise window of nine products in the channel unit."""
BIAS_BITS = 32
SHIFT_BITS = 6
EXACT_FRACTION_BITS = 31
"""``exact`` multipliers are in units of 2**-31."""
EXACT_MULTIPLIER_BITS = 34
"""31 bits of mantissa and up to 3 bits of left shift (real scales below 8)."""
COMPACT_MULTIPLIER_BITS = 16
PRODUCT_MAX = (1 << 62) - 1


class Rounding(StrEnum):
    """Where a tie goes when low bits are dropped."""

    UP = "half-up"
    """x.5 goes towards plus infinity (gemmlowp's SaturatingRoundingDoublingHighMul, as compiled with `/`)."""
    AWAY = "half-away-from-zero"
    """x.5 goes away from zero (gemmlowp's RoundingDivideByPOT)."""


class Requantise(StrEnum):
    """How an accumulator becomes an 8-bit activation."""

    EXACT = "exact"
    """TensorFlow Lite for Microcontrollers: ``RoundingDivideByPOT(SaturatingRoundingDoublingHighMul(acc << l,
    m), r)``.
    """
    COMPACT = "compact"
    """16-bit multiplier and one rounding, half away from zero: small devices."""

    @property
    def multiplier_bits(self) -> int:
        return EXACT_MULTIPLIER_BITS if self is Requantise.EXACT else COMPACT_MULTIPLIER_BITS

    @property
    def shifts(self) -> range:
        """The shifts there are: as many as five levels of a barrel shifter give."""
        return range(0, 32) if self is Requantise.EXACT else range(15, 47)

    @property
    def sum_shift(self) -> int:
        """Bits that two tensors gain before they are scaled and added: as many as TensorFlow Lite's ADD, or
        what 24-bit accumulators hold.
        """
        return 20 if self is Requantise.EXACT else 14

    @property
    def factor_limit(self) -> int:
        """Real factors must be below this."""
        return 8 if self is Requantise.EXACT else 2


def rounding_shift(x: Any, n: Any, tie: Rounding) -> Any:
    """``x / 2**n`` rounded to the nearest integer, ties as `tie` says; 0 <= n < 63, |x| < 2**62."""
    half = (1 << n) >> 1
    if tie is Rounding.UP:
        return (x + half) >> n
    drops_bits = ((1 << n) - 1) & 1  # 0 only for n == 0, where nothing is rounded
    return (x + half - ((x >> 63) & drops_bits)) >> n


def scale(acc: Any, multiplier: Any, shift: Any, mode: Requantise) -> Any:
    """Multiply by the real factor that (multiplier, shift) stand for, and round to an integer.

    ``exact``: factor = multiplier * 2**-(31 + shift), two roundings; ``compact``: multiplier * 2**-shift, one
    rounding.
    """
    product = acc * multiplier
    if mode is Requantise.EXACT:
        return rounding_shift(rounding_shift(product, EXACT_FRACTION_BITS, Rounding.UP), shift, Rounding.AWAY)
    return rounding_shift(product, shift, Rounding.AWAY)


def raised(x: Any, zero_point: int, mode: Requantise) -> Any:
    """An activation as it enters a sum of two tensors, before it is scaled."""
    return (x - zero_point) << mode.sum_shift


def halved(x: Any, mode: Requantise) -> Any:
    """What a factor of one half makes of `raised`, exactly; `x`: less the zero point."""
    return x << mode.sum_shift - 1


def wrap(x: Any, bits: int) -> Any:
    """What `bits` bits of two's complement keep of an integer."""
    half = 1 << (bits - 1)
    return ((x + half) & (2 * half - 1)) - half


def clamp(x: Any, low: int, high: int) -> Any:
    """Limit to ``low .. high``; element-wise for arrays and tensors."""
    if isinstance(x, int):
        return min(max(x, low), high)
    return x.clip(low, high)


def requantise(
    acc: Any, multiplier: Any, shift: Any, *, zero_point: int, low: int, high: int, mode: Requantise
) -> Any:
    """``clamp(zero_point + round(acc * factor))``: the post unit, from biased accumulator to activation."""
    return clamp(zero_point + scale(acc, multiplier, shift, mode), low, high)


def quantise_multiplier(real: float, mode: Requantise) -> tuple[int, int]:
    """The (multiplier, shift) that represents a positive real factor best.

    ``exact`` follows TensorFlow Lite's QuantizeMultiplier: mantissa in [2**30, 2**31), rounded half
    away from zero, with a positive exponent folded into the multiplier.

    Raises
    ------
    ValueError: the factor is not positive and finite, or not below the mode's `factor_limit`.
    """
    if not (math.isfinite(real) and real > 0):
        raise ValueError(f"a requantisation factor must be positive and finite, not {real}")
    bits = EXACT_FRACTION_BITS if mode is Requantise.EXACT else COMPACT_MULTIPLIER_BITS
    mantissa, exponent = math.frexp(real)
    multiplier = math.floor(mantissa * (1 << bits) + 0.5)
    if multiplier == 1 << bits:
        multiplier, exponent = multiplier >> 1, exponent + 1
    if real >= mode.factor_limit or math.ldexp(multiplier, exponent - bits) >= mode.factor_limit:
        raise ValueError(f"a requantisation factor must be below {mode.factor_limit}, not {real}")
    if mode is Requantise.EXACT:
        if exponent > 0:
            return multiplier << exponent, 0
        shift = -exponent
        return (multiplier, shift) if shift in mode.shifts else (0, 0)
    shift = bits - exponent
    while shift not in mode.shifts and multiplier:  # below the smallest: give up low bits of the multiplier
        multiplier, shift = multiplier >> 1, shift - 1
    return multiplier, min(shift, mode.shifts[-1])


def identity_multiplier(mode: Requantise) -> tuple[int, int]:
    """The (multiplier, shift) of factor one: every accumulator passes unchanged in both modes."""
    return (1 << EXACT_FRACTION_BITS, 0) if mode is Requantise.EXACT else (1 << 15, 15)


def accumulator_bound(weights_l1: int, bias: int) -> int:
    """Largest magnitude of an accumulator: every activation at -128 against weights of this L1 norm."""
    return weights_l1 * -ACTIVATION_MIN + abs(bias)


def mesh_psum_bits(rows: int, product_bits: int) -> int:
    """Bits of a column's sum over `rows` products; the largest in magnitude, a power of two, may come every
    time.
    """
    return product_bits + (rows - 1).bit_length()


def coefficient_code(coefficient: Any) -> Any:
    """The 4-bit code of a coefficient 0, ±1, ±2, ±4 … ±64: bit 3 its sign, below the exponent plus one, 0 for
    zero.
    """
    magnitude = abs(coefficient)
    exponent = sum((magnitude >= 1 << power) * 1 for power in range(EXPONENTS))
    return exponent + (coefficient < 0) * (1 << (CODE_BITS - 1))


def coefficient_of(code: Any) -> Any:
    """The coefficient that a code stands for; negative zero is zero."""
    exponent = code & ((1 << (CODE_BITS - 1)) - 1)
    magnitude = (1 << exponent) >> 1
    return magnitude * (1 - ((code >> (CODE_BITS - 1)) << 1))
