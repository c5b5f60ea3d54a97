"""The integer graph as bytes: safetensors, its structure as JSON in the metadata, no pickle.

`popshift compile` attaches it to the program file, so that the golden model can be run beside the program.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from popshift.gen.graph import (
    Add,
    Convolution,
    Factor,
    Factors,
    Graph,
    Operator,
    Pool,
    Pooling,
    Requantisation,
    Tensor,
    Window,
)
from popshift.hw.errors import ProgramError
from popshift.hw.numerics import Requantise

FORMAT = 6
_ENTRY = "popshift-graph"
_FACTORS = ("coefficients", "basis", "taps")
"""Arrays of a layer with SmartDeal weights, instead of the weight."""


def to_bytes(graph: Graph) -> bytes:
    """The file of a graph; the same graph gives the same bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    operators = []
    for index, operator in enumerate(graph.operators):
        values = {
            "multiplier": operator.requantisation.multiplier,
            "shift": operator.requantisation.shift,
        }
        if isinstance(operator, Convolution):
            values |= {"bias": operator.bias}
            if operator.factors is None:
                values |= {"weight": operator.weight}
            else:
                values |= {name: getattr(operator.factors, name) for name in _FACTORS}
        arrays |= {f"{index}.{name}": np.ascontiguousarray(array) for name, array in values.items()}
        operators.append(_description(operator))
    manifest = {
        "format": FORMAT,
        "mode": str(graph.mode),
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "tensors": [
            [t.name, list(t.shape), t.scale, t.zero_point, t.bits, t.threshold]
            for t in graph.tensors.values()
        ],
        "operators": operators,
    }
    return safetensors.save(arrays, {_ENTRY: json.dumps(manifest, sort_keys=True, allow_nan=False)})


def from_bytes(data: bytes, *, where: str = "graph") -> Graph:
    """The inverse of `to_bytes`.

    Raises
    ------
    ProgramError: damaged, of another format version, or not a graph.
    """
    remedy = "compile the model again with this popshift"
    try:
        header_bytes = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_bytes])
        manifest = json.loads(header["__metadata__"][_ENTRY])
        if manifest["format"] != FORMAT:
            what = f"the graph has format version {manifest['format']}, this popshift reads version {FORMAT}"
            raise ProgramError(what, where=where, remedy=remedy)
        arrays = safetensors.load(data)
        tensors = [
            Tensor(name, (shape[0], shape[1], shape[2]), *numbers)
            for name, shape, *numbers in manifest["tensors"]
        ]
        operators = [_operator(values, arrays, index) for index, values in enumerate(manifest["operators"])]
        return Graph(
            mode=Requantise(manifest["mode"]),
            inputs=manifest["inputs"],
            outputs=manifest["outputs"],
            tensors={tensor.name: tensor for tensor in tensors},
            operators=operators,
        )
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise ProgramError(f"the graph cannot be read ({error})", where=where, remedy=remedy) from error


def _description(operator: Operator) -> dict[str, Any]:
    common = {
        "name": operator.name,
        "output": operator.output,
        "low": operator.requantisation.low,
        "high": operator.requantisation.high,
    }
    if isinstance(operator, Add):
        factors = [[factor.multiplier, factor.shift] for factor in (operator.first, operator.second)]
        return {**common, "inputs": list(operator.inputs), "factors": factors}
    window = operator.window
    common["input"] = operator.input
    common["window"] = [
        list(pair) for pair in (window.kernel, window.stride, window.padding, window.dilation)
    ]
    if isinstance(operator, Pool):
        partial = [[count, factor.multiplier, factor.shift] for count, factor in operator.partial.items()]
        return {**common, "pooling": str(operator.operation), "raw": operator.raw, "partial": partial}
    return {**common, "weight": list(operator.weight.shape), "groups": operator.groups}


def _operator(values: dict[str, Any], arrays: dict[str, NDArray[Any]], index: int) -> Operator:
    common: dict[str, Any] = {
        "name": values["name"],
        "output": values["output"],
        "requantisation": Requantisation(
            multiplier=arrays[f"{index}.multiplier"],
            shift=arrays[f"{index}.shift"],
            low=values["low"],
            high=values["high"],
        ),
    }
    if "factors" in values:
        first, second = (Factor(*factor) for factor in values["factors"])
        one, other = values["inputs"]
        return Add(**common, input=one, other=other, first=first, second=second)
    common["input"] = values["input"]
    common["window"] = Window(*(tuple(numbers) for numbers in values["window"]))
    if "pooling" in values:
        partial = {count: Factor(*factor) for count, *factor in values["partial"]}
        return Pool(**common, operation=Pooling(values["pooling"]), raw=values["raw"], partial=partial)
    common["groups"] = values["groups"]
    bias = arrays[f"{index}.bias"]
    if f"{index}.weight" in arrays:
        return Convolution(**common, weight=arrays[f"{index}.weight"], bias=bias)
    factors = Factors(**{name: arrays[f"{index}.{name}"] for name in _FACTORS})
    return Convolution(**common, weight=factors.weight(values["weight"]), bias=bias, factors=factors)
