"""What the handlers of ONNX operators work with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.frontend.float_graph import Levels
from popshift.gen.frontend.operands import Value
from popshift.gen.frontend.raw import RawOperator


@dataclass(frozen=True, slots=True)
class Node:
    """One operator.

    Attributes
    ----------
    name: unique. operator: ONNX's name of it.
    inputs: `Value` for activations, arrays for constants, None for what is missing or could not be taken.
    attributes: as the file has them.
    last: whether nothing but the network's output reads the result.
    step: scale of the second input, if that is a quantised constant, in a shape that fits it.
    """

    name: str
    operator: str
    inputs: Sequence[Any]
    attributes: dict[str, Any]
    last: bool
    step: NDArray[np.float64] | None = None

    def activation(self, index: int = 0) -> Value:
        value = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(value, Value):
            raise UnsupportedError(f"input {index} is no activation", "give it a layer's result there")
        return value

    def constant(self, index: int, what: str) -> NDArray[np.float64]:
        value = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(value, Value):
            raise UnsupportedError(f"its {what} is computed from the input", "use constant parameters")
        if value is None:
            raise UnsupportedError(f"its {what} cannot be computed from constants", "use constant parameters")
        array = np.asarray(value)
        if not np.isfinite(array).all():
            raise UnsupportedError(f"its {what} holds NaN or infinity", "train the network again")
        return array.astype(np.float64)


class Importer(Protocol):
    """What a handler needs of the importer."""

    notes: list[str]

    def shape(self, tensor: str) -> tuple[int, int, int]: ...

    def emit(self, operator: RawOperator, shape: tuple[int, int, int]) -> None: ...

    def levels(self, tensor: str) -> Levels | None: ...

    def as_vector(self, value: Value) -> Value: ...
