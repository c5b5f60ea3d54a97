"""The contents of a ``.tflite`` file as plain values: tensors and operators of its one subgraph."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from popshift.hw.errors import ModelError

_IDENTIFIER = b"TFL3"
_OPERATORS = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
_TYPES = {value: name.lower() for name, value in vars(tflite.TensorType).items() if isinstance(value, int)}
_NUMPY = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16, "int32": "<i4", "int64": "<i8"} | {
    "float32": "<f4"
}
_OPTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "CONV_2D": (
        tflite.Conv2DOptions,
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    ),
    "DEPTHWISE_CONV_2D": (
        tflite.DepthwiseConv2DOptions,
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    ),
    "FULLY_CONNECTED": (tflite.FullyConnectedOptions, ("FusedActivationFunction", "WeightsFormat")),
    "AVERAGE_POOL_2D": (
        tflite.Pool2DOptions,
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "ADD": (tflite.AddOptions, ("FusedActivationFunction",)),
    "SOFTMAX": (tflite.SoftmaxOptions, ("Beta",)),
}
_OPTIONS["MAX_POOL_2D"] = _OPTIONS["AVERAGE_POOL_2D"]


@dataclass(frozen=True, slots=True, eq=False)
class FileTensor:
    """A tensor of the file.

    Attributes
    ----------
    name: its first part, where the converter joined several by semicolons; unique in the file.
    shape: as stored, batch first; ``dynamic``: whether another size than the batch's is open.
    type: ``int8``, ``float32``, … .
    scales, zero_points: float32 and int64 (1,), or (channels,) along ``axis``; empty if not quantised.
    data: of a constant, in ``shape``; None for an activation.
    """

    name: str
    shape: tuple[int, ...]
    dynamic: bool
    type: str
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int
    data: NDArray[Any] | None

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of a sample: without the batch, which is 1; of a single number ``(1,)``."""
        return (self.shape[1:] if self.shape[:1] == (1,) else self.shape) or (1,)


@dataclass(frozen=True, slots=True)
class FileOperator:
    """An operator of the file: ``inputs`` and ``outputs`` are numbers of tensors, -1 for none."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def has_input(self, position: int) -> bool:
        return position < len(self.inputs) and self.inputs[position] >= 0


@dataclass(frozen=True, slots=True)
class FileModel:
    """What a file holds, in execution order."""

    tensors: list[FileTensor]
    operators: list[FileOperator]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read(path: Path) -> FileModel:
    """Read a model file.

    Raises
    ------
    ModelError: no such file, damaged, not a TensorFlow Lite model, or of several subgraphs.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        what = "there is no such file" if isinstance(error, FileNotFoundError) else f"{error.strerror}"
        raise ModelError(what, where=str(path), remedy="check the path") from error
    if data[4:8] != _IDENTIFIER:
        what = "not a TensorFlow Lite model"
        raise ModelError(what, where=str(path), remedy="convert it again with tf.lite.TFLiteConverter")
    try:
        model = _model(data)
    except (struct.error, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"the file is damaged ({type(error).__name__} while reading it)"
        raise ModelError(what, where=str(path), remedy="copy or convert it again") from error
    if isinstance(model, int):
        what = f"the model has {model} subgraphs"
        raise ModelError(what, where=str(path), remedy="convert one without control flow")
    return model


def _model(data: bytes) -> FileModel | int:
    """The model, or the number of subgraphs if it is not one."""
    model = tflite.Model.GetRootAs(data, 0)
    if model.SubgraphsLength() != 1:
        return model.SubgraphsLength()
    subgraph: Any = model.Subgraphs(0)
    names: set[str] = set()
    tensors = [_tensor(model, subgraph.Tensors(i), i, names) for i in range(subgraph.TensorsLength())]
    operators = [
        _operator(model, subgraph.Operators(i), i, len(tensors)) for i in range(subgraph.OperatorsLength())
    ]
    ends = [tuple(map(int, values)) for values in (_array(subgraph, "Inputs"), _array(subgraph, "Outputs"))]
    for number in (*ends[0], *ends[1]):
        if not 0 <= number < len(tensors):
            raise ValueError("no such tensor")
    return FileModel(tensors, operators, ends[0], ends[1])


def _array(table: Any, name: str) -> NDArray[Any]:
    """A vector of numbers; empty if it is absent."""
    values = getattr(table, f"{name}AsNumpy")()
    return values if isinstance(values, np.ndarray) else np.zeros(0, np.int64)


def _tensor(model: Any, entry: Any, index: int, names: set[str]) -> FileTensor:
    name = (entry.Name() or b"").decode("utf-8", "replace").split(";")[0] or f"tensor{index}"
    while name in names:
        name += "'"
    names.add(name)
    shape = tuple(map(int, _array(entry, "Shape")))
    signature = tuple(map(int, _array(entry, "ShapeSignature"))) or shape
    quantisation = entry.Quantization()
    scales = zero_points = np.zeros(0)
    if quantisation is not None:
        scales, zero_points = _array(quantisation, "Scale"), _array(quantisation, "ZeroPoint")
    if len(zero_points) != len(scales):
        zero_points = np.zeros(len(scales))
    kind = _TYPES[entry.Type()]
    return FileTensor(
        name=name,
        shape=shape,
        dynamic=any(size < 1 for size in (*shape, *signature[1:])),
        type=kind,
        scales=scales.astype(np.float32),
        zero_points=zero_points.astype(np.int64),
        axis=quantisation.QuantizedDimension() if quantisation is not None else 0,
        data=_data(model, entry.Buffer(), kind, shape),
    )


def _data(model: Any, buffer: int, kind: str, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Contents of a constant tensor."""
    if not 0 <= buffer < model.BuffersLength():
        raise ValueError("no such buffer")
    raw = _array(model.Buffers(buffer), "Data")
    if not len(raw) or kind not in _NUMPY:
        return None
    return np.frombuffer(raw.tobytes(), _NUMPY[kind]).reshape(shape)


def _operator(model: Any, entry: Any, index: int, tensors: int) -> FileOperator:
    if not 0 <= entry.OpcodeIndex() < model.OperatorCodesLength():
        raise ValueError("no such operator code")
    code = model.OperatorCodes(entry.OpcodeIndex())
    kind = _OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    if kind == "CUSTOM":
        kind = (code.CustomCode() or b"CUSTOM").decode("utf-8", "replace")
    inputs, outputs = (tuple(map(int, _array(entry, name))) for name in ("Inputs", "Outputs"))
    if not outputs or any(not -1 <= number < tensors for number in (*inputs, *outputs)):
        raise ValueError("no such tensor")
    options: dict[str, Any] = {}
    if kind in _OPTIONS:
        cls, names = _OPTIONS[kind]
        table, found = entry.BuiltinOptions(), cls()
        if table is None:  # TensorFlow Lite takes zeros then
            return FileOperator(index, kind, inputs, outputs, dict.fromkeys(names, 0))
        found.Init(table.Bytes, table.Pos)
        options = {name: getattr(found, name)() for name in names}
    return FileOperator(index, kind, inputs, outputs, options)
