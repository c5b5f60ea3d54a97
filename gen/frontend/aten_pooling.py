"""Handlers of poolings and means."""

import math
from collections.abc import Callable
from typing import Any

from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.frontend.float_graph import FloatPool
from popshift.gen.frontend.operands import (
    NO_PADDING,
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
        if own != NO_PADDING and not arguments["count_include_pad"] and divisor is None:
            remedy = "use count_include_pad=True, or pad less"
            raise UnsupportedError("count_include_pad=False divides border windows by fewer pixels", remedy)
        if divisor is not None and divisor < 1:
            raise UnsupportedError(f"divisor_override = {divisor}", "use a divisor of at least 1")
        stride = vertical_horizontal(arguments["stride"], rank) if arguments["stride"] else kernel
        window = Window(kernel, stride, sum_of_paddings(value.padding, own))
        return _emit_pool(importer, call, value, window, Pooling.AVERAGE, divisor or math.prod(kernel))

    return handle


def _emit_pool(
    importer: Importer, call: Call, value: Value, window: Window, operation: Pooling, divisor: int = 1
) -> Value:
    channels, height, width = importer.shape(value.tensor)
    size = window.output_size(height, width)
    if call.arguments.get("ceil_mode") and math.prod(call.dims or ()) != channels * math.prod(size):
        remedy = "use ceil_mode=False, or pad the input to a multiple of the stride"
        raise UnsupportedError("ceil_mode=True adds a window that reaches beyond the image", remedy)
    operator = FloatPool(
        name=call.name,
        input=value.tensor,
        output=call.name,
        window=window,
        operation=operation,
        divisor=divisor,
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
