"""Factors of the sum of two tensors."""

from popshift.gen.graph import Factor
from popshift.hw import numerics
from popshift.hw.numerics import Requantise


def sum_factors(
    first: float, second: float, result: float, mode: Requantise
) -> tuple[Factor, Factor, Factor]:
    """Of the two tensors and of their sum, given the three scales, as TensorFlow Lite's ADD has them: the
    tensors' are relative to twice the larger scale, so that their sum cannot overflow.
    """
    twice = 2 * max(first, second)
    real = (first / twice, second / twice, twice / ((1 << mode.sum_shift) * result))
    of_first, of_second, of_sum = (Factor(*numerics.quantise_multiplier(value, mode)) for value in real)
    return of_first, of_second, of_sum
