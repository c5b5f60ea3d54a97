"""TensorFlow Lite models made here: a writer of the file format, and random networks of a few operators.

``python -m tests.tflite_models`` prints what TensorFlow Lite for Microcontrollers makes of them, for `TFLM`
in tests/gen/test_tflite.py; it runs in an environment of its own with ``pip install --pre tflite-micro
tflite``.
"""

import zlib
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite

TYPES = {
    np.dtype(np.int8): tflite.TensorType.INT8,
    np.dtype(np.uint8): tflite.TensorType.UINT8,
    np.dtype(np.int16): tflite.TensorType.INT16,
    np.dtype(np.int32): tflite.TensorType.INT32,
    np.dtype(np.int64): tflite.TensorType.INT64,
    np.dtype(np.float32): tflite.TensorType.FLOAT32,
}
DEPTHWISE = "DepthwiseConv2DOptions"
POOL = "Pool2DOptions"


@dataclass
class Writer:
    """A model of one subgraph; `tensor` and `operator` add to it, `to_bytes` is the file."""

    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    tensors: list[dict[str, Any]] = field(default_factory=list)
    operators: list[tuple[int, list[int], list[int], str, dict[str, int]]] = field(default_factory=list)

    def tensor(self, shape, scale=None, zero_point=0, *, data=None, dtype=np.int8, axis=0, signature=None):
        """Its index; constants have `data`."""
        dtype = np.dtype(dtype if data is None else data.dtype)
        scales = None if scale is None else np.atleast_1d(np.asarray(scale, np.float32))
        self.tensors.append(
            {"shape": shape, "scales": scales, "zero_point": zero_point, "data": data}
            | {"dtype": dtype, "axis": axis, "signature": signature}
        )
        return len(self.tensors) - 1

    def operator(self, kind: str, inputs: list[int], outputs: list[int], options: str = "", **fields: int):
        code = getattr(tflite.BuiltinOperator, kind)
        self.operators.append((code, inputs, outputs, options, fields))
        return outputs[0]

    def to_bytes(self) -> bytes:
        b = flatbuffers.Builder(1024)
        codes = sorted({operator[0] for operator in self.operators})
        buffers = [_table(b, "Buffer")]
        buffers += [_buffer(b, tensor["data"]) for tensor in self.tensors if tensor["data"] is not None]
        tensors, number = [], 1
        for index, tensor in enumerate(self.tensors):
            constant = tensor["data"] is not None
            tensors.append(_tensor(b, f"t{index}", tensor, number if constant else 0))
            number += constant
        operators = [_operator(b, codes.index(code), *rest) for code, *rest in self.operators]
        parts = {
            "Tensors": _offsets(b, tensors),
            "Inputs": b.CreateNumpyVector(np.array(self.inputs, np.int32)),
            "Outputs": b.CreateNumpyVector(np.array(self.outputs, np.int32)),
            "Operators": _offsets(b, operators),
        }
        subgraphs = _offsets(b, [_table(b, "SubGraph", **parts)])
        versions = [
            _table(b, "OperatorCode", DeprecatedBuiltinCode=min(code, 127), Version=1, BuiltinCode=code)
            for code in codes
        ]
        operator_codes, buffer_vector = _offsets(b, versions), _offsets(b, buffers)
        fields = {"OperatorCodes": operator_codes, "Subgraphs": subgraphs, "Buffers": buffer_vector}
        b.Finish(_table(b, "Model", Version=3, **fields), b"TFL3")
        return bytes(b.Output())


def _table(b, kind: str, **fields: int) -> int:
    getattr(tflite, f"{kind}Start")(b)
    for name, value in fields.items():
        getattr(tflite, f"{kind}Add{name}")(b, value)
    return getattr(tflite, f"{kind}End")(b)


def _offsets(b, items: list[int]) -> int:
    b.StartVector(4, len(items), 4)
    for item in reversed(items):
        b.PrependUOffsetTRelative(item)
    return b.EndVector()


def _buffer(b, data: np.ndarray) -> int:
    raw = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
    b.StartVector(1, len(raw), 16)
    b.head = b.head - len(raw)
    b.Bytes[b.head : b.head + len(raw)] = raw.tobytes()
    return _table(b, "Buffer", Data=b.EndVector())


