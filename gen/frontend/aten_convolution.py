"""Handlers of convolutions, linear layers and batch norm."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.frontend.float_graph import FloatConvolution, Step
from popshift.gen.frontend.operands import (
    Call,
    Importer,
    Value,
    image_operand,
    materialise,
    padded_shape,
    result_of,
    sum_of_paddings,
    symmetric_padding,
    vertical_horizontal,
)
from popshift.gen.frontend.raw import BatchNorm
from popshift.gen.frontend.window_padding import NO_PADDING, same_padding
from popshift.gen.graph import Window


def convolution(rank: int) -> Callable[[Importer, Call], Value]:
    """conv2d (rank 3 per sample) or conv1d (rank 2), all overloads."""

    def handle(importer: Importer, call: Call) -> Value:
        value, arguments = image_operand(importer, call, rank), call.arguments
        weight = importer.constant(call, "weight")
        weight = weight[:, :, None, :] if rank == 2 else weight
        kernel, dilation = (
            (weight.shape[2], weight.shape[3]),
            vertical_horizontal(arguments["dilation"], rank),
        )
        padding = arguments["padding"]
        if padding == "same":  # only with a stride of 1
            own = same_padding(Window(kernel, dilation=dilation), *importer.shape(value.tensor)[1:])
        else:
            own = NO_PADDING if padding == "valid" else symmetric_padding(padding, rank)
        window = Window(
            kernel,
            vertical_horizontal(arguments["stride"], rank),
            sum_of_paddings(value.padding, own),
            dilation,
        )
        return _emit_convolution(importer, call, value, window, weight, arguments["groups"])

    return handle


def _emit_convolution(
    importer: Importer,
    call: Call,
    value: Value,
    window: Window,
    weight: NDArray[np.float64],
    groups: int = 1,
) -> Value:
    missing = call.arguments["bias"] is None
    bias = np.zeros(weight.shape[0]) if missing else importer.constant(call, "bias").reshape(-1)
    _, height, width = importer.shape(value.tensor)
    operator = FloatConvolution(
        name=call.name,
        input=value.tensor,
        output=call.name,
        window=window,
        weight=weight,
        bias=bias,
        smartdeal=importer.smartdeal(call),
        groups=groups,
    )
    importer.emit(operator, (weight.shape[0], *window.output_size(height, width)))
    return result_of(call)


def linear(importer: Importer, call: Call) -> Value:
    """A fully connected layer: a convolution whose kernel covers the image that was flattened."""
    value = call.arguments["input"]
    if len(value.dims) != 1:
        raise UnsupportedError(
            f"it works on the last axis of {value.dims}, not on one vector per sample",
            "flatten its input, or use a 1 x 1 convolution",
        )
    weight = importer.constant(call, "weight")
    shape = padded_shape(importer, value)
    window = Window((shape[1], shape[2]), padding=value.padding)
    return _emit_convolution(importer, call, value, window, weight.reshape(-1, *shape))


def batch_norm(importer: Importer, call: Call) -> Any:
    """Batch norm with stored statistics, a factor and an offset per channel; `fusion` folds it."""
    arguments = call.arguments
    if arguments.get("training") or arguments["running_mean"] is None:
        remedy = "use track_running_stats=True and export in eval mode"
        raise UnsupportedError("it normalises with the statistics of the batch", remedy)
    value = materialise(importer, call, arguments["input"])
    shape = importer.shape(value.tensor)
    average, variance = importer.constant(call, "running_mean"), importer.constant(call, "running_var")
    if average.size != shape[0]:
        remedy = "normalise before flattening, or behind the linear layer"
        raise UnsupportedError(f"it has one factor per pixel of a flattened tensor {shape}", remedy)
    factor = 1 / np.sqrt(variance + arguments["eps"])
    if arguments["weight"] is not None:
        factor = factor * importer.constant(call, "weight")
    offset = -average * factor
    if arguments["bias"] is not None:
        offset = offset + importer.constant(call, "bias")
    norm = BatchNorm(
        name=call.name,
        input=value.tensor,
        output=call.name,
        factor=factor,
        offset=offset,
        step=_as_computed(importer, call),
    )
    importer.emit(norm, shape)
    result = Value(call.name, value.dims)
    native = "training" not in arguments  # that one returns statistics too
    return (result, None, None) if native else result


def _as_computed(importer: Importer, call: Call) -> Step:
    """Batch norm as PyTorch computes it, for float32 (N, channels, height, width)."""

    def parameter(name: str) -> torch.Tensor | None:
        missing = call.arguments[name] is None
        return None if missing else torch.from_numpy(importer.constant(call, name)).float()

    names = ("running_mean", "running_var", "weight", "bias")
    stored, eps = [parameter(name) for name in names], call.arguments["eps"]

    def step(x: torch.Tensor) -> torch.Tensor:
        average, variance, weight, bias = (None if own is None else own.to(x.dtype) for own in stored)
        return functional.batch_norm(x, average, variance, weight, bias, eps=eps)

    return step
