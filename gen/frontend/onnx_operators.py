"""What becomes of each ONNX operator; a new one is a function here and a line in `HANDLERS`."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from popshift.gen.frontend import onnx_quantisers
from popshift.gen.frontend.findings import UnsupportedError
from popshift.gen.frontend.float_graph import FloatAdd, FloatConvolution, FloatPool, Step
from popshift.gen.frontend.onnx_node import Importer, Node
from popshift.gen.frontend.operands import Value
from popshift.gen.frontend.raw import BatchNorm, Clamp
from popshift.gen.frontend.window_padding import NO_PADDING, Padding, ceiled, same_padding
from popshift.gen.graph import Pooling, Window

UNKNOWN = ("popshift does not know this operator", "replace it, or end the network before it")


# ---- layers ------------------------------------------------------------------------------------------------


def convolution(importer: Importer, node: Node) -> Value:
    """Conv on images and sequences."""
    value, weight = node.activation(), node.constant(1, "weight")
    rank = weight.ndim - 1
    if rank not in (2, 3) or len(value.dims) != rank:
        raise UnsupportedError(f"its input has shape {value.dims}", "give it an image or a sequence")
    bias = node.constant(2, "bias") if len(node.inputs) > 2 else np.zeros(len(weight), np.float64)
    weight = weight[:, :, None, :] if rank == 2 else weight
    window = _window(node, rank, weight.shape[2:], importer.shape(value.tensor))
    groups, step = node.attributes.get("group", 1), _step(node, 0, len(weight))
    return _layer(importer, node, value, window, weight, bias, step, groups=groups)


def product(importer: Importer, node: Node) -> Value:
    """MatMul of a vector and a constant matrix (in features, out features)."""
    value, matrix = node.activation(), node.constant(1, "matrix")
    outputs = matrix.shape[-1]
    step = _step(node, matrix.ndim - 1, outputs)
    return _fully_connected(importer, node, value, matrix.T, np.zeros(outputs, np.float64), step)


def gemm(importer: Importer, node: Node) -> Value:
    """``alpha x W + beta b``, W transposed or not."""
    value, matrix = node.activation(), node.constant(1, "matrix")
    if node.attributes.get("transA"):
        raise UnsupportedError("it transposes its input", "transpose the weight")
    matrix = matrix if node.attributes.get("transB") else matrix.T
    bias = np.zeros(len(matrix), np.float64)
    alpha, beta = (np.float64(node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = bias + beta * node.constant(2, "bias").reshape(-1)
    step = _step(node, 0 if node.attributes.get("transB") else 1, len(matrix))
    step = None if step is None or not alpha else abs(alpha) * step
    return _fully_connected(importer, node, value, alpha * matrix, bias, step)


def _step(node: Node, axis: int, outputs: int) -> NDArray[np.float64] | None:
    """For each output, what its weights are whole multiples of; `axis`: of the weight, along the outputs."""
    step = node.step
    if step is None or (step.size > 1 and (step.ndim <= axis or step.shape[axis] != step.size)):
        return None
    return np.broadcast_to(step.reshape(-1), outputs).copy()


def _fully_connected(
    importer: Importer,
    node: Node,
    value: Value,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    step: NDArray[np.float64] | None,
) -> Value:
    shape = importer.shape(value.tensor)
    if len(value.dims) != 1 or weight.ndim != 2 or weight.shape[1] != math.prod(shape):
        raise UnsupportedError(
            f"it multiplies {value.dims} by a matrix {weight.shape[::-1]}", "give it one vector per sample"
        )
    window = Window((shape[1], shape[2]))
    return _layer(importer, node, value, window, weight.reshape(-1, *shape), bias, step, vector=True)


def _layer(
    importer: Importer,
    node: Node,
    value: Value,
    window: Window,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    step: NDArray[np.float64] | None,
    *,
    groups: int = 1,
    vector: bool = False,
) -> Value:
    channels, height, width = importer.shape(value.tensor)
    if weight.shape[1] * groups != channels:
        raise UnsupportedError(
            f"its weight has {weight.shape[1] * groups} input channels, not {channels}", "export again"
        )
    size = window.output_size(height, width)
    operator = FloatConvolution(
        name=node.name,
        input=value.tensor,
        output=node.name,
        window=window,
        weight=weight,
        bias=bias.reshape(-1),
        groups=groups,
        step=step,
    )
    importer.emit(operator, (len(weight), *size))
    dims = (len(weight), *size) if len(value.dims) == 3 else (len(weight), size[1])
    return Value(node.name, (len(weight),) if vector else dims)


def _window(node: Node, rank: int, kernel: Sequence[int], shape: Sequence[int]) -> Window:
    """For an input (channels, height, width)."""

    def pair(values: Sequence[int] | None, default: int) -> tuple[int, int]:
        numbers = list(values) if values else [default] * (rank - 1)
        return (1, numbers[0]) if rank == 2 else (numbers[0], numbers[1])

    stride = pair(node.attributes.get("strides"), 1)
    dilation = pair(node.attributes.get("dilations"), 1)
    where = node.attributes.get("auto_pad", b"NOTSET").decode()
    padding: Padding = NO_PADDING
    if where.startswith("SAME"):
        window = Window((kernel[0], kernel[1]), stride, dilation=dilation)
        padding = same_padding(window, *shape[1:])
        if where == "SAME_LOWER":
            padding = (padding[1], padding[0], padding[3], padding[2])
    elif where == "NOTSET" and (pads := node.attributes.get("pads")):
        before, after = pads[: rank - 1], pads[rank - 1 :]
        padding = (0, 0, before[0], after[0]) if rank == 2 else (before[0], after[0], before[1], after[1])
    if min(padding) < 0:
        raise UnsupportedError("its padding is negative", "crop in front of the network")
    return Window((kernel[0], kernel[1]), stride, padding, dilation)


def pool(operation: Pooling) -> Callable[[Importer, Node], Value]:
    """MaxPool, AveragePool."""

    def handle(importer: Importer, node: Node) -> Value:
        value, kernel = node.activation(), tuple(node.attributes["kernel_shape"])
        rank = len(kernel) + 1
        if len(value.dims) != rank:
            raise UnsupportedError(f"its input has shape {value.dims}", "give it an image or a sequence")
        shape = importer.shape(value.tensor)
        own = window = _window(node, rank, (1, *kernel) if rank == 2 else kernel, shape)
        if node.attributes.get("ceil_mode"):
            window = ceiled(window, *shape[1:])
        if not all(along.all() for along in window.inside(*shape[1:])):
            raise UnsupportedError("a window has nothing but padding", "pad by less than the kernel")
        average = operation is Pooling.AVERAGE
        if average and window.dilation != (1, 1):
            raise UnsupportedError(f"it averages with dilations {window.dilation}", "use dilations of 1")
        pads_count = bool(node.attributes.get("count_include_pad")) and own.padding != NO_PADDING
        if average and pads_count and window != own:
            remedy = "set count_include_pad to 0"
            raise UnsupportedError("ceil_mode = 1 divides the last windows by fewer pixels", remedy)
        inside = average and window.padding != NO_PADDING and not pads_count
        return _pooled(importer, node, value, window, operation, inside=inside)

    return handle


def global_pool(operation: Pooling) -> Callable[[Importer, Node], Value]:
    """GlobalAveragePool, GlobalMaxPool."""

    def handle(importer: Importer, node: Node) -> Value:
        value = node.activation()
        _, height, width = importer.shape(value.tensor)
        return _pooled(importer, node, value, Window((height, width)), operation)

    return handle


def _pooled(
    importer: Importer,
    node: Node,
    value: Value,
    window: Window,
    operation: Pooling,
    *,
    inside: bool = False,
) -> Value:
    channels, height, width = importer.shape(value.tensor)
    size = window.output_size(height, width)
    operator = FloatPool(
        name=node.name,
        input=value.tensor,
        output=node.name,
        window=window,
        operation=operation,
        divisor=1 if operation is Pooling.MAX else math.prod(window.kernel),
        inside=inside,
    )
    importer.emit(operator, (channels, *size))
    return Value(node.name, (channels, *size) if len(value.dims) == 3 else (channels, size[1]))


# ---- element by element ------------------------------------------------------------------------------------


def batch_norm(importer: Importer, node: Node) -> Value:
    """BatchNormalization with stored statistics."""
    value = node.activation()
    weight, bias, mean, variance = (
        node.constant(index, name)
        for index, name in enumerate(("scale", "bias", "mean", "variance"), start=1)
    )
    eps = float(node.attributes.get("epsilon", 1e-5))
    means, variances, weights, biases = (torch.from_numpy(a.copy()) for a in (mean, variance, weight, bias))
    factor = weight / np.sqrt(variance + eps)
    offset = bias - mean * factor

    def step(x: torch.Tensor) -> torch.Tensor:
        average, spread, scale, shift = (p.to(x.dtype) for p in (means, variances, weights, biases))
        return functional.batch_norm(x, average, spread, scale, shift, eps=eps)

    return _normalised(importer, node, value, factor, offset, step)


def arithmetic(importer: Importer, node: Node) -> Value:
    """Add, Sub, Mul, Div of activations and a constant: one number, or one for each channel."""
    first = isinstance(node.inputs[0], Value)
    if first and isinstance(node.inputs[1], Value):
        return _sum(importer, node, node.inputs[0], node.inputs[1])
    value, constant = node.activation(0 if first else 1), node.constant(1 if first else 0, "constant")
    numbers = _per_channel(importer, value, constant)
    if node.operator == "Div" and (not first or not numbers.all()):
        raise UnsupportedError("it divides by activations or by zero", "multiply by constants")
    ones, real = np.ones_like(numbers), numbers
    factor, offset = {
        "Add": (ones, real),
        "Sub": (ones, -real) if first else (-ones, real),
        "Mul": (real, 0 * real),
        "Div": (1 / np.where(real == 0, 1, real), 0 * real),
    }[node.operator]
    tensor = torch.from_numpy(numbers)[:, None, None]
    compute: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "Add": torch.add,
        "Sub": torch.sub if first else lambda x, own: own - x,
        "Mul": torch.mul,
        "Div": torch.div,
    }

    def step(x: torch.Tensor) -> torch.Tensor:
        return compute[node.operator](x, tensor.to(x.dtype))

    return _normalised(importer, node, value, factor, offset, step)


def _sum(importer: Importer, node: Node, one: Value, other: Value) -> Value:
    if node.operator != "Add":
        remedy = "of two activations only sums are supported"
        raise UnsupportedError("it combines two activations", remedy)
    shape = importer.shape(one.tensor)
    if one.dims != other.dims or shape != importer.shape(other.tensor):
        remedy = "give both tensors one shape"
        raise UnsupportedError(f"it adds tensors of the shapes {one.dims} and {other.dims}", remedy)
    importer.emit(FloatAdd(name=node.name, input=one.tensor, other=other.tensor, output=node.name), shape)
    return Value(node.name, one.dims)


def _per_channel(importer: Importer, value: Value, constant: NDArray[np.float64]) -> NDArray[np.float64]:
    channels = importer.shape(value.tensor)[0]
    shape = constant.shape
    if constant.size == 1:
        return np.full(channels, constant.reshape(-1)[0], np.float64)
    while len(shape) > len(value.dims) and shape[0] == 1:
        shape = shape[1:]
    along = len(shape) == len(value.dims) and shape[0] == channels
    if not along or constant.size != channels or value.dims[0] != channels:
        raise UnsupportedError(
            f"its constant has shape {constant.shape}", "use one number, or one for each channel"
        )
    return constant.reshape(-1)


def _normalised(
    importer: Importer,
    node: Node,
    value: Value,
    factor: NDArray[np.float64],
    offset: NDArray[np.float64],
    step: Step,
) -> Value:
    if value.dims[0] != importer.shape(value.tensor)[0] and len(set(zip(factor, offset, strict=True))) > 1:
        raise UnsupportedError("it works on a flattened image", "move it in front of the flattening")
    operator = BatchNorm(
        name=node.name, input=value.tensor, output=node.name, factor=factor, offset=offset, step=step
    )
    importer.emit(operator, importer.shape(value.tensor))
    return Value(node.name, value.dims)


def clamp(importer: Importer, node: Node) -> Value:
    """Relu, Clip."""
    value = node.activation()
    low, high = (0.0, math.inf) if node.operator == "Relu" else (-math.inf, math.inf)
    if node.operator == "Clip":
        limits = [node.attributes.get("min"), node.attributes.get("max")]
        for index in (1, 2):
            if len(node.inputs) > index and node.inputs[index] is not None:
                limits[index - 1] = float(node.constant(index, "limit").reshape(-1)[0])
        pairs = zip(limits, (low, high), strict=True)
        low, high = (default if limit is None else limit for limit, default in pairs)
    operator = Clamp(name=node.name, input=value.tensor, output=node.name, low=low, high=high)
    importer.emit(operator, importer.shape(value.tensor))
    return Value(node.name, value.dims)


def reshaped(importer: Importer, node: Node) -> Value:
    """Flatten, Reshape, Squeeze, Unsqueeze: to one vector, or to what changes no channel."""
    value = node.activation()
    size = math.prod(value.dims)
    if node.operator == "Reshape":
        wanted = [int(number) for number in np.asarray(node.inputs[1]).reshape(-1)]
        dims = tuple(size if number == -1 and len(wanted) == 2 else number for number in wanted[1:])
        dims = tuple(value.dims[i] if number == 0 else number for i, number in enumerate(dims))
        if -1 in dims:
            known = -math.prod(dims)
            dims = tuple(size // known if number == -1 else number for number in dims)
    elif node.operator == "Flatten":
        dims = (size,)
    elif node.operator == "Squeeze":
        dims = (value.dims[0], *(number for number in value.dims[1:] if number != 1))
    else:
        dims = value.dims
    if math.prod(dims) != size:
        raise UnsupportedError("it merges the batch with other dimensions", "keep the batch in front")
    return importer.as_vector(value) if dims == (size,) else Value(value.tensor, dims)


def unchanged(importer: Importer, node: Node) -> Value:
    """Identity, Dropout in inference, Cast between floats."""
    return node.activation()


def left_to_host(importer: Importer, node: Node) -> Value:
    """Softmax at the end."""
    if not node.last:
        remedy = "remove it, or end the network before it"
        raise UnsupportedError("the network goes on behind it; it runs on the host only", remedy)
    importer.notes.append(
        f"{node.operator} ({node.name}) is left to the host: it does not change which output is largest"
    )
    return node.activation()


HANDLERS: dict[str, Callable[[Importer, Node], Value]] = {
    "BipolarQuant": onnx_quantisers.sign,
    "Quant": onnx_quantisers.quantiser,
    "QuantizeLinear": onnx_quantisers.quantise_linear,
    "DequantizeLinear": onnx_quantisers.dequantise_linear,
    "Conv": convolution,
    "MatMul": product,
    "Gemm": gemm,
    "MaxPool": pool(Pooling.MAX),
    "AveragePool": pool(Pooling.AVERAGE),
    "GlobalMaxPool": global_pool(Pooling.MAX),
    "GlobalAveragePool": global_pool(Pooling.AVERAGE),
    "BatchNormalization": batch_norm,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), arithmetic),
    **dict.fromkeys(("Relu", "Clip"), clamp),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), reshaped),
    **dict.fromkeys(("Identity", "Dropout"), unchanged),
    **dict.fromkeys(("Softmax", "LogSoftmax"), left_to_host),
}
