"""TensorFlow Lite's operators, one handler each: from the file's operator to operators of the integer graph.

Images are (height, width, channels) in the file and (channels, height, width) in the graph.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import tflite
from numpy.typing import NDArray

from popshift.gen.frontend import tflite_factors as factors
from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.frontend.tflite_model import FileOperator
from popshift.gen.frontend.tflite_values import CONVERT, Image, Importer, Value, image_of, quantisation
from popshift.gen.frontend.window_padding import NO_PADDING, same_padding
from popshift.gen.graph import Add, Convolution, Factor, Pool, Pooling, Requantisation, Window
from popshift.gen.host_tail import HostTail, TailOperation
from popshift.hw.numerics import ACTIVATION_MAX, ACTIVATION_MIN

Handler = Callable[[Importer, FileOperator], Value]
_ALL = (ACTIVATION_MIN, ACTIVATION_MAX)


def convolution(importer: Importer, operator: FileOperator) -> Value:
    """CONV_2D, with groups if the filters have fewer channels than the input."""
    image = image_of(importer, importer.value(operator.inputs[0]))
    weight = _weight(importer, operator, 4).transpose(0, 3, 1, 2)
    if image.channels % weight.shape[1]:
        raise UnsupportedError(f"filters of {weight.shape[1]} channels, {image.channels} in the input", _FILE)
    return _convolve(importer, operator, image, weight, image.channels // weight.shape[1])


def depthwise(importer: Importer, operator: FileOperator) -> Value:
    """DEPTHWISE_CONV_2D: output channel c * M + m is the m-th of input channel c."""
    image = image_of(importer, importer.value(operator.inputs[0]))
    weight = _weight(importer, operator, 4).transpose(3, 0, 1, 2)
    if weight.shape[1] != 1 or weight.shape[0] % image.channels:
        raise UnsupportedError(f"{weight.shape[0]} filters for {image.channels} channels", _FILE)
    return _convolve(importer, operator, image, weight, image.channels)


def _convolve(
    importer: Importer, operator: FileOperator, image: Image, weight: NDArray[np.int8], groups: int
) -> Value:
    """`weight`: (out channels, channels of a group, kernel height, kernel width)."""
    options = operator.options
    window = Window(
        kernel=(weight.shape[2], weight.shape[3]),
        stride=(options["StrideH"], options["StrideW"]),
        dilation=(options["DilationHFactor"], options["DilationWFactor"]),
    )
    window = _padded(options, window, image)
    size = _output_size(importer, operator, window, image, len(weight))
    result = _result(importer, operator, image.shape(len(weight), *size))
    importer.emit(
        Convolution(
            name=result.tensor,
            input=image.tensor,
            output=result.tensor,
            window=image.window(window),
            weight=np.ascontiguousarray(weight.swapaxes(2, 3) if image.turned else weight),
            bias=_bias(importer, operator, len(weight)),
            requantisation=_weighted(importer, operator, len(weight)),
            groups=groups,
        )
    )
    return result


def fully_connected(importer: Importer, operator: FileOperator) -> Value:
    """FULLY_CONNECTED: over all of its input, or, if that has more elements, over the channels of every
    pixel."""
    if operator.options["WeightsFormat"]:
        raise UnsupportedError("its weights are shuffled", CONVERT)
    source = importer.settled(operator.inputs[0])
    channels, height, width = importer.graph_tensor(source.tensor).shape
    weight = _weight(importer, operator, 2)
    filters, terms = weight.shape
    kernel, size = (height, width), (1, 1)
    if terms != channels * height * width:
        if terms != channels or source.dims[-1:] != (channels,):
            raise UnsupportedError(f"{terms} weights for {channels * height * width} elements", _FILE)
        kernel, size = (1, 1), (height, width)
    result = _result(importer, operator, (filters, *size))
    if int(np.prod(result.dims)) != filters * size[0] * size[1]:
        raise UnsupportedError(f"its output has shape {result.dims}", _FILE)
    importer.emit(
        Convolution(
            name=result.tensor,
            input=source.tensor,
            output=result.tensor,
            window=Window(kernel),
            weight=np.ascontiguousarray(weight.reshape(filters, *kernel, channels).transpose(0, 3, 1, 2)),
            bias=_bias(importer, operator, filters),
            requantisation=_weighted(importer, operator, filters),
        )
    )
    return result


def pool(importer: Importer, operator: FileOperator) -> Value:
    """MAX_POOL_2D and AVERAGE_POOL_2D."""
    maximum = operator.kind == "MAX_POOL_2D"
    image = image_of(importer, importer.settled(operator.inputs[0]))
    options = operator.options
    kernel = (options["FilterHeight"], options["FilterWidth"])
    window = _padded(options, Window(kernel, (options["StrideH"], options["StrideW"])), image)
    size = _output_size(importer, operator, window, image, image.channels)
    scale, zero_point = quantisation(importer.file_tensor(operator.outputs[0]))
    if (scale, zero_point) != quantisation(importer.file_tensor(operator.inputs[0])):
        raise UnsupportedError("its input and output are quantised differently", _FILE)
    count = 1 if maximum else kernel[0] * kernel[1]
    limits = factors.limits(options["FusedActivationFunction"], scale, zero_point)
    partial = set() if maximum else set(np.outer(*window.inside(image.height, image.width)).flat) - {count}
    result = _result(importer, operator, image.shape(image.channels, *size))
    importer.emit(
        Pool(
            name=result.tensor,
            input=image.tensor,
            output=result.tensor,
            window=image.window(window),
            partial={int(n): Factor(*factors.division(int(n), importer.mode)) for n in sorted(partial)},
            operation=Pooling.MAX if maximum else Pooling.AVERAGE,
            requantisation=factors.from_factors(
                [factors.division(count, importer.mode)] * image.channels, limits
            ),
            raw=not maximum,
        )
    )
    return result


def mean(importer: Importer, operator: FileOperator) -> Value:
    """MEAN over rows, columns or both."""
    image = image_of(importer, importer.settled(operator.inputs[0]))
    source, axes = (importer.file_tensor(number) for number in operator.inputs[:2])
    rank = len(source.shape)
    taken = set() if axes.data is None else {int(axis) % rank for axis in axes.data.reshape(-1)}
    places = {axis - rank for axis in taken}  # -3: rows, -2: columns
    if not places or not places <= {-3, -2} or -rank in places:
        reason = f"it averages over axes {sorted(taken)} of {rank}"
        raise UnsupportedError(reason, "average over height and width only")
    kernel = (image.height if -3 in places else 1, image.width if -2 in places else 1)
    scale, _ = quantisation(source)
    result_scale, _ = quantisation(importer.file_tensor(operator.outputs[0]))
    pair = factors.mean(float(scale) / float(result_scale), kernel[0] * kernel[1], importer.mode)
    window = Window(kernel)
    size = window.output_size(image.height, image.width)
    result = _result(importer, operator, image.shape(image.channels, *size))
    importer.emit(
        Pool(
            name=result.tensor,
            input=image.tensor,
            output=result.tensor,
            window=image.window(window),
            operation=Pooling.AVERAGE,
            requantisation=factors.from_factors([pair] * image.channels, _ALL),
        )
    )
    return result


def add(importer: Importer, operator: FileOperator) -> Value:
    """ADD of two activations of one shape."""
    if any(importer.file_tensor(number).data is not None for number in operator.inputs):
        raise UnsupportedError("it adds a constant", "fold the constant into a bias")
    one, other = (importer.settled(number) for number in operator.inputs)
    shape = importer.graph_tensor(one.tensor).shape
    if one.dims != other.dims or shape != importer.graph_tensor(other.tensor).shape:
        raise UnsupportedError(f"it adds {one.dims} and {other.dims}", "add tensors of one shape")
    scales = [quantisation(importer.file_tensor(number))[0] for number in operator.inputs]
    scale, zero_point = quantisation(importer.file_tensor(operator.outputs[0]))
    limits = factors.limits(operator.options["FusedActivationFunction"], scale, zero_point)
    first, second, after = factors.addition((scales[0], scales[1]), scale, limits, importer.mode)
    result = _result(importer, operator, shape)
    importer.emit(
        Add(
            name=result.tensor,
            input=one.tensor,
            other=other.tensor,
            output=result.tensor,
            first=first,
            second=second,
            requantisation=after,
        )
    )
    return result


def rescale(importer: Importer, operator: FileOperator) -> Value:
    """RELU, RELU6, RELU_N1_TO_1 and QUANTIZE: every element by its own, a 1 x 1 pooling."""
    source = importer.settled(operator.inputs[0])
    scale, zero_point = quantisation(importer.file_tensor(operator.inputs[0]))
    result_scale, result_zero_point = quantisation(importer.file_tensor(operator.outputs[0]))
    activation = getattr(tflite.ActivationFunctionType, operator.kind, tflite.ActivationFunctionType.NONE)
    limits = factors.limits(activation, result_scale, result_zero_point)
    if operator.kind in ("RELU6", "RELU_N1_TO_1") and (scale, zero_point) != (
        result_scale,
        result_zero_point,
    ):
        raise UnsupportedError("its input and output are quantised differently", _FILE)
    shape = importer.graph_tensor(source.tensor).shape
    result = _result(importer, operator, shape)
    reals = [float(scale) / float(result_scale)] * shape[0]
    requantisation = factors.requantisation(reals, limits, importer.mode)
    importer.emit(_each(source.tensor, result.tensor, Pooling.MAX, requantisation))
    return result


def pad(importer: Importer, operator: FileOperator) -> Value:
    """PAD and PADV2 with the zero point: left to the convolution behind it."""
    source = importer.value(operator.inputs[0])
    amounts = importer.file_tensor(operator.inputs[1]).data
    zero = quantisation(importer.file_tensor(operator.outputs[0]))
    if amounts is None or zero != quantisation(importer.file_tensor(operator.inputs[0])):
        raise UnsupportedError("its amounts are not constant, or its output is quantised differently", _FILE)
    if operator.has_input(2):
        filling = importer.file_tensor(operator.inputs[2]).data
        if filling is None or int(filling.reshape(-1)[0]) != zero[1]:
            raise UnsupportedError("it fills with another value than zero", "pad with zeros")
    image_of(importer, source)  # refuses what is none
    pairs = [(int(low), int(high)) for low, high in amounts.reshape(-1, 2)]
    if len(pairs) not in (3, 4) or any(pairs[0]) or any(pairs[-1]):
        raise UnsupportedError(f"it pads {pairs}", "pad height and width only")
    (top, bottom), (left, right) = [(0, 0), *pairs][-3:-1]
    before = source.padding
    total = (before[0] + top, before[1] + bottom, before[2] + left, before[3] + right)
    return replace(source, dims=importer.file_tensor(operator.outputs[0]).dims, padding=total)


def padding_layer(importer: Importer, number: int, value: Value) -> Value:
    """An operator that does nothing but pad."""
    image = image_of(importer, value)
    top, bottom, left, right = value.padding
    size = (image.height + top + bottom, image.width + left + right)
    result = importer.make(number, image.shape(image.channels, *size), value.dims)
    requantisation = Requantisation.identity(image.channels, importer.mode)
    layer = _each(value.tensor, result.tensor, Pooling.AVERAGE, requantisation)
    importer.emit(replace(layer, window=image.window(Window((1, 1), padding=value.padding))))
    return result


def reshape(importer: Importer, operator: FileOperator) -> Value:
    """RESHAPE, SQUEEZE and EXPAND_DIMS that leave every channel's pixels where they are."""
    source = importer.settled(operator.inputs[0])
    dims = importer.file_tensor(operator.outputs[0]).dims
    if source.tail is not None:
        return replace(source, dims=dims)
    if importer.reshaped_input(operator.inputs[0], dims):
        return Value(source.tensor, dims)
    channels, *size = importer.graph_tensor(source.tensor).shape
    flat = sum(n != 1 for n in dims) <= 1
    spatial = [n for n in dims[:-1] if n != 1] == [n for n in size if n != 1]
    if not flat and not (dims[-1] == channels and spatial):
        reason = f"{source.dims} becomes {dims}, which moves data between channels"
        raise UnsupportedError(reason, "reshape only the network's input, or flatten")
    return replace(source, dims=dims)


