"""Front end for int8 TensorFlow Lite models: integers in, the same integers out.

The graph computes what TensorFlow Lite for Microcontrollers computes, to the last bit, as long as its mode is
``exact``. TensorFlow Lite's arithmetic: Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", 2018.
"""

import math
from collections.abc import Iterable
from pathlib import Path

from popshift.gen.frontend import tflite_operators
from popshift.gen.frontend.findings import Finding, UnsupportedError, refuse
from popshift.gen.frontend.integer_network import IntegerNetwork
from popshift.gen.frontend.tflite_model import FileModel, FileOperator, FileTensor, read
from popshift.gen.frontend.tflite_operators import HANDLERS, UNKNOWN
from popshift.gen.frontend.tflite_values import CONVERT, Value, quantisation, sizes
from popshift.gen.graph import Graph, Operator, Tensor
from popshift.hw.errors import ModelError
from popshift.hw.numerics import Requantise

_FLOATS = ("float16", "float32", "float64")
_INTEGERS = {
    "uint8": "it is quantised to uint8",
    "int16": "its activations are int16",
}
_NOTHING_MOVES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "DEQUANTIZE")
"""Operators that may follow what the host computes."""
_COMPACT = (
    "the requantisation mode is compact, which rounds once instead of twice: some values differ from those "
    "of TensorFlow Lite, most by one in front of a softmax"
)


def from_tflite(path: Path, mode: Requantise = Requantise.EXACT) -> IntegerNetwork:
    """Import a model file.

    Parameters
    ----------
    mode: requantisation mode to make the multipliers for; with ``compact`` the results are close to
        TensorFlow Lite's instead of equal.

    Raises
    ------
    ModelError: no readable int8 model; or naming every operator that cannot run.
    """
    importer = _Importer(_checked(path), mode)
    refuse(importer.run())
    return importer.network


def check_tflite(path: Path) -> list[Finding]:
    """The verdict on every operator of a model file.

    Raises
    ------
    ModelError: no readable int8 model.
    """
    return _Importer(_checked(path), Requantise.EXACT).run()


def _checked(path: Path) -> FileModel:
    """A model with one int8 input (or a real one that QUANTIZE reads) and sizes that are known."""
    model = read(path)
    problem = _problem(model)
    if problem is not None:
        raise ModelError(problem[0], where=str(path), remedy=problem[1])
    return model


def _problem(model: FileModel) -> tuple[str, str] | None:
    """What is wrong with the model as a whole, and the remedy."""
    if not model.operators:
        return "the model has no operators", "convert it again"
    if len(model.inputs) != 1:
        return f"the network takes {len(model.inputs)} inputs", "give it one"
    weighted = [op for op in model.operators if op.kind in _WEIGHTED and op.has_input(1)]
    for operator in weighted:
        source, weight = (model.tensors[number] for number in operator.inputs[:2])
        if source.type in _FLOATS and weight.type == "int8":
            return "only its weights are int8, its activations are real numbers (hybrid)", CONVERT
    entry = model.tensors[model.inputs[0]]
    readers = [operator.kind for operator in model.operators if model.inputs[0] in operator.inputs]
    if entry.type in _FLOATS and readers != ["QUANTIZE"]:
        return f"it computes with {entry.type}", CONVERT
    if entry.type in _INTEGERS:
        return _INTEGERS[entry.type], CONVERT
    if entry.type not in ("int8", *_FLOATS):
        return f"its input {entry.name} is {entry.type}", CONVERT
    return _open_shape(model, [entry, *(model.tensors[op.outputs[0]] for op in model.operators)])


def _open_shape(model: FileModel, tensors: Iterable[FileTensor]) -> tuple[str, str] | None:
    for tensor in tensors:
        if tensor.dynamic:
            shape = ", ".join(map(str, tensor.shape))
            return f"tensor {tensor.name} has open sizes, shape ({shape})", "convert it with fixed sizes"
        if math.prod(tensor.shape) > _MAX_ELEMENTS:
            return f"tensor {tensor.name} has {math.prod(tensor.shape):,} elements", "use smaller images"
    entry = model.tensors[model.inputs[0]]
    if len(entry.shape) > 1 and entry.shape[0] != 1:
        return f"its batch is {entry.shape[0]}", "convert it with a batch of 1"
    return None


