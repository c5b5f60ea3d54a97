"""How much quantisation costs: ranges and signal to noise ratio of every tensor, on calibration data."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from popshift.firmware_py.tensors import real_values
from popshift.gen import golden
from popshift.gen.compress.ranges import calibration_batch
from popshift.gen.frontend.float_graph import FloatGraph, evaluate
from popshift.gen.graph import Graph

_BATCH = 256


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor.

    Attributes
    ----------
    layer: the operator that computes it; ``input`` for the network's input.
    tensor: its name.
    shape: (channels, height, width).
    low, high: smallest and largest float value on the calibration data.
    scale, zero_point: its quantisation.
    sqnr_db: 10 * log10 of the float values' power over that of the int8 values' error; None without error.
    """

    layer: str
    tensor: str
    shape: tuple[int, int, int]
    low: float
    high: float
    scale: float
    zero_point: int
    sqnr_db: float | None


@dataclass(frozen=True, slots=True)
class QuantisationReport:
    """One row per tensor, in execution order."""

    samples: int
    rows: list[TensorReport]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def table(self) -> list[tuple[str, ...]]:
        """The rows as text, the column titles first."""
        lines: list[tuple[str, ...]] = [("layer", "shape", "low", "high", "scale", "zero point", "SQNR (dB)")]
        for row in self.rows:
            ratio = "exact" if row.sqnr_db is None else f"{row.sqnr_db:.1f}"
            numbers = (f"{row.low:.4g}", f"{row.high:.4g}", f"{row.scale:.4g}", str(row.zero_point), ratio)
            lines.append((row.layer, "x".join(map(str, row.shape)), *numbers))
        return lines


def compare(float_graph: FloatGraph, graph: Graph, calibration: object) -> QuantisationReport:
    """Run both networks on the calibration data and compare tensor by tensor.

    Raises
    ------
    InputError: calibration data of the wrong shape, empty, or with NaN.
    """
    data = calibration_batch(float_graph, calibration)
    names = list(graph.tensors)
    low, high = dict.fromkeys(names, math.inf), dict.fromkeys(names, -math.inf)
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for start in range(0, len(data), _BATCH):
        images = data[start : start + _BATCH]
        real, integer = evaluate(float_graph, images), golden.run(graph, images)
        for name in names:
            tensor, values = graph.tensors[name], real[name].numpy()
            error = values - real_values(tensor, integer[name])
            low[name], high[name] = min(low[name], float(values.min())), max(high[name], float(values.max()))
            signal[name] += float(np.square(values).sum())
            noise[name] += float(np.square(error).sum())
    layers = {operator.output: operator.name for operator in graph.operators}
    rows = [
        TensorReport(
            layers.get(name, "input"),
            name,
            (graph.tensors[name].channels, *graph.tensors[name].shape[1:]),
            low[name],
            high[name],
            graph.tensors[name].scale,
            graph.tensors[name].zero_point,
            _decibels(signal[name], noise[name]),
        )
        for name in names
    ]
    return QuantisationReport(len(data), rows)


def _decibels(signal: float, noise: float) -> float | None:
    if noise == 0:
        return None
    return 10 * math.log10(signal / noise) if signal else -math.inf
