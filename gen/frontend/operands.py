"""What the handlers of the PyTorch front end work on: values, calls, and the geometry of windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.frontend.float_graph import FloatFactors, FloatPool
from popshift.gen.frontend.raw import RawOperator
from popshift.gen.frontend.window_padding import NO_PADDING, Padding
from popshift.gen.graph import Pooling, Window


@dataclass(frozen=True, slots=True)
class Value:
    """An activation as the module sees it: a tensor of the float graph under another shape.

    Attributes
    ----------
    tensor: name in the float graph.
    dims: shape per sample in the module; the elements are those of the (padded) tensor in row-major order.
    padding: zeros around height and width (top, bottom, left, right) that the next operator takes over.
    """

    tensor: str
    dims: tuple[int, ...]
    padding: Padding = NO_PADDING


@dataclass(frozen=True, slots=True)
class NotNegative(Value):
    """Where a tensor is not negative: only a sign can be made of it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call.

    Attributes
    ----------
    name: unique in the network; the name of the operator made from it.
    operator: ATen name without namespace and overload (``conv2d``).
    arguments: every argument by its schema name, defaults filled in; activations as `Value`, constants as
        tensors.
    dims: shape per sample of the result; None if the result is not one tensor with the batch in front.
    last: whether nothing but the network's outputs reads the result.
    """

    name: str
    operator: str
    arguments: dict[str, Any]
    dims: tuple[int, ...] | None
    last: bool


class Importer(Protocol):
    """What a handler needs of the importer."""

    notes: list[str]

    def shape(self, tensor: str) -> tuple[int, int, int]:
        """(channels, height, width) of a tensor of the float graph, without pending padding."""
        ...

    def constant(self, call: Call, argument: str) -> NDArray[np.float64]:
        """A float parameter, checked to be finite."""
        ...

    def smartdeal(self, call: Call) -> FloatFactors | None:
        """The SmartDeal form of its weight, if it has one."""
        ...

    def emit(self, operator: RawOperator, shape: tuple[int, int, int]) -> None:
        """Append an operator whose output has this shape."""
        ...

    def remark(self, call: Call, text: str) -> None:
        """What becomes of a supported operator, if not obvious."""
        ...


def padded_shape(importer: Importer, value: Value) -> tuple[int, int, int]:
    """(channels, height, width) with the pending padding."""
    channels, height, width = importer.shape(value.tensor)
    top, bottom, left, right = value.padding
    return channels, height + top + bottom, width + left + right


def result_of(call: Call) -> Value:
    assert call.dims is not None
    return Value(call.name, call.dims)


def image_operand(importer: Importer, call: Call, rank: int) -> Value:
    """The input as an image (channels, height, width), or for 1-d operators a sequence (channels, length)."""
    value = call.arguments["input" if "input" in call.arguments else "self"]
    shape = padded_shape(importer, value)
    if len(value.dims) == rank - 1:
        raise UnsupportedError(
            "its input has no batch dimension", "add one to the example: example.unsqueeze(0)"
        )
    if value.dims != (shape if rank == 3 else (shape[0], shape[2])) or (rank == 2 and shape[1] != 1):
        raise UnsupportedError(
            f"its input is a tensor {shape} reshaped to {value.dims}, which would move data between channels",
            "give the network its input in the shape that this layer takes",
        )
    return value


def materialise(importer: Importer, call: Call, value: Value, name: str | None = None) -> Value:
    """Turn pending padding into a tensor of its own, for readers that cannot pad with zeros.

    It takes a 1 x 1 average pooling with padding, which copies; `name`: by default the call's, with an
    ending.
    """
    if value.padding == NO_PADDING:
        return value
    shape = padded_shape(importer, value)
    name = name or f"{call.name}.pad"
    window = Window((1, 1), padding=value.padding)
    importer.emit(
        FloatPool(name=name, input=value.tensor, output=name, window=window, operation=Pooling.AVERAGE), shape
    )
    return Value(name, value.dims)


def vertical_horizontal(value: int | Sequence[int], rank: int) -> tuple[int, int]:
    """(vertical, horizontal) of a kernel, stride or dilation; sequences have height 1."""
    numbers = [value] if isinstance(value, int) else list(value)
    if rank == 2:
        return 1, numbers[0]
    return numbers[0], numbers[-1]


def symmetric_padding(value: int | Sequence[int], rank: int) -> Padding:
    numbers = [value] if isinstance(value, int) else list(value)
    vertical, horizontal = (0, numbers[0]) if rank == 2 else (numbers[0], numbers[-1])
    return vertical, vertical, horizontal, horizontal


def sum_of_paddings(first: Padding, second: Padding) -> Padding:
    return first[0] + second[0], first[1] + second[1], first[2] + second[2], first[3] + second[3]
