"""Post-training quantisation to int8: weights symmetric per output channel, activations affine per tensor.

After Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2018.

* Max pooling keeps the quantisation of its input, so it only compares.
* Average pooling has a range of its own: a mean spreads less than what it averages.
* SmartDeal weights have their integers already, and one scale per output channel.
* Biases are int32 at the scale input scale * weight scale.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.bits import packed_size
from popshift.firmware_py.tensors import quantise as quantise_values
from popshift.gen.compress.binary import binarised, binary_tensor, signs_of, whole
from popshift.gen.compress.levels import corrected_bias
from popshift.gen.compress.ranges import QuantisationOptions, affine, calibration_batch, observe
from popshift.gen.compress.sums import sum_factors
from popshift.gen.frontend.float_graph import (
    FloatAdd,
    FloatConvolution,
    FloatFactors,
    FloatGraph,
    FloatPool,
    FloatSign,
    Levels,
    inputs_of,
)
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
    wider_accumulators,
)
from popshift.hw import numerics
from popshift.hw.config import POOL_WINDOW_MAX
from popshift.hw.errors import ModelError
from popshift.hw.numerics import ACTIVATION_MAX, ACTIVATION_MIN, WEIGHT_MAX, Requantise

_NEXT_TO_NOTHING = 2.0**-20
_FACTOR_MARGIN = 0.01
"""How far below the mode's limit requantisation factors stay. An output range that would need more is finer
than the accumulators' own steps, and is widened."""


Range = tuple[float, float] | Levels
"""What the calibration data showed, or what the network itself allows."""


def _affine(found: Range) -> tuple[float, int]:
    """(scale, zero point)."""
    return (found.scale, found.zero_point) if isinstance(found, Levels) else affine(*found)


def _bias_limit(accumulator_width: int) -> int:
    """Magnitude a quantised bias may have: half the accumulator, the other half is for the products.

    A channel with weights tiny beside its bias gets coarser weights instead of a bias that does not fit.
    """
    return 1 << (accumulator_width - 2)


def quantise(
    graph: FloatGraph,
    calibration: object,
    mode: Requantise,
    options: QuantisationOptions | None = None,
    *,
    accumulator_width: int = 32,
    smartdeal: bool = True,
) -> Graph:
    """The integer network.

    Parameters
    ----------
    graph: from a front end.
    calibration: typical inputs, an array or tensor (N, channels, height, width) as the float network takes
        them; some hundred samples.
    mode, accumulator_width: requantisation and bits of a sum of the accelerator.
    options: how activation ranges are chosen.
    smartdeal: keep the integers of SmartDeal weights; else they are quantised to int8 like all others.

    Raises
    ------
    InputError: calibration data of the wrong shape, empty, or with NaN.
    ModelError: an accumulator could overflow, or a window is too large; names the layer.
    """
    options = options or QuantisationOptions()
    observed = observe(graph, calibration_batch(graph, calibration), options)
    ranges = {name: graph.tensors[name].levels or observed[name] for name in graph.tensors}
    result = Graph(mode=mode, inputs=list(graph.inputs), outputs=list(graph.outputs))
    for name in graph.inputs:
        tensor = Tensor(name, graph.tensors[name].shape, *_affine(ranges[name]))
        result.tensors[name] = binary_tensor(graph.tensors[name]) if graph.tensors[name].sign else tensor
    for operator in graph.operators:
        source, shape = result.tensors[operator.input], graph.tensors[operator.output].shape
        output_range = ranges[operator.output]
        quantised: Operator
        if isinstance(operator, FloatAdd):
            tensor, added = _sum(operator, result.tensors, shape, output_range, mode)
            result.tensors[tensor.name] = tensor
            result.operators.append(added)
            continue
        if isinstance(operator, FloatSign) or graph.tensors[operator.output].sign:
            result.tensors[operator.output] = binary_tensor(graph.tensors[operator.output])
            result.operators.append(_to_bits(operator, source, shape, output_range, mode, accumulator_width))
            continue
        if isinstance(operator, FloatConvolution) and operator.whole:
            tensor, quantised = whole(operator, source, shape, mode)
        elif isinstance(operator, FloatConvolution):
            operator = operator if smartdeal else dataclasses.replace(operator, smartdeal=None)
            levels = graph.tensors[operator.input].levels
            tensor, quantised = _convolution(
                operator, source, shape, output_range, mode, accumulator_width, levels
            )
        else:
            tensor, quantised = _pool(operator, source, shape, output_range, mode, accumulator_width)
        result.tensors[tensor.name] = tensor
        result.operators.append(quantised)
    return result


