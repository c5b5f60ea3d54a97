"""Handlers of poolings and means."""

import math
from collections.abc import Callable
from typing import Any

from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.frontend.float_graph import FloatPool
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
from popshift.gen.frontend.window_padding import NO_PADDING, ceiled
from popshift.gen.graph import Pooling, Window


def max_pool(rank: int) -> Callable[[Importer, Call], Value]:
    """max_pool2d, max_pool1d."""

    def handle(importer: Importer, call: Call) -> Value:
        value = materialise(importer, call, image_operand(importer, call, rank))
        arguments = call.arguments
        kernel = vertical_horizontal(arguments["kernel_size"], rank)
        window = Window(
            kernel,
            vertical_horizontal(arguments["stride"], rank) if arguments["stride"] else kernel,
            symmetric_padding(arguments["padding"], rank),
            vertical_horizontal(arguments["dilation"], rank),
        )
        if arguments["ceil_mode"]:
            window = ceiled(window, *importer.shape(value.tensor)[1:])
        return _emit_pool(importer, call, value, window, Pooling.MAX)

    return handle


def average_pool(rank: int) -> Callable[[Importer, Call], Value]:
    """avg_pool2d, avg_pool1d."""

    def handle(importer: Importer, call: Call) -> Value:
        value, arguments = image_operand(importer, call, rank), call.arguments
        kernel, own = (
            vertical_horizontal(arguments["kernel_size"], rank),
            symmetric_padding(arguments["padding"], rank),
        )
        divisor = arguments.get("divisor_override")
        if divisor is not None and divisor < 1:
            raise UnsupportedError(f"divisor_override = {divisor}", "use a divisor of at least 1")
        stride = vertical_horizontal(arguments["stride"], rank) if arguments["stride"] else kernel
        ends = arguments["ceil_mode"]
        inside = divisor is None and (ends if own == NO_PADDING else not arguments["count_include_pad"])
        if inside or ends:  # of the image with the padding of a layer before
            value = materialise(importer, call, value)
        window = Window(kernel, stride, sum_of_paddings(value.padding, own))
        if ends:
            size, last = importer.shape(value.tensor)[1:], window
            window = ceiled(window, *size)
            if window != last and not inside and divisor is None:
                raise UnsupportedError(
                    "ceil_mode=True divides the last windows by fewer pixels", "use count_include_pad=False"
                )
        divisor = divisor or math.prod(kernel)
        return _emit_pool(importer, call, value, window, Pooling.AVERAGE, divisor, inside=inside)

    return handle


def _emit_pool(
    importer: Importer,
    call: Call,
    value: Value,
    window: Window,
    operation: Pooling,
    divisor: int = 1,
    *,
    inside: bool = False,
) -> Value:
    channels, height, width = importer.shape(value.tensor)
    size = window.output_size(height, width)
    operator = FloatPool(
        name=call.name,
        input=value.tensor,
        output=call.name,
        window=window,
        operation=operation,
        divisor=divisor,
        inside=inside,
    )
    importer.emit(operator, (channels, *size))
    return result_of(call)


def adaptive_pool(rank: int, operation: Pooling) -> Callable[[Importer, Call], Any]:
    """adaptive_avg_pool and adaptive_max_pool whose output size divides the input."""

    def handle(importer: Importer, call: Call) -> Any:
        value = materialise(importer, call, image_operand(importer, call, rank))
        _, height, width = importer.shape(value.tensor)
        size = call.arguments["output_size"]
        rows, columns = (1, size[0]) if rank == 2 else (size[0], size[-1])
        if height % rows or width % columns:
            raise UnsupportedError(
                f"an output of {rows} x {columns} from {height} x {width} needs windows of unequal size",
                "choose an output size that divides the input's",
            )
        kernel = height // rows, width // columns
        channels = importer.shape(value.tensor)[0]
        operator = FloatPool(
            name=call.name,
            input=value.tensor,
            output=call.name,
            window=Window(kernel, kernel),
            operation=operation,
            divisor=1 if operation is Pooling.MAX else math.prod(kernel),
        )
        importer.emit(operator, (channels, rows, columns))
        result = Value(call.name, (channels, rows, columns) if rank == 3 else (channels, columns))
        return result if operation is Pooling.AVERAGE else (result, None)  # max pooling also returns indices

    return handle


def mean(importer: Importer, call: Call) -> Value:
    """A mean over height, width or both: an average pooling over the whole axis."""
    value, axes = call.arguments["self"], call.arguments.get("dim")
    rank = len(value.dims)
    if rank not in (2, 3):
        raise UnsupportedError("a mean over the features of a vector", "average over height and width only")
    axes = {axis % (rank + 1) for axis in axes or range(rank + 1)}
    if not axes <= set(range(2, rank + 1)):
        raise UnsupportedError("a mean over the batch or the channels", "average over height and width only")
    value = image_operand(importer, call, rank)
    _, height, width = padded_shape(importer, value)
    kernel = height if rank == 3 and 2 in axes else 1, width if rank in axes else 1
    window = Window(kernel, kernel, value.padding)
    return _emit_pool(importer, call, value, window, Pooling.AVERAGE, math.prod(kernel))
