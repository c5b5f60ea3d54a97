"""Arrays of real numbers to int8 tensors and back: the one place that rounds an input."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from popshift.firmware_py.bits import pack_signs, unpack_signs
from popshift.firmware_py.layout import TensorLayout
from popshift.hw.errors import InputError
from popshift.hw.numerics import ACTIVATION_MAX, ACTIVATION_MIN


class QuantisedTensor(Protocol):
    """What describes an int8 tensor: `TensorLayout` here, `popshift.gen.graph.Tensor` in the compiler."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def scale(self) -> float: ...
    @property
    def zero_point(self) -> int: ...
    @property
    def bits(self) -> int: ...
    @property
    def threshold(self) -> float: ...


def real_shape(tensor: QuantisedTensor) -> tuple[int, int, int]:
    """(channels, height, width) of the network's tensor, however it is stored."""
    return (tensor.bits or tensor.shape[0], *tensor.shape[1:])


def signature(tensors: Sequence[QuantisedTensor]) -> str:
    """Names and shapes for people: ``x 1x12x12, y 5``."""
    shapes = (s[:1] if s[1:] == (1, 1) else s for s in map(real_shape, tensors))
    return ", ".join(f"{t.name} {'x'.join(map(str, s))}" for t, s in zip(tensors, shapes, strict=True))


def quantise(values: ArrayLike, scale: float, zero_point: int) -> NDArray[np.int8]:
    """``clamp(round(values / scale) + zero_point, -128, 127)``, computed in float64, ties away from zero.

    `values` must be finite; any shape.
    """
    real = np.asarray(values, np.float64) / scale
    whole = np.trunc(real)
    # Not trunc(x + 0.5): the sum would round 0.49999999999999994 up.
    rounded = whole + np.where(np.abs(real - whole) >= 0.5, np.sign(real), 0.0)
    return np.clip(rounded + zero_point, ACTIVATION_MIN, ACTIVATION_MAX).astype(np.int8)


def dequantise(values: NDArray[np.int8], scale: float, zero_point: int) -> NDArray[np.float64]:
    """``scale * (values - zero_point)``, any shape."""
    return scale * (np.asarray(values, np.float64) - zero_point)


def real_values(tensor: QuantisedTensor, values: NDArray[np.int8]) -> NDArray[np.float64]:
    """What a batch stored as `tensor` says stands for: float64 (n, channels, height, width)."""
    if tensor.bits:
        values = unpack_signs(np.ascontiguousarray(values), tensor.bits, axis=1)
    return dequantise(values, tensor.scale, tensor.zero_point)


def quantise_input(tensor: QuantisedTensor, values: ArrayLike) -> NDArray[np.int8]:
    """A batch for the network's input `tensor`, as int8 (n, channels, height, width).

    Parameters
    ----------
    values: (n, channels, height, width), or (n, channels, width) for a sequence, or any shape of as many
        numbers (n, …) for a vector; floating point (quantised here) or int8 (taken as it is; of a binary
        tensor bytes of 8 channels).

    Raises
    ------
    InputError: another shape or dtype, an empty batch, NaN or infinity.
    """
    where = f"input {tensor.name}"
    array = np.asarray(values)
    stored = array.dtype == np.int8
    channels, height, width = tensor.shape if stored else real_shape(tensor)
    shapes: list[tuple[int, ...]] = [(channels, height, width)]
    if height == 1:
        shapes.append((channels,) if width == 1 else (channels, width))
    flattens = array.ndim > 1 and (height, width) == (1, 1) and math.prod(array.shape[1:]) == channels
    if array.ndim == 0 or not (array.shape[1:] in shapes or flattens):
        wanted = " or ".join("(" + ", ".join(("n", *map(str, shape))) + ")" for shape in shapes)
        lacking = array.ndim in [len(shape) for shape in shapes]
        remedy = "put the batch first" if lacking else "give what the network was compiled for"
        raise InputError(f"the shape must be {wanted}, not {array.shape}", where=where, remedy=remedy)
    if array.shape[0] == 0:
        raise InputError("the batch is empty", where=where, remedy="give at least one image")
    if not stored:
        if not np.issubdtype(array.dtype, np.floating):
            raise InputError(
                f"the dtype must be float (quantised here) or int8 (already quantised), not {array.dtype}",
                where=where,
                remedy=f"real numbers: x.astype(numpy.float32); if it is quantised: {_stored_as(tensor)}",
            )
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            raise InputError(
                f"the value at index {tuple(map(int, bad[0]))} is {array[tuple(bad[0])]}",
                where=where,
                remedy="remove NaN and infinite values",
            )
        if tensor.bits:
            array = array.reshape(array.shape[0], channels, height, width)
            return pack_signs(np.where(array >= tensor.threshold, 0, -1), axis=1)
        array = quantise(array, tensor.scale, tensor.zero_point)
    return array.reshape(array.shape[0], channels, height, width)


