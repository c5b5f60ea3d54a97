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
    Step,
)
from popshift.gen.frontend.raw import BatchNorm, Clamp, RawOperator, Sign
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
    readers: dict[str, int] = {}
    for name in [operator.input for operator in raw] + graph.outputs:
        readers[name] = readers.get(name, 0) + 1
    done: dict[str, FloatOperator] = {}  # by output tensor
    renamed: dict[str, str] = {}  # tensor that was folded away -> tensor that took its place
    findings: dict[str, Finding] = {}
    for operator in raw:
        source = renamed.get(operator.input, operator.input)
        if isinstance(operator, FloatOperator):
            done[operator.output], finding = _take(graph, operator, source)
            if finding is not None:
                findings[operator.name] = finding
            continue
        producer = done.get(source)
        alone = readers[operator.input] == 1
        if source in unknown:
            unknown.add(operator.output)
            continue
        if isinstance(operator, BatchNorm):
            folded, finding = _fold_batch_norm(operator, producer, alone)
        elif isinstance(operator, Sign):
            folded, finding = _fold_sign(graph, operator, producer, alone)
        else:
            folded, finding = _fold_clamp(operator, producer, alone, source)
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
        if name in done and all(operator.input != name for operator in done.values()):
            done[name] = whole_sums(graph, done[name])
    graph.operators = list(done.values())
    return findings


def _take(graph: FloatGraph, operator: FloatOperator, source: str) -> tuple[FloatOperator, Finding | None]:
    """An operator that stays; what it makes of a binary tensor, or why it cannot."""
    operator = dataclasses.replace(operator, input=source)
    tensor = graph.tensors.get(source)
    if tensor is None or not tensor.sign:
        return operator, None
    if (finding := unsupported_reader(operator, tensor)) is not None:
        return operator, finding
    if isinstance(operator, FloatConvolution):
        return dataclasses.replace(operator, binary=binary_weight(operator)), None
    graph.tensors[operator.output] = dataclasses.replace(graph.tensors[operator.output], sign=tensor.sign)
    return operator, None


def _fold_batch_norm(
    norm: BatchNorm, producer: FloatOperator | None, alone: bool
) -> tuple[FloatOperator | None, Finding]:
    def refused(reason: str, remedy: str) -> tuple[None, Finding]:
        return None, Finding(norm.name, "batch_norm", False, reason, remedy)

    behind = (
        "place it directly behind a convolution or linear layer, or fold it into the next layer's weights"
    )
    if not isinstance(producer, FloatConvolution):
        what = "the network's input" if producer is None else f"pooling {producer.name}"
        return refused(f"batch norm follows {what}, so there are no weights to fold it into", behind)
    if (producer.low, producer.high) != (-np.inf, np.inf):
        return refused(f"batch norm follows the activation of {producer.name}", behind)
    if producer.sign:
        return refused(f"batch norm follows the sign of {producer.name}", behind)
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
    folded = dataclasses.replace(producer, weight=weight, bias=bias, smartdeal=form, binary=binary)
    return folded, Finding(norm.name, "batch_norm", True, f"folded into {producer.name}")


def _followed(producer: FloatConvolution, step: Step) -> BinaryWeight | None:
    """What a binary layer's sums go through, with one more step."""
    if producer.binary is None:
        return None
    return dataclasses.replace(producer.binary, steps=(*producer.binary.steps, step))


def _fold_sign(
    graph: FloatGraph, sign: Sign, producer: FloatOperator | None, alone: bool
) -> tuple[FloatOperator | None, Finding]:
    if not isinstance(producer, FloatConvolution) or not alone or producer.sign:
        behind = "no layer with weights" if alone else "a tensor that is also used without it"
        remedy = "place it behind a convolution or linear layer (batch norm, clamp, max pool may lie between)"
        return None, Finding(sign.name, "sign", False, f"the sign follows {behind}", remedy)
    graph.tensors[producer.output] = dataclasses.replace(graph.tensors[producer.output], sign=sign.scale)
    folded = dataclasses.replace(producer, sign=sign.scale, negate=sign.negate)
    return folded, Finding(sign.name, "sign", True, f"fused into {producer.name}")


def _fold_clamp(
    clamp: Clamp, producer: FloatOperator | None, alone: bool, source: str
) -> tuple[FloatOperator, Finding]:
    signed = isinstance(producer, FloatConvolution) and producer.sign
    if producer is None or not alone or signed:
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
