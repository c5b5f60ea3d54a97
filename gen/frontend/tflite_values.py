"""Activations as TensorFlow Lite's operators see them, and what their handlers use."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.frontend.tflite_model import FileTensor
from popshift.gen.graph import Operator, Tensor, Window
from popshift.gen.host_tail import HostTail
from popshift.hw.numerics import ACTIVATION_MAX, ACTIVATION_MIN, Requantise

CONVERT = "convert with full integer quantisation to int8"
Padding = tuple[int, int, int, int]
_NONE: Padding = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Value:
    """An activation of the file.

    Attributes
    ----------
    tensor: of the graph; its elements in (height, width, channel) order are those of ``dims``.
    dims: shape of a sample in the file, ``padding`` included.
    padding: (top, bottom, left, right) zeros that a PAD has put around, and that no operator has made yet.
    tail: what the host makes of it.
    """

    tensor: str
    dims: tuple[int, ...]
    padding: Padding = _NONE
    tail: HostTail | None = None


class Importer(Protocol):
    """What handlers use."""

    mode: Requantise

    def file_tensor(self, number: int) -> FileTensor: ...
    def graph_tensor(self, name: str) -> Tensor: ...
    def value(self, number: int) -> Value:
        """As it is, with padding that is still to be made."""
        ...

    def settled(self, number: int) -> Value:
        """Without such padding: a layer of its own has made it."""
        ...

    def emit(self, operator: Operator) -> None: ...
    def make(self, number: int, shape: tuple[int, int, int], dims: tuple[int, ...]) -> Value:
        """The graph's tensor for one of the file, with its quantisation."""
        ...

    def reshaped_input(self, number: int, dims: tuple[int, ...]) -> bool:
        """The network's input in another shape, if nothing else reads it."""
        ...

    def at_end(self, number: int) -> bool:
        """Whether nothing is computed from this tensor any more."""
        ...


@dataclass(frozen=True, slots=True)
class Image:
    """A value as image: sizes in the file's sense, without ``padding``. ``turned``: the graph's tensor has
    rows for columns, as the file's reshaping of a sequence between 1 x N and N x 1 is nothing in memory.
    """

    tensor: str
    height: int
    width: int
    channels: int
    padding: Padding
    turned: bool

    def window(self, window: Window) -> Window:
        """A window in the graph's sense."""
        if not self.turned:
            return window
        top, bottom, left, right = window.padding
        (height, width), (rows, columns), (down, across) = window.kernel, window.stride, window.dilation
        return Window((width, height), (columns, rows), (left, right, top, bottom), (across, down))

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Of a tensor of the graph; an image that is turned must stay a sequence, in the same order."""
        if not self.turned:
            return channels, height, width
        _check_sequence(height, width)
        return channels, width, height


def _check_sequence(height: int, width: int) -> None:
    if 1 not in (height, width):
        reason = f"a RESHAPE has swapped rows and columns of what becomes {height} x {width}"
        raise UnsupportedError(reason, "reshape only sequences: 1 x N or N x 1")


def sizes(dims: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, channels) of an image, of a sequence (width, channels), or of a vector."""
    padded = (1, 1, *dims)
    return padded[-3], padded[-2], padded[-1]


def quantisation(tensor: FileTensor) -> tuple[np.float32, int]:
    """Scale and zero point of an activation.

    Raises
    ------
    UnsupportedError: it is not int8 with one scale.
    """
    if tensor.type != "int8":
        raise UnsupportedError(f"tensor {tensor.name} is {tensor.type}, not int8", CONVERT)
    if len(tensor.scales) != 1 or not (np.isfinite(tensor.scales[0]) and tensor.scales[0] > 0):
        raise UnsupportedError(f"tensor {tensor.name} does not have one positive scale", CONVERT)
    zero_point = int(tensor.zero_points[0])
    if not ACTIVATION_MIN <= zero_point <= ACTIVATION_MAX:
        raise UnsupportedError(f"tensor {tensor.name} has zero point {zero_point}", CONVERT)
    return tensor.scales[0], zero_point


def image_of(importer: Importer, value: Value) -> Image:
    """A value as an image.

    Raises
    ------
    UnsupportedError: it is none, as its elements are not where those of such an image would be.
    """
    top, bottom, left, right = value.padding
    tall, wide, channels = sizes(value.dims)
    height, width = tall - top - bottom, wide - left - right
    shape = importer.graph_tensor(value.tensor).shape
    if len(value.dims) > 3 or shape not in ((channels, height, width), (channels, width, height)):
        raise UnsupportedError(f"its input of shape {value.dims} is flattened", "flatten behind it")
    turned = shape != (channels, height, width)
    if turned:
        _check_sequence(height, width)
    return Image(value.tensor, height, width, channels, value.padding, turned)
