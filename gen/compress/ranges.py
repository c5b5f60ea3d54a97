"""Which range of real values an activation tensor gets: observed on calibration data."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from popshift.gen.frontend.float_graph import FloatGraph, evaluate
from popshift.hw.errors import InputError, ModelError
from popshift.hw.numerics import ACTIVATION_MAX, ACTIVATION_MIN

_BINS = 4096
_LEVELS = ACTIVATION_MAX - ACTIVATION_MIN
CALIBRATION_IMAGES = 512
"""Enough of them: popshift's own examples take the first so many of a data set."""
ADD_BATCH = "put the batch first: x[None] is a batch of one, some hundred samples are better"


class RangeMethod(StrEnum):
    """How the observed values become a range; the range always contains 0."""

    MINMAX = "minmax"
    """Smallest and largest value seen."""
    PERCENTILE = "percentile"
    """Cuts the same small share of the values off both ends."""
    MSE = "mse"
    """The observed range, shrunk by the factor that makes the mean squared error of quantisation least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisationOptions:
    """How to calibrate.

    Attributes
    ----------
    ranges: a `RangeMethod`, or its name.
    percentile: share of the values, in percent, that PERCENTILE keeps; above 50, at most 100.
    batch: calibration images evaluated at once, 1 .. 256.
    """

    ranges: RangeMethod | str = RangeMethod.MINMAX
    percentile: float = 99.99
    batch: int = 256

    def __post_init__(self) -> None:
        if self.ranges not in tuple(RangeMethod):
            raise InputError(f"ranges must be one of {', '.join(RangeMethod)}, not {self.ranges!r}")
        object.__setattr__(self, "ranges", RangeMethod(self.ranges))
        if not 50 < self.percentile <= 100:
            raise InputError(f"percentile must be above 50 and at most 100, not {self.percentile!r}")
        if not isinstance(self.batch, int) or not 1 <= self.batch <= 256:
            raise InputError(f"batch must be 1 .. 256, not {self.batch!r}")


def calibration_batch(graph: FloatGraph, values: Any) -> torch.Tensor:
    """Calibration data, checked, as float64 (N, channels, height, width).

    Parameters
    ----------
    values: array or tensor with the batch first, each sample in the shape the module or the graph gives it.

    Raises
    ------
    InputError: another shape, no sample at all, complex or text, NaN or infinity.
    """
    name = graph.inputs[0]
    try:
        data = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"not an array of numbers ({error})", where="calibration data") from error
    shape, dims = graph.tensors[name].shape, graph.dims.get(name, graph.tensors[name].shape)
    if tuple(data.shape) in (shape, dims):
        what = f"it lacks the batch dimension: its shape is {tuple(data.shape)}"
        raise InputError(what, where="calibration data", remedy=ADD_BATCH)
    if tuple(data.shape[1:]) not in (shape, dims):
        wanted = ", ".join(("N", *map(str, dims)))
        raise InputError(f"the shape must be ({wanted}), not {tuple(data.shape)}", where="calibration data")
    if len(data) == 0:
        raise InputError(
            "there is no sample", where="calibration data", remedy="give at least one, better a hundred"
        )
    if data.is_complex():
        raise InputError(f"the dtype must be real, not {data.dtype}", where="calibration data")
    data = data.to(torch.float64).reshape(-1, *shape)
    bad = int((~torch.isfinite(data)).sum())
    if bad:
        what = f"{bad} of {data.numel()} values are NaN or infinite"
        raise InputError(what, where="calibration data", remedy="remove those samples")
    return data


def observe(
    graph: FloatGraph, data: torch.Tensor, options: QuantisationOptions
) -> dict[str, tuple[float, float]]:
    """The range (low <= 0 <= high) of every tensor.

    Raises
    ------
    ModelError: a tensor is not finite although the weights and the data are.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for values in _batches(graph, data, options.batch):
        for name, tensor in values.items():
            if not bool(torch.isfinite(tensor).all()):
                remedy = "scale the input or the weights down"
                raise ModelError(
                    "the calibration data makes it NaN or infinite", where=f"tensor {name}", remedy=remedy
                )
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = min(low, float(tensor.min())), max(high, float(tensor.max()))
    if options.ranges is RangeMethod.MINMAX:
        return ranges
    counts = {name: np.zeros(_BINS) for name in ranges}
    for values in _batches(graph, data, options.batch):
        for name, tensor in values.items():
            low, high = ranges[name]
            if low < high:
                counts[name] += np.histogram(tensor.numpy(), _BINS, (low, high))[0]
    return {name: _narrowed(counts[name], *ranges[name], options) for name in ranges}


def affine(low: float, high: float) -> tuple[float, int]:
    """(scale, zero point) that spread -128 .. 127 over ``low .. high``, 0 exact; (1, 0) if low == high."""
    scale = (high - low) / _LEVELS
    if scale == 0:
        return 1.0, 0
    return scale, int(np.clip(round(ACTIVATION_MIN - low / scale), ACTIVATION_MIN, ACTIVATION_MAX))


def _batches(graph: FloatGraph, data: torch.Tensor, size: int) -> Iterator[dict[str, torch.Tensor]]:
    for start in range(0, len(data), size):
        yield evaluate(graph, data[start : start + size])


def _narrowed(
    counts: NDArray[np.float64], low: float, high: float, options: QuantisationOptions
) -> tuple[float, float]:
    if low == high:
        return low, high
    edges = np.linspace(low, high, _BINS + 1)
    if options.ranges is RangeMethod.PERCENTILE:
        share = (1 - options.percentile / 100) / 2 * counts.sum()
        below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
        kept = np.flatnonzero((below > share) & (above > share))
        return min(0.0, float(edges[kept[0]])), max(0.0, float(edges[kept[-1] + 1]))
    centres = (edges[:-1] + edges[1:]) / 2
    factors = np.linspace(0.2, 1.0, 81)
    errors = [_squared_error(counts, centres, low * factor, high * factor) for factor in factors]
    best = float(factors[int(np.argmin(errors))])
    return low * best, high * best


def _squared_error(
    counts: NDArray[np.float64], centres: NDArray[np.float64], low: float, high: float
) -> float:
    scale, zero_point = affine(low, high)
    levels = np.clip(np.rint(centres / scale) + zero_point, ACTIVATION_MIN, ACTIVATION_MAX)
    return float((counts * (centres - scale * (levels - zero_point)) ** 2).sum())
