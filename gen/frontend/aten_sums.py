"""Handlers of residual networks: sums of tensors, strided slices and channels of zeros."""

import numpy as np

from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.frontend.float_graph import FloatAdd, FloatConvolution
from popshift.gen.frontend.operands import Call, Importer, Value, image_operand, materialise
from popshift.gen.frontend.refusals import REFUSALS
from popshift.gen.frontend.strides import strided_copy
from popshift.gen.graph import Window

_WHOLE_BATCH = 1 << 32
"""More samples than any batch has; PyTorch writes the largest 64-bit integer for the end of an axis."""


def add(importer: Importer, call: Call) -> Value:
    """The sum of two activations of one shape."""
    one, other = call.arguments["self"], call.arguments["other"]
    if not isinstance(other, Value):
        raise UnsupportedError(*REFUSALS["add"])
    if call.arguments.get("alpha", 1) != 1:
        raise UnsupportedError(f"alpha = {call.arguments['alpha']}, only 1 is supported", "scale the weights")
    one, other = (
        materialise(importer, call, value, f"{call.name}.{side}")
        for side, value in (("left", one), ("right", other))
    )
    shape = importer.shape(one.tensor)
    if one.dims != other.dims or shape != importer.shape(other.tensor):
        remedy = "give both tensors one shape"
        raise UnsupportedError(f"it adds tensors of the shapes {one.dims} and {other.dims}", remedy)
    importer.emit(FloatAdd(name=call.name, input=one.tensor, other=other.tensor, output=call.name), shape)
    return Value(call.name, one.dims)


def slice_of(importer: Importer, call: Call) -> Value:
    """Every n-th row or column from the first on."""
    arguments, value = call.arguments, call.arguments["self"]
    axis, start, end, step = (arguments[name] for name in ("dim", "start", "end", "step"))
    dims = value.dims
    axis = axis + len(dims) + 1 if axis < 0 else axis
    size = dims[axis - 1] if axis else _WHOLE_BATCH
    if (start or 0) != 0 or (end is not None and end < size):
        raise UnsupportedError("taking a part of a tensor is not supported", "cut the input on the host")
    if step == 1:
        return value
    if axis == 0:
        raise UnsupportedError("it takes a part of the batch", "cut the input on the host")
    if axis == 1 or len(dims) == 1:
        raise UnsupportedError("it takes every n-th channel", "leave channels out of the weights")
    value = image_operand(importer, call, len(dims))
    value = materialise(importer, call, value)
    channels, height, width = importer.shape(value.tensor)
    stride = (step, 1) if len(dims) == 3 and axis == 2 else (1, step)
    copy = strided_copy(call.name, value.tensor, stride)
    importer.emit(copy, (channels, *copy.window.output_size(height, width)))
    assert call.dims is not None
    return Value(call.name, call.dims)


def with_channels(importer: Importer, call: Call, value: Value, before: int, after: int) -> Value:
    """The tensor with channels of zeros before and after its own: a 1 x 1 convolution."""
    value = materialise(importer, call, value)
    channels, height, width = importer.shape(value.tensor)
    if value.dims[0] != channels:
        raise UnsupportedError("it pads a flattened tensor", "pad in front of the flattening")
    weight = np.zeros((before + channels + after, channels, 1, 1))
    weight[before : before + channels, :, 0, 0] = np.eye(channels)
    operator = FloatConvolution(
        name=call.name,
        input=value.tensor,
        output=call.name,
        window=Window((1, 1)),
        weight=weight,
        bias=np.zeros(len(weight)),
    )
    importer.emit(operator, (len(weight), height, width))
    assert call.dims is not None
    return Value(call.name, call.dims)
