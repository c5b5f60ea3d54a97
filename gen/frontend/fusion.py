"""Folds batch norm into convolutions and activations into whatever produces their input."""

import dataclasses

import numpy as np

from popshift.gen.frontend.binary import (
    before_pools,
    binary_weight,
    signs_of_inputs,
    signs_once,
    unsupported_reader,
    whole_sums,
)
from popshift.gen.frontend.findings import Finding
from popshift.gen.frontend.float_graph import (
    BinaryWeight,
    FloatConvolution,
    FloatGraph,
    FloatOperator,
    FloatPool,
    FloatSign,
    Step,
    by_input,
    inputs_of,
    reading,
)
from popshift.gen.frontend.levels import fold_quantiser, integer_weight, levels_of_inputs
from popshift.gen.frontend.raw import BatchNorm, Clamp, Quantiser, RawOperator, Sign
from popshift.gen.frontend.strides import without_strided_copies
from popshift.gen.graph import Pooling, Window


def fuse(graph: FloatGraph, raw: list[RawOperator], unknown: set[str]) -> dict[str, Finding]:
    """Fill ``graph.operators`` from `raw`, folding what can be folded; tensors and outputs of `graph` follow.

    `unknown` names tensors made by unsupported operators: what reads them is not judged.

    An activation that cannot be folded (its input is used elsewhere too) becomes a 1 x 1 max pooling and a
    clamp.

    Returns
    -------
    operator name -> what became of it, for `BatchNorm` and `Clamp`; an unfoldable batch norm is unsupported.
    """
    raw = signs_of_inputs(graph, before_pools(graph, signs_once(graph, raw)))
    raw = levels_of_inputs(graph, raw)
    raw, later = without_strided_copies(graph, raw), {}
    readers: dict[str, int] = {}
    for name in [name for operator in raw for name in inputs_of(operator)] + graph.outputs:
        readers[name] = readers.get(name, 0) + 1
    done: dict[str, FloatOperator] = {}  # by output tensor
    renamed: dict[str, str] = {}  # tensor that was folded away -> tensor that took its place
    findings: dict[str, Finding] = {}
    for operator in raw:
        source = renamed.get(operator.input, operator.input)
        if isinstance(operator, FloatOperator):
            if isinstance(operator, FloatConvolution) and operator.input in later:
                operator = _behind(later[operator.input], operator)
            done[operator.output], finding = _take(graph, reading(operator, renamed))
            if finding is not None:
                findings[operator.name] = finding
            continue
        producer = done.get(source)
        alone = readers[operator.input] == 1
        if source in unknown:
            unknown.add(operator.output)
            continue
        if isinstance(operator, BatchNorm):
            folded, finding = _fold_batch_norm(graph, operator, producer, alone)
            if folded is None and _goes_on(graph, raw, operator):
                later[operator.output] = operator
                renamed[operator.output] = source
                del graph.tensors[operator.output]
                what = "folded into the weights behind it"
                findings[operator.name] = Finding(operator.name, "batch_norm", True, what)
                continue
        elif isinstance(operator, Sign):
            folded, finding = _fold_sign(graph, operator, producer, alone, source)
        elif isinstance(operator, Quantiser):
            folded, finding = fold_quantiser(graph, operator, producer, alone, source)
        else:
            folded, finding = _fold_clamp(graph, operator, producer, alone, source)
        findings[operator.name] = finding
        if folded is None:
            unknown.add(operator.output)
            continue
        done[folded.output] = folded
        if folded.output != operator.output:
            renamed[operator.output] = folded.output
            del graph.tensors[operator.output]
    graph.dims = {renamed.get(name, name): dims for name, dims in graph.dims.items()}
    graph.outputs = [renamed.get(name, name) for name in graph.outputs]
    for name in graph.outputs:
        if name in done and all(name not in inputs_of(operator) for operator in done.values()):
            done[name] = whole_sums(graph, done[name])
    graph.operators = list(done.values())
    return findings


def _goes_on(graph: FloatGraph, raw: list[RawOperator], norm: BatchNorm) -> bool:
    """Whether nothing but layers with weights reads what the batch norm makes, none of which pads it with
    zeros that it would have made something else of.
    """
    readers = [operator for operator in raw if norm.output in inputs_of(operator)]
    return (
        norm.output not in graph.outputs
        and bool(readers)
        and all(
            isinstance(operator, FloatConvolution)
            and operator.smartdeal is None
            and not (any(operator.window.padding) and norm.offset.any())
            for operator in readers
        )
    )


def _behind(norm: BatchNorm, layer: FloatConvolution) -> FloatConvolution:
    """The layer with the factors and offsets of its input in its own weights."""
    bias = layer.bias + (layer.weight * by_input(norm.offset, layer)).sum(axis=(1, 2, 3))
    uniform = len(set(norm.factor)) == 1 and norm.factor[0] != 0
    step = layer.step * abs(norm.factor[0]) if layer.step is not None and uniform else None
    return dataclasses.replace(
        layer, weight=layer.weight * by_input(norm.factor, layer), bias=bias, step=step
    )