def host(importer: Importer, operator: FileOperator) -> Value:
    """SOFTMAX, LOGISTIC and ARG_MAX at the end: the host computes them."""
    if not importer.at_end(operator.outputs[0]):
        raise UnsupportedError("only at the end of the network can the host compute it", _OPERATORS)
    source = importer.settled(operator.inputs[0])
    if source.tail is not None:
        raise UnsupportedError(f"it follows {source.tail.operation}", "use one of them")
    result = importer.file_tensor(operator.outputs[0])
    operation = _TAILS[operator.kind]
    if operation is TailOperation.ARGMAX:
        axis = importer.file_tensor(operator.inputs[1]).data
        rank = len(importer.file_tensor(operator.inputs[0]).shape)
        if axis is None or int(axis.reshape(-1)[0]) % rank != rank - 1:
            raise UnsupportedError("it is not along the last axis", "take the maximum over the channels")
    given = importer.graph_tensor(source.tensor)
    scale, zero_point = quantisation(result) if result.type == "int8" else (0.0, 0)
    tail = HostTail(
        name=result.name,
        operation=operation,
        size=source.dims[-1],
        input_scale=given.scale,
        input_zero_point=given.zero_point,
        beta=float(operator.options.get("Beta", 1.0)),
        scale=float(scale),
        zero_point=zero_point,
    )
    return Value(source.tensor, result.dims, tail=tail)


