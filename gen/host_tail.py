"""What the host computes behind the accelerator's last layer: the softmax at the end of a network."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.tensors import dequantise, quantise
from popshift.gen import integer_softmax


class TailOperation(StrEnum):
    """What to compute."""

    SOFTMAX = "softmax"
    LOGISTIC = "logistic"
    ARGMAX = "argmax"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTail:
    """An operator at the end of a network.

    Attributes
    ----------
    name: of the tensor that it gives.
    operation: along the last ``size`` elements.
    input_scale, input_zero_point: of what it takes.
    beta: factor of a softmax's inputs.
    scale, zero_point: of its int8 output; scale 0 if it gives real numbers (or indices).
    """

    name: str
    operation: TailOperation
    size: int
    input_scale: float
    input_zero_point: int
    beta: float = 1.0
    scale: float = 0.0
    zero_point: int = 0

    def integers(self, values: NDArray[np.int8]) -> NDArray[np.int8] | None:
        """The int8 output (n, elements) for inputs (n, elements); None if it is not an int8 tensor."""
        if not self.scale:
            return None
        usual = (self.scale, self.zero_point) == (integer_softmax.SCALE, integer_softmax.ZERO_POINT)
        if self.operation is TailOperation.SOFTMAX and usual:
            rows = values.reshape(len(values), -1, self.size)
            return integer_softmax.softmax(rows, self.input_scale, self.beta).reshape(len(values), -1)
        return quantise(self._computed(values), self.scale, self.zero_point)

    def reals(self, values: NDArray[np.int8]) -> NDArray[np.float64]:
        """The output as real numbers, those of its int8 values if it has any."""
        integers = self.integers(values)
        return (
            self._computed(values) if integers is None else dequantise(integers, self.scale, self.zero_point)
        )

    def _computed(self, values: NDArray[np.int8]) -> NDArray[np.float64]:
        rows = dequantise(values, self.input_scale, self.input_zero_point).reshape(len(values), -1, self.size)
        if self.operation is TailOperation.ARGMAX:
            return rows.argmax(2).astype(np.float64)
        if self.operation is TailOperation.LOGISTIC:
            return (1 / (1 + np.exp(-rows))).reshape(len(values), -1)
        powers = np.exp(self.beta * (rows - rows.max(2, keepdims=True)))
        return (powers / powers.sum(2, keepdims=True)).reshape(len(values), -1)