def _take(graph: FloatGraph, operator: FloatOperator) -> tuple[FloatOperator, Finding | None]:
    """An operator that stays; what it makes of binary tensors or of levels, or why it cannot."""
    sources = [graph.tensors[name] for name in inputs_of(operator) if name in graph.tensors]
    tensor = next((tensor for tensor in sources if tensor.sign), None)
    if tensor is None:
        if isinstance(operator, FloatConvolution) and sources and sources[0].levels is not None:
            return dataclasses.replace(operator, binary=integer_weight(operator)), None
        if isinstance(operator, FloatPool) and operator.operation is Pooling.MAX and sources:
            own = graph.tensors[operator.output]  # a maximum is one of the levels
            graph.tensors[operator.output] = dataclasses.replace(own, levels=sources[0].levels)
        return operator, None
    if (finding := unsupported_reader(operator, tensor)) is not None:
        return operator, finding
    if isinstance(operator, FloatConvolution):
        return dataclasses.replace(operator, binary=binary_weight(operator)), None
    graph.tensors[operator.output] = dataclasses.replace(graph.tensors[operator.output], sign=tensor.sign)
    return operator, None


def _fold_batch_norm(
    graph: FloatGraph, norm: BatchNorm, producer: FloatOperator | None, alone: bool
) -> tuple[FloatOperator | None, Finding]:
    def refused(reason: str, remedy: str) -> tuple[None, Finding]:
        return None, Finding(norm.name, "batch_norm", False, reason, remedy)

    behind = (
        "place it directly behind a convolution or linear layer, or fold it into the next layer's weights"
    )
    if not isinstance(producer, FloatConvolution):
        what = "the network's input" if producer is None else f"{_kind(producer)} {producer.name}"
        return refused(f"batch norm follows {what}, so there are no weights to fold it into", behind)
    if (producer.low, producer.high) != (-np.inf, np.inf):
        return refused(f"batch norm follows the activation of {producer.name}", behind)
    if producer.sign:
        return refused(f"batch norm follows the sign of {producer.name}", behind)
    if graph.tensors[producer.output].levels is not None:
        return refused(f"batch norm follows the quantiser of {producer.name}", behind)
    if not alone:
        remedy = "let every reader take the normalised tensor"
        return refused(f"the output of {producer.name} is also used without the batch norm", remedy)
    weight = producer.weight * norm.factor[:, None, None, None]
    bias = producer.bias * norm.factor + norm.offset
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return refused(
            f"folded into {producer.name} it gives weights that are not finite", "train the network again"
        )
    form = producer.smartdeal
    if form is not None:
        form = dataclasses.replace(form, scale=form.scale * norm.factor)
    binary = _followed(producer, norm.step)
    step = None if producer.step is None or not norm.factor.all() else producer.step * np.abs(norm.factor)
    folded = dataclasses.replace(producer, weight=weight, bias=bias, smartdeal=form, binary=binary, step=step)
    return folded, Finding(norm.name, "batch_norm", True, f"folded into {producer.name}")


def _kind(producer: FloatOperator) -> str:
    return "pooling" if isinstance(producer, FloatPool) else "the sum"


def _followed(producer: FloatConvolution, step: Step) -> BinaryWeight | None:
    """What a binary layer's sums go through, with one more step."""
    if producer.binary is None:
        return None
    return dataclasses.replace(producer.binary, steps=(*producer.binary.steps, step))


def _fold_sign(
    graph: FloatGraph, sign: Sign, producer: FloatOperator | None, alone: bool, source: str
) -> tuple[FloatOperator | None, Finding]:
    quantised = graph.tensors[source].levels is not None  # its sign is not that of what was rounded
    if not isinstance(producer, FloatConvolution) or not alone or producer.sign or quantised:
        if graph.tensors[source].sign or sign.negate is not None:
            remedy = "take the tensor in front of the other sign"
            return None, Finding(sign.name, "sign", False, "the sign follows a binary tensor", remedy)
        graph.tensors[sign.output] = dataclasses.replace(graph.tensors[sign.output], sign=sign.scale)
        alone_standing = FloatSign(name=sign.name, input=source, output=sign.output, sign=sign.scale)
        return alone_standing, Finding(sign.name, "sign", True, "runs on its own")
    graph.tensors[producer.output] = dataclasses.replace(graph.tensors[producer.output], sign=sign.scale)
    folded = dataclasses.replace(producer, sign=sign.scale, negate=sign.negate)
    return folded, Finding(sign.name, "sign", True, f"fused into {producer.name}")


def _fold_clamp(
    graph: FloatGraph, clamp: Clamp, producer: FloatOperator | None, alone: bool, source: str
) -> tuple[FloatOperator, Finding]:
    signed = isinstance(producer, FloatConvolution) and producer.sign
    signed = signed or graph.tensors[source].levels is not None
    if producer is None or not alone or signed or isinstance(producer, FloatSign):
        standalone = FloatPool(
            name=clamp.name,
            input=source,
            output=clamp.output,
            window=Window((1, 1)),
            operation=Pooling.MAX,
            low=clamp.low,
            high=clamp.high,
        )
        return standalone, Finding(clamp.name, "activation", True, "runs on its own as a 1 x 1 max pooling")
    low = min(max(producer.low, clamp.low), clamp.high)
    high = min(max(producer.high, clamp.low), clamp.high)
    fused = dataclasses.replace(producer, low=low, high=high)
    if isinstance(fused, FloatConvolution):
        fused = dataclasses.replace(fused, binary=_followed(fused, lambda x: x.clamp(clamp.low, clamp.high)))
    return fused, Finding(clamp.name, "activation", True, f"fused into {producer.name}")