def dequantize(importer: Importer, operator: FileOperator) -> Value:
    """DEQUANTIZE at the end: outputs are real numbers anyway."""
    if not importer.at_end(operator.outputs[0]):
        raise UnsupportedError("what follows would be computed in floating point", CONVERT)
    return importer.settled(operator.inputs[0])


# ---- what handlers share -----------------------------------------------------------------------------------


def _padded(options: dict[str, int], window: Window, image: Image) -> Window:
    """The window with its own padding and what a PAD has left."""
    if min(*window.kernel, *window.stride, *window.dilation) < 1:
        raise UnsupportedError(f"impossible kernel {window.kernel} or stride {window.stride}", _FILE)
    top, bottom, left, right = image.padding
    own = NO_PADDING
    if options["Padding"] == tflite.Padding.SAME:
        own = same_padding(window, image.height + top + bottom, image.width + left + right)
    return replace(window, padding=(top + own[0], bottom + own[1], left + own[2], right + own[3]))


def _output_size(
    importer: Importer, operator: FileOperator, window: Window, image: Image, channels: int
) -> tuple[int, int]:
    """Rows and columns, which must be the file's."""
    size = window.output_size(image.height, image.width)
    dims = importer.file_tensor(operator.outputs[0]).dims
    if dims != (*size, channels) or min(size) < 1:
        raise UnsupportedError(f"its output has shape {dims} instead of {(*size, channels)}", _FILE)
    return size