def _tensor(b, name: str, tensor: dict[str, Any], buffer: int) -> int:
    fields = {"Name": b.CreateString(name), "Shape": b.CreateNumpyVector(np.array(tensor["shape"], np.int32))}
    if tensor["signature"] is not None:
        fields["ShapeSignature"] = b.CreateNumpyVector(np.array(tensor["signature"], np.int32))
    if tensor["scales"] is not None:
        zero_points = np.full(len(tensor["scales"]), tensor["zero_point"], np.int64)
        scale, zero_point = b.CreateNumpyVector(tensor["scales"]), b.CreateNumpyVector(zero_points)
        parts = {"Scale": scale, "ZeroPoint": zero_point, "QuantizedDimension": tensor["axis"]}
        fields["Quantization"] = _table(b, "QuantizationParameters", **parts)
    return _table(b, "Tensor", Type=TYPES[tensor["dtype"]], Buffer=buffer, **fields)


def _operator(b, code: int, inputs: list[int], outputs: list[int], options: str, fields: dict) -> int:
    parts = {
        "Inputs": b.CreateNumpyVector(np.array(inputs, np.int32)),
        "Outputs": b.CreateNumpyVector(np.array(outputs, np.int32)),
    }
    if options:
        parts["BuiltinOptions"] = _table(b, options, **fields)
        parts["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, options)
    return _table(b, "Operator", OpcodeIndex=code, **parts)


# ---- random networks ---------------------------------------------------------------------------------------


def image(writer: Writer, rng: np.random.Generator, channels: int | None = None, size: int = 9) -> int:
    """An input of random size and quantisation."""
    channels = channels or int(rng.integers(1, 7))
    shape = (1, int(rng.integers(3, size)), int(rng.integers(3, size)), channels)
    writer.inputs.append(writer.tensor(shape, *quantisation(rng)))
    return writer.inputs[-1]


def quantisation(rng: np.random.Generator) -> tuple[float, int]:
    zero_point = int(rng.choice([-128, 127, 0, int(rng.integers(-128, 128))]))
    return float(np.float32(rng.uniform(0.005, 0.2))), zero_point


def activation(rng: np.random.Generator) -> int:
    """NONE, RELU, RELU_N1_TO_1 or RELU6."""
    return int(rng.integers(0, 4))


def constant(writer: Writer, values: Any) -> int:
    values = np.asarray(values, np.int32)
    return writer.tensor(values.shape, data=values)


def weights(writer: Writer, rng, shape: tuple[int, ...], axis: int, per_channel: bool, terms: int) -> tuple:
    """Index of random weights, and their scales (one, or one for each channel of `axis`)."""
    scale = np.float32(rng.uniform(0.2, 1.5, shape[axis] if per_channel else 1) / (60 * terms**0.5))
    data = rng.integers(-127, 128, shape).astype(np.int8)
    return writer.tensor(shape, scale, data=data, axis=axis), scale


def layer_end(writer: Writer, rng, scale, channels: int, source: int) -> list[int]:
    """The bias of a layer, if it has one."""
    if rng.random() < 0.2:
        return []
    product = np.float32(writer.tensors[source]["scales"][0]) * scale
    data = rng.integers(-3000, 3000, channels).astype(np.int32)
    return [writer.tensor((channels,), product, data=data)]


def window(rng, shape: tuple[int, ...], kernel: tuple[int, int], same: bool, dilates: bool) -> tuple:
    """(output rows and columns, fields of the options)."""
    dilation = (1, 1)
    if dilates and rng.random() < 0.3:
        dilation = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        if not same and any(d * (k - 1) >= n for d, k, n in zip(dilation, kernel, shape[1:3], strict=True)):
            dilation = (1, 1)
    stride = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    out = []
    for n, k, s, d in zip(shape[1:3], kernel, stride, dilation, strict=True):
        out.append(-(-n // s) if same else (n - d * (k - 1) - 1) // s + 1)
    fields = {"Padding": 0 if same else 1, "StrideH": stride[0], "StrideW": stride[1]}
    if dilates:
        fields |= {"DilationHFactor": dilation[0], "DilationWFactor": dilation[1]}
    return tuple(out), fields


def kernel_in(rng, shape: tuple[int, ...]) -> tuple[int, int]:
    return int(rng.integers(1, min(5, shape[1] + 1))), int(rng.integers(1, min(5, shape[2] + 1)))


def convolution(writer: Writer, rng: np.random.Generator, source: int) -> int:
    shape = writer.tensors[source]["shape"]
    same, kernel, channels = rng.random() < 0.5, kernel_in(rng, shape), int(rng.integers(1, 9))
    size, fields = window(rng, shape, kernel, same, True)
    terms = kernel[0] * kernel[1] * shape[3]
    weight, scale = weights(writer, rng, (channels, *kernel, shape[3]), 0, rng.random() < 0.6, terms)
    bias = layer_end(writer, rng, scale, channels, source)
    result = writer.tensor((1, *size, channels), *quantisation(rng))
    fields["FusedActivationFunction"] = activation(rng)
    return writer.operator("CONV_2D", [source, weight, *bias], [result], "Conv2DOptions", **fields)


def depthwise(writer: Writer, rng: np.random.Generator, source: int) -> int:
    shape = writer.tensors[source]["shape"]
    same, kernel, factor = rng.random() < 0.5, kernel_in(rng, shape), int(rng.integers(1, 4))
    size, fields = window(rng, shape, kernel, same, True)
    channels = shape[3] * factor
    weight, scale = weights(writer, rng, (1, *kernel, channels), 3, rng.random() < 0.6, kernel[0] * kernel[1])
    bias = layer_end(writer, rng, scale, channels, source)
    result = writer.tensor((1, *size, channels), *quantisation(rng))
    fields |= {"FusedActivationFunction": activation(rng), "DepthMultiplier": factor}
    return writer.operator("DEPTHWISE_CONV_2D", [source, weight, *bias], [result], DEPTHWISE, **fields)


def fully_connected(writer: Writer, rng: np.random.Generator, source: int) -> int:
    """Behind a RESHAPE, if it is an image."""
    shape = writer.tensors[source]["shape"]
    size = int(np.prod(shape))
    if len(shape) > 2:
        kind = writer.tensors[source]
        flat = writer.tensor((1, size), kind["scales"], kind["zero_point"])
        source = writer.operator("RESHAPE", [source, constant(writer, [-1, size])], [flat])
    channels = int(rng.integers(1, 20))
    weight, scale = weights(writer, rng, (channels, size), 0, rng.random() < 0.3, size)
    bias = layer_end(writer, rng, scale, channels, source)
    result = writer.tensor((1, channels), *quantisation(rng))
    fields = {"FusedActivationFunction": activation(rng)}
    return writer.operator(
        "FULLY_CONNECTED", [source, weight, *(bias or [-1])], [result], "FullyConnectedOptions", **fields
    )


def pool(writer: Writer, rng: np.random.Generator, source: int) -> int:
    """MAX_POOL_2D with any padding, AVERAGE_POOL_2D with none."""
    shape, maximum = writer.tensors[source]["shape"], rng.random() < 0.5
    kernel = kernel_in(rng, shape) if rng.random() < 0.8 else tuple(shape[1:3])
    return _pooled(writer, rng, source, kernel, maximum, maximum and rng.random() < 0.5)


def average(writer: Writer, rng: np.random.Generator, source: int) -> int:
    """AVERAGE_POOL_2D whose windows reach beyond the image: each divides by the pixels it has."""
    kernel = tuple(int(size) for size in rng.integers(2, 6, 2))
    return _pooled(writer, rng, source, kernel, False, True)


def _pooled(writer: Writer, rng, source: int, kernel: tuple[int, ...], maximum: bool, same: bool) -> int:
    tensor = writer.tensors[source]
    shape = tensor["shape"]
    size, fields = window(rng, shape, kernel, same, False)
    fields |= {"FilterHeight": kernel[0], "FilterWidth": kernel[1]}
    fields["FusedActivationFunction"] = activation(rng)
    result = writer.tensor((1, *size, shape[3]), tensor["scales"], tensor["zero_point"])
    return writer.operator(
        "MAX_POOL_2D" if maximum else "AVERAGE_POOL_2D", [source], [result], POOL, **fields
    )


def mean(writer: Writer, rng: np.random.Generator, source: int) -> int:
    tensor = writer.tensors[source]
    keep = bool(rng.random() < 0.5)
    shape = (1, 1, 1, tensor["shape"][3]) if keep else (1, tensor["shape"][3])
    low, _ = quantisation(rng)
    scale = np.float32(tensor["scales"][0] * (0.5 + 5 * low))
    result = writer.tensor(shape, scale, quantisation(rng)[1])
    axes = constant(writer, [1, 2])
    return writer.operator("MEAN", [source, axes], [result], "ReducerOptions", KeepDims=int(keep))


def add(writer: Writer, rng: np.random.Generator, source: int) -> int:
    """The sum of two convolutions of `source`."""
    shape = writer.tensors[source]["shape"]
    ends = []
    for _ in range(2):
        weight, scale = weights(writer, rng, (shape[3], 1, 1, shape[3]), 0, True, shape[3])
        bias = layer_end(writer, rng, scale, shape[3], source)
        ends.append(writer.tensor(shape, *quantisation(rng)))
        fields = {"Padding": 0, "StrideH": 1, "StrideW": 1}
        writer.operator("CONV_2D", [source, weight, *bias], [ends[-1]], "Conv2DOptions", **fields)
    result = writer.tensor(shape, *quantisation(rng))
    return writer.operator("ADD", ends, [result], "AddOptions", FusedActivationFunction=activation(rng))


def padded(writer: Writer, rng: np.random.Generator, source: int) -> int:
    """A PAD, with something behind it that can take it in, or not."""
    tensor = writer.tensors[source]
    amounts = rng.integers(0, 3, (4, 2))
    amounts[0] = amounts[3] = 0
    shape = tuple(int(n + sum(a)) for n, a in zip(tensor["shape"], amounts, strict=True))
    result = writer.tensor(shape, tensor["scales"], tensor["zero_point"])
    end = writer.operator("PAD", [source, constant(writer, amounts)], [result], "PadOptions")
    return [convolution, depthwise, pool][int(rng.integers(0, 3))](writer, rng, end)


def relu(writer: Writer, rng: np.random.Generator, source: int) -> int:
    tensor = writer.tensors[source]
    kind = str(rng.choice(["RELU", "RELU6", "QUANTIZE"]))
    scale, zero_point = tensor["scales"], tensor["zero_point"]
    if kind != "RELU6":
        scale, zero_point = quantisation(rng)
    return writer.operator(kind, [source], [writer.tensor(tensor["shape"], scale, zero_point)])


def softmax(writer: Writer, rng: np.random.Generator, source: int) -> int:
    end = fully_connected(writer, rng, source)
    result = writer.tensor(writer.tensors[end]["shape"], 1 / 256, -128)
    return writer.operator("SOFTMAX", [end], [result], "SoftmaxOptions", Beta=1.0)


def network(writer: Writer, rng: np.random.Generator, source: int) -> int:
    """Some layers one behind the other, fully connected and softmax at the end."""
    for layer in rng.choice(
        np.array([convolution, depthwise, pool, padded, add, relu]), int(rng.integers(2, 5))
    ):
        source = layer(writer, rng, source)
    if rng.random() < 0.3:
        source = mean(writer, rng, source)
    return softmax(writer, rng, source)


def viewed(writer: Writer, source: int, shape: tuple[int, ...]) -> int:
    """`source` in another shape."""
    tensor = writer.tensors[source]
    result = writer.tensor(shape, tensor["scales"], tensor["zero_point"])
    return writer.operator("RESHAPE", [source, constant(writer, shape)], [result])


def sequence(writer: Writer, rng: np.random.Generator, source: int) -> int:
    """Convolutions over N x 1 and 1 x N in turn, as if that were the same, on an input that is a vector."""
    size, channels = int(rng.integers(4, 12)), int(rng.integers(1, 5))
    writer.inputs = [writer.tensor((1, size * channels), *quantisation(rng))]
    source = viewed(writer, writer.inputs[0], (1, size, 1, channels))
    for _ in range(int(rng.integers(1, 4))):
        source = [convolution, depthwise, padded][int(rng.integers(0, 3))](writer, rng, source)
        _, height, width, channels = writer.tensors[source]["shape"]
        if min(height, width) == 1:
            source = viewed(writer, source, (1, height * width, channels))
            turned = (1, width, height, channels) if rng.random() < 0.7 else (1, height, width, channels)
            source = viewed(writer, source, turned)
    if rng.random() < 0.5:
        return fully_connected(writer, rng, source)
    return mean(writer, rng, source)


def pixelwise(writer: Writer, rng: np.random.Generator, source: int) -> int:
    """A grouped CONV_2D, and a FULLY_CONNECTED of every pixel."""
    _, height, width, channels = writer.tensors[source]["shape"]
    groups = int(rng.choice([n for n in range(1, channels + 1) if channels % n == 0]))
    filters = groups * int(rng.integers(1, 4))
    weight, scale = weights(writer, rng, (filters, 1, 1, channels // groups), 0, True, channels)
    bias = layer_end(writer, rng, scale, filters, source)
    middle = writer.tensor((1, height, width, filters), *quantisation(rng))
    fields = {"Padding": 0, "StrideH": 1, "StrideW": 1}
    writer.operator("CONV_2D", [source, weight, *bias], [middle], "Conv2DOptions", **fields)
    weight, scale = weights(writer, rng, (5, filters), 0, False, filters)
    bias = layer_end(writer, rng, scale, 5, middle)
    result = writer.tensor((1, height, width, 5), *quantisation(rng))
    return writer.operator(
        "FULLY_CONNECTED", [middle, weight, *(bias or [-1])], [result], "FullyConnectedOptions", KeepNumDims=1
    )


def real_ends(writer: Writer, rng: np.random.Generator, source: int) -> int:
    """QUANTIZE in front and DEQUANTIZE behind a convolution."""
    shape = writer.tensors[source]["shape"]
    writer.inputs = [writer.tensor(shape, dtype=np.float32)]
    writer.operator("QUANTIZE", writer.inputs, [source])
    end = convolution(writer, rng, source)
    return writer.operator(
        "DEQUANTIZE", [end], [writer.tensor(writer.tensors[end]["shape"], dtype=np.float32)]
    )


SINGLE = (convolution, depthwise, fully_connected, pool, average, mean, add, padded, relu, softmax)
SEVERAL = (network, sequence, pixelwise, real_ends)
LAYERS = {layer.__name__: layer for layer in (*SINGLE, *SEVERAL)}


def random_model(kind: str, seed: int) -> bytes:
    """A network of one operator, or of the few that it needs: a key of `LAYERS`."""
    rng = np.random.default_rng(seed)
    writer = Writer()
    source = image(writer, rng)
    writer.outputs = [LAYERS[kind](writer, rng, source)]
    return writer.to_bytes()


def samples(model: bytes, seed: int, count: int = 8) -> np.ndarray:
    """Inputs (count, …) in the file's shape: extremes, small numbers and random ones, int8."""
    subgraph: Any = tflite.Model.GetRootAs(model, 0).Subgraphs(0)
    shape = subgraph.Tensors(subgraph.Inputs(0)).ShapeAsNumpy()
    values = np.random.default_rng(seed).integers(-128, 128, (count, *shape[1:])).astype(np.int8)
    values[0], values[1], values[2] = -128, 127, values[2] // 16
    return values


def checksum(outputs: np.ndarray) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(outputs, np.int8).tobytes()):08x}"


def main(seeds: int = 6) -> None:
    """For every kind: the checksum of its models, then one of the outputs of each."""
    from tflite_micro import runtime  # pyright: ignore[reportMissingImports]

    for kind in (*(layer.__name__ for layer in SINGLE), "network", "sequence", "pixelwise"):
        models = [random_model(kind, seed) for seed in range(seeds)]
        found = [f"{zlib.crc32(b''.join(models)):08x}"]
        for seed, model in enumerate(models):
            interpreter = runtime.Interpreter.from_bytes(model)
            outputs = []
            for sample in samples(model, seed):
                interpreter.set_input(sample[None], 0)
                interpreter.invoke()
                outputs.append(interpreter.get_output(0).copy())
            found.append(checksum(np.stack(outputs)))
        print(f'    "{kind}": "{" ".join(found)}",')


if __name__ == "__main__":
    main()
