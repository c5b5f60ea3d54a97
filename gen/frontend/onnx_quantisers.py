"""Quantisers of QONNX (https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops) and of ONNX's QDQ
form.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.frontend.float_graph import Levels
from popshift.gen.frontend.onnx_node import Importer, Node
from popshift.gen.frontend.operands import Value
from popshift.gen.frontend.raw import Quantiser, Sign


def bipolar(inputs: Sequence[NDArray[Any]], attributes: dict[str, Any]) -> NDArray[np.float64]:
    """``scale`` where x >= 0, else ``-scale``."""
    x, scale = inputs[:2]
    return (np.where(x >= 0, 1, -1) * scale).astype(np.float64)


def quantised(inputs: Sequence[NDArray[Any]], attributes: dict[str, Any]) -> NDArray[np.float64]:
    """QONNX's Quant: rounded (half to even) to `bits` integer levels of `scale`, back in real numbers."""
    x, scale, zero_point, bits = (np.asarray(array, np.float64) for array in inputs[:4])
    low, high = level_range(int(bits.reshape(-1)[0]), attributes)
    numbers = np.rint(np.clip(x / scale + zero_point, low, high))
    return ((numbers - zero_point) * scale).astype(np.float64)


def scale_of(inputs: Sequence[NDArray[Any]], attributes: dict[str, Any]) -> NDArray[np.float64]:
    """Of a quantiser, in a shape that fits what it quantises: DequantizeLinear's lies along its `axis`."""
    x, scale = np.asarray(inputs[0]), np.asarray(inputs[1], np.float64)
    if scale.ndim != 1 or scale.size == 1 or "axis" not in attributes:
        return scale
    shape = [1] * x.ndim
    shape[attributes["axis"] if x.ndim > 1 else 0] = -1  # the default, 1, also stands at vectors
    return scale.reshape(shape)


def dequantised(inputs: Sequence[NDArray[Any]], attributes: dict[str, Any]) -> NDArray[np.float64]:
    """ONNX's DequantizeLinear: ``(x - zero point) * scale``, both along `axis`."""
    attributes = {"axis": 1, **attributes}
    x, scale = np.asarray(inputs[0], np.float64), scale_of(inputs, attributes)
    if len(inputs) > 2:
        x = x - scale_of([inputs[0], inputs[2]], attributes)
    return x * scale


def sign(importer: Importer, node: Node) -> Value:
    """BipolarQuant of activations."""
    value, scale = node.activation(), node.constant(1, "scale")
    if scale.size != 1 or scale.reshape(-1)[0] <= 0:
        raise UnsupportedError("its scale is not one positive number", "use one scale for a tensor")
    operator = Sign(name=node.name, input=value.tensor, output=node.name, scale=float(scale.reshape(-1)[0]))
    importer.emit(operator, importer.shape(value.tensor))
    return Value(node.name, value.dims)


def quantiser(importer: Importer, node: Node) -> Value:
    """Quant of activations: up to 8 bits, one scale for the tensor."""
    value = node.activation()
    names = ("scale", "zero point", "number of bits")
    numbers = [node.constant(index, name).reshape(-1) for index, name in enumerate(names, 1)]
    if any(len(number) != 1 for number in numbers) or numbers[0][0] <= 0:
        raise UnsupportedError("its scale is not one positive number", "use one scale for a tensor")
    scale, zero_point, bits = (float(number[0]) for number in numbers)
    if not 2 <= bits <= 8 or bits != round(bits) or zero_point != round(zero_point):
        raise UnsupportedError(f"it has {bits:g} bits and zero point {zero_point:g}", "use 2 to 8 bits")
    if (rounding := node.attributes.get("rounding_mode", b"ROUND").decode().upper()) != "ROUND":
        raise UnsupportedError(f"rounding_mode {rounding}, only ROUND is supported", "use ROUND")
    low, high = level_range(int(bits), node.attributes)
    shift = 128 if high > 127 else 0  # as int8
    levels = Levels(scale, int(zero_point) - shift, low - shift, high - shift)
    importer.emit(
        Quantiser(name=node.name, input=value.tensor, output=node.name, levels=levels),
        importer.shape(value.tensor),
    )
    return Value(node.name, value.dims)


def level_range(bits: int, attributes: dict[str, Any]) -> tuple[int, int]:
    """Smallest and largest integer of a Quant."""
    narrow, signed = int(attributes.get("narrow", 0)), int(attributes.get("signed", 1))
    if signed:
        return -(1 << (bits - 1)) + narrow, (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1 - narrow


def _as_int8(dtype: np.dtype) -> int:
    """What to take from its numbers."""
    return 128 if dtype == np.uint8 else 0


def quantise_linear(importer: Importer, node: Node) -> Value:
    """QuantizeLinear of activations to int8 or uint8; its integers are for DequantizeLinear alone."""
    value, scale = node.activation(), node.constant(1, "scale").reshape(-1)
    zero_point = np.asarray(node.inputs[2] if len(node.inputs) > 2 else np.uint8(0)).reshape(-1)
    if len(scale) != 1 or scale[0] <= 0 or len(zero_point) != 1:
        raise UnsupportedError("its scale is not one positive number", "use one scale for a tensor")
    if zero_point.dtype not in (np.int8, np.uint8):
        raise UnsupportedError(f"it makes {zero_point.dtype}", "quantise activations to int8 or uint8")
    if node.last:
        raise UnsupportedError("the network ends in its integers", "end it with a DequantizeLinear")
    limits, shift = np.iinfo(zero_point.dtype), _as_int8(zero_point.dtype)
    levels = Levels(float(scale[0]), int(zero_point[0]) - shift, limits.min - shift, limits.max - shift)
    importer.emit(
        Quantiser(name=node.name, input=value.tensor, output=node.name, levels=levels),
        importer.shape(value.tensor),
    )
    return Value(node.name, value.dims)


def dequantise_linear(importer: Importer, node: Node) -> Value:
    """DequantizeLinear behind a QuantizeLinear: between them, tensors here hold the real numbers."""
    value, scale = node.activation(), node.constant(1, "scale").reshape(-1)
    levels = importer.levels(value.tensor)
    zero_point = np.asarray(node.inputs[2] if len(node.inputs) > 2 else np.uint8(0)).reshape(-1)
    if (
        levels is None
        or len(scale) != 1
        or not np.isclose(scale[0], levels.scale, rtol=1e-6)
        or len(zero_point) != 1
        or int(zero_point[0]) - _as_int8(zero_point.dtype) != levels.zero_point
    ):
        remedy = "put QuantizeLinear and DequantizeLinear next to each other, with one scale and zero point"
        raise UnsupportedError("it is not behind a QuantizeLinear of its scale and zero point", remedy)
    return value