class _Importer:
    """Walks a model once; `network` holds it if every finding is a supported one."""

    def __init__(self, model: FileModel, mode: Requantise) -> None:
        self._model = model
        self.mode = mode
        self.network = IntegerNetwork(graph=Graph(mode=mode, inputs=[], outputs=[]))
        self._graph = self.network.graph
        self._values: dict[int, Value] = {}
        self._settled: dict[int, Value] = {}
        self._sizes: set[int] = set()  # tensors that hold sizes of others
        self._findings: list[Finding] = []

    def run(self) -> list[Finding]:
        """Fill `network`; one finding for each operator."""
        if self.mode is not Requantise.EXACT:
            self.network.notes.append(_COMPACT)
        for operator in self._model.operators:
            self._take(operator)
        if all(finding.supported for finding in self._findings):
            for number in self._model.outputs:
                self._take_output(number)
        return self._findings

    # ---- what the handlers use ---------------------------------------------------------------------------

    def file_tensor(self, number: int) -> FileTensor:
        return self._model.tensors[number]

    def graph_tensor(self, name: str) -> Tensor:
        return self._graph.tensors[name]

    def value(self, number: int) -> Value:
        if number < 0 or number not in self._values:
            name = self._model.tensors[number].name if number >= 0 else "its input"
            raise UnsupportedError(f"{name} is not computed from the network's input", "convert it again")
        return self._values[number]

    def settled(self, number: int) -> Value:
        value = self.value(number)
        if not any(value.padding):
            return value
        if number not in self._settled:
            self._settled[number] = tflite_operators.padding_layer(self, number, value)
        return self._settled[number]

    def emit(self, operator: Operator) -> None:
        self._graph.operators.append(operator)

    def make(self, number: int, shape: tuple[int, int, int], dims: tuple[int, ...]) -> Value:
        tensor = self._model.tensors[number]
        scale, zero_point = quantisation(tensor)
        self._graph.tensors[tensor.name] = Tensor(tensor.name, shape, float(scale), zero_point)
        return Value(tensor.name, dims)

    def reshaped_input(self, number: int, dims: tuple[int, ...]) -> bool:
        value = self._values[number]
        if value.tensor not in self._graph.inputs or len(self._readers(number)) > 1:
            return False
        tensor = self._graph.tensors[value.tensor]
        self._graph.tensors[value.tensor] = Tensor(
            tensor.name, _shape_of(dims), tensor.scale, tensor.zero_point
        )
        return True

    def at_end(self, number: int) -> bool:
        return all(
            operator.kind in _NOTHING_MOVES and self.at_end(operator.outputs[0])
            for operator in self._readers(number)
        )

    # ---- walking -----------------------------------------------------------------------------------------

    def _readers(self, number: int) -> list[FileOperator]:
        return [op for op in self._model.operators if number in op.inputs and op.kind != "SHAPE"]

    def _take(self, operator: FileOperator) -> None:
        name = self._model.tensors[operator.outputs[0]].name
        layer = f"{operator.index} {name}"
        try:
            if not self._values:
                self._take_input()
            if operator.outputs[0] in self._values:  # the QUANTIZE of a real input
                self._findings.append(Finding(layer, operator.kind, True, "done by the driver"))
                return
            if self._sizes_only(operator):
                self._sizes.add(operator.outputs[0])
                self._findings.append(Finding(layer, operator.kind, True, "sizes, which are known"))
                return
            handler = HANDLERS.get(operator.kind)
            if handler is None:
                raise UnsupportedError(*UNKNOWN)
            needed = 2 if operator.kind in (*_WEIGHTED, *_PARAMETERS) else 1
            if len(operator.outputs) != 1 or not all(operator.has_input(i) for i in range(needed)):
                raise UnsupportedError("it lacks an input or has several outputs", "convert it again")
            value = handler(self, operator)
            self._values[operator.outputs[0]] = value
            self._findings.append(Finding(layer, operator.kind, True, self._becomes(operator, value)))
        except UnsupportedError as refused:
            self._findings.append(Finding(layer, operator.kind, False, refused.reason, refused.remedy))
            self._assume(operator)

    def _sizes_only(self, operator: FileOperator) -> bool:
        """Whether it works out the shape of a tensor, as Keras' Flatten does for an open batch."""
        return operator.kind == "SHAPE" or (
            operator.kind in _OF_SIZES
            and any(number in self._sizes for number in operator.inputs)
            and not any(number in self._values for number in operator.inputs)
        )

    def _becomes(self, operator: FileOperator, value: Value) -> str:
        if any(value.padding):
            return "padding of what follows"
        if value.tail is not None and operator.kind not in _NOTHING_MOVES:
            self.network.notes.append(f"{operator.kind} {value.tail.name} is computed by the host")
            return "computed by the host"
        return "no data moves" if operator.kind in _NOTHING_MOVES else ""

    def _take_input(self) -> None:
        """The network's input; a real one is what QUANTIZE makes of it."""
        number = self._model.inputs[0]
        entry = self._model.tensors[number]
        if entry.type in _FLOATS:
            number = self._readers(number)[0].outputs[0]
        dims = self._model.tensors[number].dims
        self._values[number] = self.make(number, _shape_of(dims), dims)
        name = self._values[number].tensor
        self._graph.inputs.append(name)
        self.network.dims[name] = dims

    def _assume(self, operator: FileOperator) -> None:
        """Something for what a refused operator gives, so that the others can be judged."""
        for number in operator.outputs:
            tensor = self._model.tensors[number]
            self._graph.tensors[tensor.name] = Tensor(tensor.name, _shape_of(tensor.dims), 1.0, 0)
            self._values[number] = Value(tensor.name, tensor.dims)

    def _take_output(self, number: int) -> None:
        name = self._model.tensors[number].name
        try:
            value = self.settled(number)
        except UnsupportedError as refused:
            self._findings.append(Finding(name, "output", False, refused.reason, refused.remedy))
            return
        if value.tensor in self._graph.inputs:
            self._findings.append(
                Finding(name, "output", False, "it is the input", "return a layer's result")
            )
        elif value.tensor in self._graph.outputs:
            self._findings.append(Finding(name, "output", False, "it is another output", "return it once"))
        else:
            self._graph.outputs.append(value.tensor)
            self.network.dims[value.tensor] = value.dims
            if value.tail is not None:
                self.network.tails[value.tensor] = value.tail


def _shape_of(dims: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) for (height, width, channels), or less; a vector for anything else."""
    if len(dims) > 3:
        return (math.prod(dims), 1, 1)
    height, width, channels = sizes(dims)
    return channels, height, width


_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_PARAMETERS = ("ADD", "MEAN", "PAD", "PADV2", "ARG_MAX")
_OF_SIZES = ("STRIDED_SLICE", "PACK", "CONCATENATION", "GATHER", "REDUCE_PROD", "MUL", "CAST", "RESHAPE")
_MAX_ELEMENTS = 1 << 28