def _sum(
    operator: FloatAdd,
    tensors: dict[str, Tensor],
    shape: tuple[int, int, int],
    output_range: Range,
    mode: Requantise,
) -> tuple[Tensor, Add]:
    """A sum of two tensors, with the factors of TensorFlow Lite's ADD."""
    scales = [tensors[name].scale for name in inputs_of(operator)]
    step = 2 * max(scales) / (1 << mode.sum_shift)
    tensor = _output_tensor(operator.output, shape, output_range, step, mode)
    first, second, last = sum_factors(scales[0], scales[1], tensor.scale, mode)
    requantisation = Requantisation(
        multiplier=np.array([last.multiplier], np.int64),
        shift=np.array([last.shift], np.int64),
        low=_limit(operator.low, tensor),
        high=_limit(operator.high, tensor),
    )
    return tensor, Add(
        name=operator.name,
        input=operator.input,
        other=operator.other,
        output=operator.output,
        first=first,
        second=second,
        requantisation=requantisation,
    )


def _to_bits(
    operator: FloatConvolution | FloatPool | FloatSign,
    source: Tensor,
    shape: tuple[int, int, int],
    output_range: Range,
    mode: Requantise,
    accumulator_width: int,
) -> Operator:
    """A layer with a binary output."""
    if not isinstance(operator, FloatConvolution):
        alone = isinstance(operator, FloatSign)
        return Pool(
            name=operator.name,
            input=operator.input,
            output=operator.output,
            window=Window((1, 1)) if alone else operator.window,
            operation=Pooling.MAX,
            requantisation=Requantisation.identity(shape[0] if alone else packed_size(shape[0]), mode),
        )
    if source.bits:
        return binarised(operator, source, mode)
    _, convolution = _convolution(operator, source, shape, output_range, mode, accumulator_width)
    return signs_of(convolution, operator, mode)