def _stored_as(tensor: QuantisedTensor) -> str:
    if tensor.bits:
        return f"int8, bits of 8 channels, 1 where x >= {tensor.threshold:g}"
    number = f"round(real / {tensor.scale:g}) + {tensor.zero_point}"
    return f"x.astype(numpy.int8), which is clip({number}, -128, 127)"


def looks_stored(values: ArrayLike) -> bool:
    """Whether floating point values are likely to be int8 values: whole numbers within their range."""
    array = np.asarray(values)
    whole = (
        np.issubdtype(array.dtype, np.floating) and array.size > 0 and bool((array == np.rint(array)).all())
    )
    return whole and array.min() >= ACTIVATION_MIN and array.max() <= ACTIVATION_MAX


def clipped_share(tensor: QuantisedTensor, values: ArrayLike) -> float:
    """Share of real values over half a step outside what `tensor` can hold, 0 .. 1; int8 is inside."""
    array = np.asarray(values)
    if array.dtype == np.int8 or tensor.bits or not array.size:
        return 0.0
    ends = (ACTIVATION_MIN - 0.5, ACTIVATION_MAX + 0.5)
    low, high = (tensor.scale * (end - tensor.zero_point) for end in ends)
    return float(np.mean((array < low) | (array > high)))


class QuantisedInputs(dict[str, NDArray[np.int8]]):
    """Inputs by name that are (n, channels, height, width) for certain: nothing is to be converted any more,
    even if sizes would allow another reading."""


def channels_first(
    layouts: Sequence[TensorLayout], values: ArrayLike | Mapping[str, Any]
) -> ArrayLike | Mapping[str, Any]:
    """The same inputs with channels first where a layout has ``dims`` and the array their shape, or (n,
    height, width, channels). Arrays that are (n, channels, height, width) stay as they are, unless that is
    the same shape.

    Raises
    ------
    InputError: an image of none of these shapes.
    """
    by_name = {layout.name: layout for layout in layouts}
    if isinstance(values, Mapping):
        return {
            name: _channels_first(by_name[name], array) if name in by_name else array
            for name, array in values.items()
        }
    return _channels_first(layouts[0], values) if len(layouts) == 1 else values


def _channels_first(layout: TensorLayout, values: ArrayLike) -> ArrayLike:
    array = np.asarray(values)
    channels, height, width = layout.shape
    last = (height, width, channels)
    if not layout.dims or array.ndim == 0:
        return values
    if array.shape[1:] in (layout.dims, last):
        return np.moveaxis(array.reshape(-1, *last), 3, 1)
    if array.shape[1:] == layout.shape or layout.shape[1:] == (1, 1):
        return values
    shapes = dict.fromkeys([layout.dims, last, layout.shape])
    wanted = " or ".join("(" + ", ".join(("n", *map(str, shape))) + ")" for shape in shapes)
    lacking = array.shape in shapes
    remedy = "put the batch first" if lacking else "give what the network was compiled for"
    what = f"the shape must be {wanted}, not {array.shape}"
    raise InputError(what, where=f"input {layout.name}", remedy=remedy)


def quantise_inputs(
    tensors: Sequence[QuantisedTensor], values: ArrayLike | Mapping[str, Any]
) -> dict[str, NDArray[np.int8]]:
    """`quantise_input` for all inputs of a network: a mapping by name, or just the array if there is one
    input.

    Raises
    ------
    InputError: as `quantise_input`, and when a name is missing or unknown or the batches differ in size.
    """
    names = [tensor.name for tensor in tensors]
    if not isinstance(values, Mapping):
        if len(names) != 1:
            raise InputError(
                f"the network has {len(names)} inputs",
                remedy=f"give a mapping of {', '.join(names)} to arrays",
            )
        values = {names[0]: values}
    if set(values) != set(names):
        raise InputError(
            f"the inputs must be {', '.join(names)}, not {', '.join(map(str, values)) or 'none'}",
            remedy=f"name the arrays so, as numpy.savez(file, {names[0]}=x) does, or give one array alone",
        )
    arrays = {tensor.name: quantise_input(tensor, values[tensor.name]) for tensor in tensors}
    if len({len(array) for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{name}: {len(array)}" for name, array in arrays.items())
        raise InputError(f"the inputs differ in batch size ({sizes})", remedy="give the same number for each")
    return arrays
