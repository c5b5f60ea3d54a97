"""Front end for ONNX, and for QONNX with bipolar quantisers: the dialect that FINN, hls4ml and Brevitas
export (Pappalardo et al., "QONNX: Representing Arbitrary-Precision Quantized Neural Networks", 2022).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from popshift.gen.frontend import onnx_operators, onnx_quantisers
from popshift.gen.frontend.findings import Finding, UnsupportedError, refuse
from popshift.gen.frontend.float_graph import FloatGraph, FloatTensor, Levels
from popshift.gen.frontend.fusion import fuse
from popshift.gen.frontend.onnx_operators import Node
from popshift.gen.frontend.operands import Value
from popshift.gen.frontend.raw import Quantiser, RawOperator
from popshift.hw.errors import ModelError

_QUANTISERS = {
    "BipolarQuant": onnx_quantisers.bipolar,
    "Quant": onnx_quantisers.quantised,
    "DequantizeLinear": onnx_quantisers.dequantised,
}
"""Of constants, to real numbers. Other operators on constants are computed by ONNX's reference
implementation.
"""


def from_onnx(path: Path) -> FloatGraph:
    """Import a model file.

    Raises
    ------
    ModelError: no readable model; or naming every operator that cannot run.
    """
    importer = _Importer(_loaded(path))
    refuse(importer.run())
    return importer.graph


def check_onnx(path: Path) -> list[Finding]:
    """The verdict on every operator of a model file.

    Raises
    ------
    ModelError: no readable model.
    """
    return _Importer(_loaded(path)).run()


def _loaded(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelError("there is no such file", where=str(path), remedy="check the path")
    try:
        model = onnx.load(str(path))
    except Exception as error:
        what = f"not an ONNX model ({type(error).__name__})"
        raise ModelError(what, where=str(path), remedy="export it again") from error
    if not model.graph.node:
        raise ModelError("the model has no operators", where=str(path), remedy="export it again")
    return model


_REARRANGING = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
"""Operators that leave every number of a constant as it is."""


class _Importer:
    """Walks a model once; `graph` holds the network if every finding is a supported one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.graph = FloatGraph()
        self.notes = self.graph.notes
        self._raw: list[RawOperator] = []
        self._values: dict[str, Any] = {}  # NDArray for constants, `Value` for activations
        self._findings: dict[str, Finding] = {}
        self._unknown: set[str] = set()
        self._read: list[str] = []
        self._steps: dict[str, NDArray[np.float64]] = {}  # scales of quantised constants

    def run(self) -> list[Finding]:
        """Fill `graph`; one finding for each operator that reads activations."""
        graph = self._model.graph
        for initialiser in graph.initializer:
            array = numpy_helper.to_array(initialiser)
            exact = array.dtype == np.float32  # constants made of others are rounded once, by what reads them
            self._values[initialiser.name] = array.astype(np.float64) if exact else array
        if not self._take_input([entry for entry in graph.input if entry.name not in self._values]):
            return list(self._findings.values())
        readers = [node for node in graph.node if node.op_type != "Shape"]
        self._read = [name for node in readers for name in node.input]
        self._read += [entry.name for entry in graph.output]
        for proto in graph.node:
            self._take(proto)
        for entry in graph.output:
            self._take_output(entry.name)
        for name, finding in fuse(self.graph, self._raw, self._unknown).items():
            operator = self._findings[name].operator if name in self._findings else finding.operator
            self._findings[name] = Finding(name, operator, finding.supported, finding.reason, finding.remedy)
        return list(self._findings.values())

    # ---- what the handlers use ---------------------------------------------------------------------------

    def shape(self, tensor: str) -> tuple[int, int, int]:
        """(channels, height, width) of a tensor of the float graph."""
        return self.graph.tensors[tensor].shape

    def emit(self, operator: RawOperator, shape: tuple[int, int, int]) -> None:
        """Append an operator whose output has this shape."""
        self._raw.append(operator)
        self.graph.tensors[operator.output] = FloatTensor(operator.output, shape)

    def levels(self, tensor: str) -> Levels | None:
        """Of the quantiser that makes a tensor, if one does."""
        made = [operator for operator in self._raw if operator.output == tensor]
        return made[0].levels if made and isinstance(made[0], Quantiser) else None

    def as_vector(self, value: Value) -> Value:
        """The network's input as one vector, if nothing but this reads it: then its elements are channels."""
        size = math.prod(value.dims)
        if value.tensor in self.graph.inputs and self._read.count(value.tensor) == 1:
            self.graph.tensors[value.tensor] = FloatTensor(value.tensor, (size, 1, 1))
        return Value(value.tensor, (size,))

    # ---- walking -----------------------------------------------------------------------------------------

    def _take_input(self, entries: list[onnx.ValueInfoProto]) -> bool:
        if len(entries) != 1:
            self._refuse("input", "input", f"the network takes {len(entries)} inputs", "give it one")
            return False
        (entry,) = entries
        dims = tuple(int(dim.dim_value) for dim in entry.type.tensor_type.shape.dim)[1:]
        if entry.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            self._refuse(entry.name, "input", "it is not float32", "export the network with float inputs")
            return False
        if not 1 <= len(dims) <= 3 or not all(dims):
            remedy = "give (batch, channels, height, width) or (batch, features) with fixed sizes"
            self._refuse(entry.name, "input", f"it has shape (N, {', '.join(map(str, dims))})", remedy)
            return False
        channels, *rest = dims
        height, width = [1, 1, *rest][-2:]
        self._values[entry.name] = Value(entry.name, dims)
        self.graph.inputs.append(entry.name)
        self.graph.tensors[entry.name] = FloatTensor(entry.name, (channels, height, width))
        self.graph.dims[entry.name] = dims
        return True

    def _take(self, proto: onnx.NodeProto) -> None:
        inputs = [self._values.get(name) if name else None for name in proto.input]
        if not any(isinstance(value, Value) for value in inputs):
            self._fold(proto, inputs)
            return
        attributes = {item.name: helper.get_attribute_value(item) for item in proto.attribute}
        name = proto.name or proto.output[0]
        while name in self._findings:
            name += "'"
        users = sum(self._read.count(output) for output in proto.output)
        last = any(entry.name in proto.output for entry in self._model.graph.output) and users == 1
        step = self._steps.get(proto.input[1]) if len(inputs) > 1 else None
        node = Node(name, proto.op_type, inputs, attributes, last, step)
        if proto.op_type == "Shape":
            value = inputs[0]
            assert isinstance(value, Value)
            self._values[proto.output[0]] = np.array([1, *value.dims], np.int64)
            return
        self._findings[name] = Finding(name, proto.op_type, True)
        try:
            handler = onnx_operators.HANDLERS.get(proto.op_type)
            if handler is None:
                raise UnsupportedError(*onnx_operators.UNKNOWN)
            self._values[proto.output[0]] = handler(self, node)
        except UnsupportedError as refused:
            self._findings[name] = Finding(name, proto.op_type, False, refused.reason, refused.remedy)

    def _fold(self, proto: onnx.NodeProto, inputs: list[Any]) -> None:
        """An operator on constants alone; nothing if it reads what could not be taken."""
        if any(value is None for name, value in zip(proto.input, inputs, strict=True) if name):
            return
        arrays: Mapping[str, NDArray[Any]] = {
            name: value for name, value in zip(proto.input, inputs, strict=True) if name
        }
        if proto.op_type in _QUANTISERS:
            attributes = {item.name: helper.get_attribute_value(item) for item in proto.attribute}
            try:
                value = _QUANTISERS[proto.op_type](inputs, attributes)
            except ValueError:  # shapes that do not fit: as below
                return
            self._values[proto.output[0]] = value
            self._steps[proto.output[0]] = onnx_quantisers.scale_of(inputs, attributes)
            return
        types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in arrays.items()}
        graph = helper.make_graph(
            [proto],
            "constant",
            [helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()],
            [helper.make_empty_tensor_value_info(name) for name in proto.output],
        )
        model = helper.make_model(graph, opset_imports=list(self._model.opset_import))
        try:
            results = ReferenceEvaluator(model).run(None, dict(arrays))
        except Exception:  # whatever it is, what reads the result says that its parameter is missing
            return
        assert isinstance(results, list)
        self._values |= dict(zip(proto.output, results, strict=True))
        if (step := self._step_of(proto, arrays)) is not None:
            self._steps[proto.output[0]] = step

    def _step_of(
        self, proto: onnx.NodeProto, arrays: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.float64] | None:
        """Scale of a quantised constant that this operator has moved, in a shape that fits it."""
        step = self._steps.get(proto.input[0]) if proto.input else None
        if step is None:
            return None
        if proto.op_type == "Transpose" and step.ndim == arrays[proto.input[0]].ndim:
            attributes = {item.name: helper.get_attribute_value(item) for item in proto.attribute}
            return step.transpose(attributes.get("perm"))
        return step if step.size == 1 and proto.op_type in _REARRANGING else None

    def _take_output(self, name: str) -> None:
        value = self._values.get(name)
        if not isinstance(value, Value):
            if not any(not finding.supported for finding in self._findings.values()):
                self._refuse(name, "output", "it is not computed from the input", "return a layer's result")
            return
        if value.tensor in self.graph.inputs:
            self._refuse(name, "output", "it is the input", "return the result of a layer")
            return
        if value.tensor not in self.graph.outputs:
            self.graph.outputs.append(value.tensor)
            self.graph.dims[value.tensor] = value.dims

    def _refuse(self, layer: str, operator: str, reason: str, remedy: str) -> None:
        self._findings[f"{operator} {layer}"] = Finding(layer, operator, False, reason, remedy)