def _weight(importer: Importer, operator: FileOperator, rank: int) -> NDArray[np.int8]:
    tensor = importer.file_tensor(operator.inputs[1])
    if tensor.type != "int8":
        raise UnsupportedError(f"its weights are {tensor.type}, not int8", CONVERT)
    if tensor.data is None or len(tensor.shape) != rank:
        raise UnsupportedError("its weights are not constant", "store them in the model")
    if not len(tensor.scales) or not (tensor.scales > 0).all() or tensor.zero_points.any():
        raise UnsupportedError("its weights have no positive scales with zero point 0", CONVERT)
    return tensor.data


def _bias(importer: Importer, operator: FileOperator, filters: int) -> NDArray[np.int64]:
    if not operator.has_input(2):
        return np.zeros(filters, np.int64)
    tensor = importer.file_tensor(operator.inputs[2])
    if tensor.data is None or tensor.type != "int32" or tensor.shape != (filters,):
        raise UnsupportedError(f"its bias is not {filters} constants in int32", CONVERT)
    return tensor.data.astype(np.int64)


def _weighted(importer: Importer, operator: FileOperator, filters: int) -> Requantisation:
    """From accumulators of products: with one scale for all weights or one per filter."""
    weight = importer.file_tensor(operator.inputs[1])
    scale, _ = quantisation(importer.file_tensor(operator.inputs[0]))
    result_scale, zero_point = quantisation(importer.file_tensor(operator.outputs[0]))
    if len(weight.scales) not in (1, filters):
        raise UnsupportedError(f"{len(weight.scales)} weight scales for {filters} filters", _FILE)
    reals = [float(scale) * float(one) / float(result_scale) for one in weight.scales]
    if len(reals) == 1:
        reals *= filters
    limits = factors.limits(operator.options["FusedActivationFunction"], result_scale, zero_point)
    return factors.requantisation(reals, limits, importer.mode)


def _result(importer: Importer, operator: FileOperator, shape: tuple[int, int, int]) -> Value:
    return importer.make(operator.outputs[0], shape, importer.file_tensor(operator.outputs[0]).dims)


def _each(source: str, result: str, operation: Pooling, requantisation: Requantisation) -> Pool:
    """A pooling over single elements."""
    return Pool(
        name=result,
        input=source,
        output=result,
        window=Window((1, 1)),
        operation=operation,
        requantisation=requantisation,
    )


_FILE = "convert the network again"
_TAILS = {
    "SOFTMAX": TailOperation.SOFTMAX,
    "LOGISTIC": TailOperation.LOGISTIC,
    "ARG_MAX": TailOperation.ARGMAX,
}
HANDLERS: dict[str, Handler] = {
    "CONV_2D": convolution,
    "DEPTHWISE_CONV_2D": depthwise,
    "FULLY_CONNECTED": fully_connected,
    "AVERAGE_POOL_2D": pool,
    "MAX_POOL_2D": pool,
    "MEAN": mean,
    "ADD": add,
    "PAD": pad,
    "PADV2": pad,
    "RELU": rescale,
    "RELU6": rescale,
    "RELU_N1_TO_1": rescale,
    "QUANTIZE": rescale,
    "DEQUANTIZE": dequantize,
    "RESHAPE": reshape,
    "SQUEEZE": reshape,
    "EXPAND_DIMS": reshape,
    **dict.fromkeys(_TAILS, host),
}
_OPERATORS = f"build the network of {', '.join(name for name in HANDLERS if name not in _TAILS)}"
UNKNOWN = ("this operator is not supported", _OPERATORS)
