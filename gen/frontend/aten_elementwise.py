"""Handlers of activations, padding, reshapes and whatever changes no number."""

import math
from typing import Any

from popshift.gen.frontend.aten_sums import with_channels
from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.frontend.operands import (
    Call,
    Importer,
    NotNegative,
    Value,
    image_operand,
    materialise,
    sum_of_paddings,
)
from popshift.gen.frontend.raw import Clamp, Sign

SIGN = "write a sign as torch.where(x >= 0, 1.0, -1.0)"


def activation(importer: Importer, call: Call) -> Value:
    """relu, relu6, hardtanh, clamp with numbers as limits."""
    arguments = call.arguments
    if call.operator == "relu":
        limits: tuple[Any, Any] = (0.0, None)
    elif call.operator == "relu6":
        limits = (0.0, 6.0)
    elif call.operator == "hardtanh":
        limits = (arguments["min_val"], arguments["max_val"])
    else:
        limits = (arguments.get("min"), arguments.get("max"))
    if any(not isinstance(limit, int | float | None) for limit in limits):
        raise UnsupportedError("its limits are tensors", "use numbers as limits")
    high = math.inf if limits[1] is None else float(limits[1])
    low = min(-math.inf if limits[0] is None else float(limits[0]), high)
    if math.isnan(low) or math.isnan(high):
        raise UnsupportedError("a limit is NaN", "use numbers as limits")
    value = arguments["self"]
    if not low <= 0 <= high:
        value = materialise(importer, call, value)
    importer.emit(
        Clamp(name=call.name, input=value.tensor, output=call.name, low=low, high=high),
        importer.shape(value.tensor),
    )
    return Value(call.name, value.dims, value.padding)


def not_negative(importer: Importer, call: Call) -> Value:
    """``x >= 0``: the first half of a sign."""
    other = call.arguments["other"]
    if isinstance(other, Value) or float(other) != 0:
        raise UnsupportedError(f"it compares with {other}", SIGN)
    value = materialise(importer, call, call.arguments["self"])
    return NotNegative(value.tensor, value.dims)


def where(importer: Importer, call: Call) -> Value:
    """``where(x >= 0, 1, -1)``, or with any number and its negative."""
    condition, high, low = (call.arguments[name] for name in ("condition", "self", "other"))
    numbers = [float(limit) for limit in (high, low) if isinstance(limit, int | float)]
    if not isinstance(condition, NotNegative) or len(numbers) != 2 or numbers[0] <= 0 or sum(numbers) != 0:
        raise UnsupportedError("it is no sign", SIGN)
    sign = Sign(name=call.name, input=condition.tensor, output=call.name, scale=numbers[0])
    importer.emit(sign, importer.shape(condition.tensor))
    return Value(call.name, condition.dims)


def reshape(importer: Importer, call: Call) -> Value:
    """flatten, view, reshape, squeeze, unsqueeze: another shape for the same elements of each sample."""
    value = call.arguments["self"]
    if call.dims is None or math.prod(call.dims) != math.prod(value.dims) or not call.dims:
        raise UnsupportedError(
            "it merges the batch with other dimensions", "keep the batch as the first dimension"
        )
    return Value(value.tensor, call.dims, value.padding)


def unchanged(importer: Importer, call: Call) -> Value:
    """dropout in eval mode, contiguous, clone, detach and the like."""
    if call.arguments.get("train"):
        raise UnsupportedError(
            "it drops activations at random also in eval mode", "pass training=self.training"
        )
    kind = call.arguments.get("dtype")
    if kind is not None and not kind.is_floating_point:
        raise UnsupportedError(f"it converts activations to {kind}", "keep them in float32")
    if "dropout" in call.operator:
        importer.remark(call, "no effect in inference")
    return call.arguments["self" if "self" in call.arguments else "input"]


def pad(importer: Importer, call: Call) -> Value:
    """Zeros around height and width; the next operator takes them over."""
    mode, fill, widths = (
        call.arguments.get("mode", "constant"),
        call.arguments["value"],
        call.arguments["pad"],
    )
    if mode != "constant" or fill not in (None, 0):
        what = f"padding mode {mode!r}" if mode != "constant" else f"padding with {fill}"
        raise UnsupportedError(f"{what}, only zeros are supported", "pad with zeros")
    value = call.arguments["self"]
    left, right, top, bottom, *more = [*widths, 0, 0, 0, 0][: max(4, len(widths))]
    if not any((left, right, top, bottom)) and len(value.dims) == 3 and len(more) == 2 and min(more) >= 0:
        return with_channels(importer, call, value, *more)
    if (
        any(more)
        or any(width < 0 for width in widths)
        or (len(value.dims) == 2 and (top or bottom))
        or len(value.dims) == 1
    ):
        raise UnsupportedError(
            "it pads channels or features, or crops", "pad height and width with zeros only"
        )
    value = image_operand(importer, call, len(value.dims))
    assert call.dims is not None
    return Value(value.tensor, call.dims, sum_of_paddings(value.padding, (top, bottom, left, right)))


def softmax(importer: Importer, call: Call) -> Value:
    """At the end of a network it is left to the host."""
    if not call.last:
        remedy = "remove it, or end the network before it"
        raise UnsupportedError("the network goes on behind it; softmax runs on the host only", remedy)
    fate = "left to the host: it does not change which output is largest"
    importer.remark(call, fate)
    importer.notes.append(f"{call.operator} ({call.name}) is {fate}")
    return call.arguments["self"]