def _convolution(
    operator: FloatConvolution,
    source: Tensor,
    shape: tuple[int, int, int],
    output_range: Range,
    mode: Requantise,
    accumulator_width: int,
    source_levels: Levels | None = None,
) -> tuple[Tensor, Convolution]:
    for_bias = np.abs(operator.bias) / (source.scale * _bias_limit(accumulator_width))
    factors = None if operator.smartdeal is None else _positive(operator.smartdeal)
    if source.bits:
        # Every weight is the scale or its negative; where batch norm makes it 0, next to nothing.
        scales = np.abs(operator.weight.reshape(shape[0], -1)).max(1)
        scales = np.maximum(scales, scales.max(initial=0) * _NEXT_TO_NOTHING)
        scales = np.maximum(scales, for_bias)
    elif factors is None:
        largest = np.abs(operator.weight.reshape(shape[0], -1)).max(1)
        scales = largest / WEIGHT_MAX
        if operator.step is not None:  # whole multiples of it stay whole, unless there is a -128
            numbers = np.maximum(np.rint(largest / operator.step), 1)
            whole_scales = operator.step / np.maximum(WEIGHT_MAX // numbers, 1)
            scales = np.where(numbers <= WEIGHT_MAX, whole_scales, scales)
        scales = np.maximum(scales, for_bias)
    else:
        scales = np.where(factors.scale > 0, factors.scale, for_bias)
    tensor = _output_tensor(operator.output, shape, output_range, source.scale * float(scales.max()), mode)
    scales[scales == 0] = tensor.scale / source.scale  # no weights, no bias: any scale will do
    steps = source.scale * scales / tensor.scale
    if source.bits:
        weight = np.where(operator.weight >= 0, 1, -1).astype(np.int8)
    elif factors is None:
        weight = np.rint(operator.weight / scales[:, None, None, None])
        weight = np.clip(weight, -WEIGHT_MAX, WEIGHT_MAX).astype(np.int8)
    else:
        weight = factors.factors.weight(operator.weight.shape)
    bias = np.rint(operator.bias / (source.scale * scales)).astype(np.int64)
    requantisation = _requantisation(operator, tensor, steps, mode)
    if operator.binary is not None and source_levels is not None and isinstance(output_range, Levels):
        levels = source_levels, output_range
        bias = corrected_bias(operator.binary, source, levels, weight, bias, requantisation, mode)
    # What the array adds up: products with the zero point still in, which the bias then takes out again.
    whole = weight.reshape(shape[0], -1).astype(np.int64)
    folded_bias = bias - source.zero_point * whole.sum(1)
    bounds = [
        numerics.accumulator_bound(int(l1), int(b))
        for l1, b in zip(np.abs(whole).sum(1), folded_bias, strict=True)
    ]
    _prove(operator.name, bounds, requantisation, accumulator_width)
    return tensor, Convolution(
        name=operator.name,
        input=operator.input,
        output=operator.output,
        window=operator.window,
        weight=weight,
        bias=bias,
        requantisation=requantisation,
        factors=None if factors is None else factors.factors,
        groups=operator.groups,
    )


def _positive(form: FloatFactors) -> FloatFactors:
    """The same weights with scales that are not negative: signs move into the basis."""
    keep, signs = form.scale != 0, np.where(form.scale < 0, -1, 1)
    coefficients = form.factors.coefficients * keep[:, None, None, None].astype(np.int8)
    basis = (form.factors.basis * signs[:, None, None, None]).astype(np.int8)
    return FloatFactors(
        Factors(coefficients=coefficients, basis=basis, taps=form.factors.taps), np.abs(form.scale)
    )


def _pool(
    operator: FloatPool,
    source: Tensor,
    shape: tuple[int, int, int],
    output_range: Range,
    mode: Requantise,
    accumulator_width: int,
) -> tuple[Tensor, Pool]:
    taps = math.prod(operator.window.kernel)
    if taps > POOL_WINDOW_MAX:
        raise ModelError(
            f"its window has {taps} pixels, at most {POOL_WINDOW_MAX} are possible",
            where=f"layer {operator.name}",
            remedy="pool in two steps",
        )
    channels, counts = shape[0], {operator.divisor}
    if operator.inside:
        counts = set(np.outer(*operator.window.inside(*source.shape[1:])).ravel().tolist())
    if isinstance(output_range, Levels):
        tensor = Tensor(operator.output, shape, *_affine(output_range))
    elif operator.operation is Pooling.MAX or (taps, operator.divisor) == (1, 1):
        tensor = Tensor(operator.output, shape, source.scale, source.zero_point)
    else:
        tensor = _output_tensor(operator.output, shape, output_range, source.scale / min(counts), mode)
    by_count = {
        count: _requantisation(
            operator, tensor, np.full(channels, source.scale / (count * tensor.scale)), mode
        )
        for count in counts | {operator.divisor}
    }
    for requantisation in by_count.values():
        bounds = [numerics.accumulator_bound(taps, taps * abs(source.zero_point))] * channels
        _prove(operator.name, bounds, requantisation, accumulator_width)
    requantisation = by_count.pop(operator.divisor)
    return tensor, Pool(
        name=operator.name,
        input=operator.input,
        output=operator.output,
        window=operator.window,
        operation=operator.operation,
        requantisation=requantisation,
        partial={
            count: Factor(int(found.multiplier[0]), int(found.shift[0]))
            for count, found in sorted(by_count.items())
        },
    )


def _output_tensor(
    name: str,
    shape: tuple[int, int, int],
    output_range: Range,
    accumulator_scale: float,
    mode: Requantise,
) -> Tensor:
    """The calibrated range, widened where the requantisation factor would be too large for the hardware."""
    if isinstance(output_range, Levels):
        return Tensor(name, shape, *_affine(output_range))
    scale, _ = affine(*output_range)
    wider = max(1.0, accumulator_scale / (scale * (mode.factor_limit - _FACTOR_MARGIN)))
    return Tensor(name, shape, *affine(output_range[0] * wider, output_range[1] * wider))


def _requantisation(
    operator: FloatConvolution | FloatPool, tensor: Tensor, factors: NDArray[np.float64], mode: Requantise
) -> Requantisation:
    """`factors`: real factor per output channel; exactly one means that values pass unchanged."""
    identity = numerics.identity_multiplier(mode)
    pairs = [identity if f == 1 else numerics.quantise_multiplier(float(f), mode) for f in factors]
    return Requantisation(
        multiplier=np.array([multiplier for multiplier, _ in pairs], np.int64),
        shift=np.array([shift for _, shift in pairs], np.int64),
        low=_limit(operator.low, tensor),
        high=_limit(operator.high, tensor),
    )


def _limit(real: float, tensor: Tensor) -> int:
    """The integer a fused activation clamps to."""
    if math.isinf(real):
        return ACTIVATION_MIN if real < 0 else ACTIVATION_MAX
    return int(quantise_values(real, tensor.scale, tensor.zero_point))


def _prove(layer: str, bounds: list[int], requantisation: Requantisation, accumulator_width: int) -> None:
    """Refuse a layer whose accumulators, or their products with the multiplier, could overflow.

    `bounds`: largest accumulator magnitude per output channel.
    """
    wider = wider_accumulators(accumulator_width)
    for channel, (bound, multiplier) in enumerate(
        zip(bounds, requantisation.multiplier.tolist(), strict=True)
    ):
        if bound >= 1 << (accumulator_width - 1):
            raise ModelError(
                f"the accumulator of output channel {channel} can reach {bound}, which does not fit "
                f"{accumulator_width} bits",
                where=f"layer {layer}",
                remedy=f"give the layer fewer inputs, or smaller weights (weight decay){wider}",
            )
        if bound * multiplier > numerics.PRODUCT_MAX:
            raise ModelError(
                f"the requantisation of output channel {channel} can overflow: "
                "it reaches far beyond what calibration saw",
                where=f"layer {layer}",
                remedy="calibrate with more varied data",
            )
