"""Walks an exported program and turns it into a float graph, operator by operator (`aten` has the
handlers)."""

import operator as python_operators
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, TensorArgument
from torch.fx.node import map_arg

from popshift.gen.frontend import aten, aten_elementwise
from popshift.gen.frontend.findings import Finding, UnsupportedError
from popshift.gen.frontend.float_graph import FloatFactors, FloatGraph, FloatTensor
from popshift.gen.frontend.fusion import fuse
from popshift.gen.frontend.operands import Call, NotNegative, Value, materialise
from popshift.gen.frontend.raw import RawOperator
from popshift.gen.frontend.refusals import REFUSALS, UNKNOWN


class ProgramImporter:
    """Walks an exported program once; `graph` holds the network if every finding is a supported one.

    Parameters
    ----------
    smartdeal: SmartDeal form of parameters, by their name.
    """

    def __init__(self, program: ExportedProgram, smartdeal: Mapping[str, FloatFactors]) -> None:
        self.program = program
        self._smartdeal = smartdeal
        self.graph = FloatGraph()
        self.notes = self.graph.notes
        self._raw: list[RawOperator] = []
        self._values: dict[torch.fx.Node, Any] = {}
        self._findings: dict[str, Finding] = {}
        self._unknown: set[str] = set()
        self._parameter_names: dict[int, str] = {}
        self._batch: int | torch.SymInt = 0

    def run(self) -> list[Finding]:
        """Fill `graph`; one finding for each operator the outputs depend on."""
        if not self._take_placeholders():
            return list(self._findings.values())
        outputs = self._output_nodes()
        live = _needed_for(outputs)
        for node in self.program.graph.nodes:
            if node in live and node.op == "call_function":
                self._values[node] = self._take(node)
        self._take_outputs(outputs)
        for name, finding in fuse(self.graph, self._raw, self._unknown).items():
            operator = self._findings[name].operator
            self._findings[name] = Finding(name, operator, finding.supported, finding.reason, finding.remedy)
        return list(self._findings.values())

    # ---- what the handlers use (`aten.Importer`) ---------------------------------------------------------

    def shape(self, tensor: str) -> tuple[int, int, int]:
        return self.graph.tensors[tensor].shape

    def constant(self, call: Call, argument: str) -> NDArray[np.float64]:
        value = call.arguments[argument]
        if not isinstance(value, torch.Tensor):
            raise UnsupportedError(f"its {argument} is computed from the input", "use constant parameters")
        name = self._parameter_names.get(id(value), argument)
        if not value.is_floating_point():
            remedy = "give the float network; popshift quantises it"
            raise UnsupportedError(f"parameter {name} is of type {value.dtype}", remedy)
        array = value.detach().to(torch.float64).cpu().numpy()
        bad = int((~np.isfinite(array)).sum())
        if bad:
            remedy = "train the network again, with a lower learning rate or clipped gradients"
            raise UnsupportedError(
                f"parameter {name} holds NaN or infinity in {bad} of {array.size} places", remedy
            )
        return array

    def smartdeal(self, call: Call) -> FloatFactors | None:
        name = self._parameter_names.get(id(call.arguments["weight"]))
        return None if name is None else self._smartdeal.get(name)

    def emit(self, operator: RawOperator, shape: tuple[int, int, int]) -> None:
        self._raw.append(operator)
        self.graph.tensors[operator.output] = FloatTensor(operator.output, shape)

    def remark(self, call: Call, text: str) -> None:
        self._findings[call.name] = Finding(call.name, call.operator, True, text)

    # ---- inputs and parameters ---------------------------------------------------------------------------

    def _take_placeholders(self) -> bool:
        """Parameters become constants, the input a tensor; False if the input cannot be taken."""
        signature = self.program.graph_signature
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        stored = {**self.program.constants, **self.program.state_dict}
        inputs = []
        for node in self.program.graph.find_nodes(op="placeholder"):
            if node.name in names:
                self._values[node] = stored[names[node.name]]
                self._parameter_names[id(self._values[node])] = names[node.name]
            elif node.name in signature.user_inputs:
                inputs.append(node)
        if len(inputs) != 1:
            reason = f"the network takes {len(inputs)} inputs, this version needs exactly one"
            remedy = "give it one input tensor"
            self._record(", ".join(node.name for node in inputs) or "-", "input", reason, remedy)
            return False
        return self._take_input(inputs[0])

    def _take_input(self, node: torch.fx.Node) -> bool:
        tensor = node.meta["val"]
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            self._record(node.name, "input", f"it is of type {kind}", "give a float32 tensor")
            return False
        if not 2 <= tensor.dim() <= 4:
            reason = f"it has shape {tuple(tensor.shape)}"
            remedy = "give (batch, channels, height, width), (batch, channels, length) or (batch, features)"
            self._record(node.name, "input", reason, remedy)
            return False
        for axis, size in enumerate(tensor.shape[1:], start=1):
            if not isinstance(size, int):
                reason = f"dimension {axis} is dynamic ({size})"
                self._record(
                    node.name, "input", reason, "export with fixed sizes; only the batch may be dynamic"
                )
                return False
        self._batch = tensor.shape[0]
        dims = tuple(tensor.shape[1:])
        shape = (dims[0], *((1,) * (3 - len(dims))), *dims[1:])
        if len(dims) == 1:
            shape = (dims[0], 1, 1)
        self._values[node] = Value(node.name, dims)
        self.graph.inputs.append(node.name)
        self.graph.tensors[node.name] = FloatTensor(node.name, (shape[0], shape[1], shape[2]))
        self.graph.dims[node.name] = dims
        return True

    # ---- operators ---------------------------------------------------------------------------------------

    def _take(self, node: torch.fx.Node) -> Any:
        """The value of one call: a constant, a `Value`, or None where it cannot be told."""
        arguments = [self._values.get(argument) for argument in node.all_input_nodes]
        if node.target is python_operators.getitem:
            whole, index = arguments[0], cast(int, node.args[1])
            return whole[index] if isinstance(whole, tuple) else self._unknown_value(self._call(node))
        if not isinstance(node.meta.get("val"), torch.Tensor | tuple | list | None):
            return None  # a size
        if all(isinstance(argument, torch.Tensor) for argument in arguments):
            return self._fold_constant(node)
        if not any(isinstance(argument, Value) for argument in arguments):
            return None  # only reads what could not be taken: already reported
        call = self._call(node)
        self._findings[call.name] = Finding(call.name, call.operator, True)
        try:
            return self._handle(call)
        except UnsupportedError as refused:
            self._findings[call.name] = Finding(
                call.name, call.operator, False, refused.reason, refused.remedy
            )
            return self._unknown_value(call)

    def _handle(self, call: Call) -> Any:
        handler = aten.HANDLERS.get(call.operator)
        whole = [value for value in call.arguments.values() if isinstance(value, NotNegative)]
        if whole and call.operator != "where":
            raise UnsupportedError("it works with the result of a comparison", aten_elementwise.SIGN)
        names = ("condition",) if call.operator == "where" else ("self", "input")
        if handler is None or not any(isinstance(call.arguments.get(name), Value) for name in names):
            raise UnsupportedError(*REFUSALS.get(call.operator, UNKNOWN))
        return handler(self, call)

    def _call(self, node: torch.fx.Node) -> Call:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            return Call(self._name(node), str(target), {}, self._dims(node), False)
        arguments: dict[str, Any] = {}
        for position, argument in enumerate(target._schema.arguments):
            if position < len(node.args):
                value = node.args[position]
            else:
                value = node.kwargs.get(argument.name, argument.default_value)
            arguments[argument.name] = map_arg(value, self._values.get)
        last = all(user.op == "output" for user in node.users)
        name = aten.SPELLINGS.get(name := target._schema.name.removeprefix("aten::"), name)
        return Call(self._name(node), name, arguments, self._dims(node), last)

    def _dims(self, node: torch.fx.Node) -> tuple[int, ...] | None:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.dim() < 1:
            return None
        same_batch = str(value.shape[0]) == str(self._batch)
        dims = tuple(value.shape[1:])
        return dims if same_batch and all(isinstance(size, int) for size in dims) else None

    def _name(self, node: torch.fx.Node) -> str:
        """The module's path, and the operator's name where a module of the user's holds several; unique."""
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path, kind = stack[-1] if stack else ("", "")
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        inside = f"{path}.{node.name}" if path else node.name
        name = path if path and kind.startswith("torch.nn.") else inside
        unique, count = name, 1
        while unique in self._findings or unique in self.graph.tensors:
            unique, count = f"{name}_{count}", count + 1
        return unique

    def _fold_constant(self, node: torch.fx.Node) -> Any:
        """A computation on parameters alone (weight norm): its result."""
        assert callable(node.target)
        args, kwargs = map_arg((node.args, node.kwargs), self._values.get)
        with torch.no_grad():
            result = node.target(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            self._parameter_names[id(result)] = self._name(node)
        return result

    def _unknown_value(self, call: Call) -> Value | None:
        """A stand-in for an unsupported operator's result, so that the layers behind it are checked too."""
        if call.dims is None or not 1 <= len(call.dims) <= 3:
            return None
        channels, *rest = call.dims
        height, width = [1, 1, *rest][-2:]
        self.graph.tensors[call.name] = FloatTensor(call.name, (channels, height, width))
        self._unknown.add(call.name)
        return Value(call.name, call.dims)

    # ---- outputs -----------------------------------------------------------------------------------------

    def _output_nodes(self) -> list[torch.fx.Node]:
        nodes = {node.name: node for node in self.program.graph.nodes}
        found = []
        for spec in self.program.graph_signature.output_specs:
            if spec.kind is OutputKind.BUFFER_MUTATION:
                reason = "the module changes it at every call"
                self._record(str(spec.target), "buffer", reason, "remove the state from forward")
            elif spec.kind is OutputKind.USER_OUTPUT and isinstance(spec.arg, TensorArgument):
                found.append(nodes[spec.arg.name])
        return found

    def _take_outputs(self, nodes: list[torch.fx.Node]) -> None:
        for node in nodes:
            value = self._values.get(node)
            if value is None:
                continue  # comes from an unsupported operator
            if isinstance(value, Value):
                value = materialise(self, Call(node.name, "output", {}, value.dims, True), value)
            if not isinstance(value, Value) or value.tensor in self.graph.inputs:
                remedy = "return the result of a layer"
                self._record(node.name, "output", "it is not computed from the input by any layer", remedy)
            elif value.tensor in self.graph.outputs:
                note = f"output {node.name} is the same tensor as an earlier output and appears once"
                self.notes.append(note)
            else:
                self.graph.outputs.append(value.tensor)
                self.graph.dims[value.tensor] = value.dims
        if not nodes:
            self._record("-", "output", "the module returns no tensor", "return the result of a layer")

    def _record(self, layer: str, operator: str, reason: str, remedy: str) -> None:
        """Refuse something that is no operator: an input, an output, a buffer."""
        self._findings[f"{operator} {layer}"] = Finding(layer, operator, False, reason, remedy)


def _needed_for(outputs: list[torch.fx.Node]) -> set[torch.fx.Node]:
    needed: set[torch.fx.Node] = set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    return needed
