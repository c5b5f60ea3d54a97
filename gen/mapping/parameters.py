"""Bias, multiplier and shift of every channel for the post unit, and the proof that nothing overflows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.layout import TensorLayout
from popshift.gen.graph import Convolution, Pool, Pooling, Requantisation, wider_accumulators
from popshift.gen.mapping.weight_tiles import ColumnTile
from popshift.hw import isa, numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import Lane

_SMALLER = "use smaller weights or biases, or fewer input channels"


def convolution_parameters(
    layer: Convolution, source: TensorLayout, config: AcceleratorConfig, tiles: Sequence[ColumnTile] = ()
) -> list[Lane]:
    """(bias, multiplier, shift) of each output channel, the input's zero point folded into the bias.

    `tiles`: its column tiles, whose sums must fit the accumulators before a basis makes channels of them;
    none on the channel unit.
    Padding holds the zero point, so ``sum (x - z) * w = sum x * w - z * sum w`` holds for every pixel.

    Raises
    ------
    ModelError: an accumulator could leave its bits, or its product with the multiplier the post unit's range.
    """
    if source.bits:
        return _binary_parameters(layer, source, config)
    zero_point = source.zero_point
    weight = layer.weight.reshape(layer.weight.shape[0], -1).astype(np.int64)
    positive, negative = np.maximum(weight, 0).sum(axis=1), np.minimum(weight, 0).sum(axis=1)
    low, high = numerics.ACTIVATION_MIN, numerics.ACTIVATION_MAX
    largest = high * positive + low * negative
    smallest = low * positive + high * negative
    bias = layer.bias.astype(np.int64) - zero_point * weight.sum(axis=1)
    reached = np.stack([largest, -smallest, abs(bias), largest + bias, -(smallest + bias)])
    if not tiles or tiles[0].basis is None:
        _check_sums(layer, int(max(largest.max(), -smallest.min())), config.accumulator_width, _SMALLER)
    else:
        remedy = "leave the layer out of the decomposition (SmartDealConfig.skip), or use rebuild = true"
        _check_sums(layer, max(tile.sums for tile in tiles) * -low, numerics.FACTORED_BITS, remedy)
    return _checked(layer, bias, reached.max(axis=0), config)


def _binary_parameters(layer: Convolution, source: TensorLayout, config: AcceleratorConfig) -> list[Lane]:
    """The array adds 2 for every channel that agrees with its weight. The sum of products is that minus the
    number of channels; those that only fill a byte are 0 in both, so that they agree.
    """
    kernel_taps = layer.weight[0, 0].size
    filling = source.shape[0] * numerics.LANE_CHANNELS - source.bits
    bias = layer.bias.astype(np.int64) - (source.bits + 2 * filling) * kernel_taps
    most = 2 * numerics.LANE_CHANNELS * source.shape[0] * kernel_taps
    _check_sums(layer, most, config.accumulator_width, _SMALLER)
    return _checked(layer, bias, np.abs(layer.bias) + most, config)


def never(config: AcceleratorConfig) -> Lane:
    """Of a channel whose result is negative, whatever its sum."""
    return Lane(-(1 << (config.accumulator_width - 2)), *numerics.identity_multiplier(config.requantise))


def _check_sums(layer: Convolution, bound: int, bits: int, remedy: str) -> None:
    """Refuse sums that do not fit the accumulators."""
    if bound >= 1 << (bits - 1):
        what = f"a sum can reach {bound} in the accumulators, beyond {bits} bits"
        raise ModelError(what, where=f"layer {layer.name}", remedy=f"{remedy}{wider_accumulators(bits)}")


def pool_parameters(
    layer: Pool, zero_point: int, config: AcceleratorConfig, inside: int | None = None
) -> list[Lane]:
    """(bias, multiplier, shift) of each channel: MAX ``max(x) - z``, AVERAGE ``sum x - taps * z``; of windows
    with `inside` pixels inside (None: all). Padding holds z, and a raw sum does without.

    Raises
    ------
    ModelError: as for `convolution_parameters`.
    """
    taps = layer.window.kernel[0] * layer.window.kernel[1] if layer.operation is Pooling.AVERAGE else 1
    channels = len(layer.requantisation.multiplier)
    if inside is not None and inside in layer.partial:
        layer = replace(layer, requantisation=layer.requantisation.replaced(layer.partial[inside]))
    taken = taps if not layer.raw else 0 if inside is None else taps - inside
    bias = np.full(channels, -taken * zero_point, np.int64)
    return _checked(layer, bias, np.full(channels, taps * 256, np.int64), config)


def _checked(
    layer: Convolution | Pool,
    bias: NDArray[np.int64],
    reached: NDArray[np.int64],
    config: AcceleratorConfig,
) -> list[Lane]:
    """Lanes of all channels; `reached` bounds the magnitude of each channel's accumulator, bias included."""
    factors: Requantisation = layer.requantisation
    width = config.post_bits
    lanes: list[Lane] = []
    for channel, values in enumerate(zip(bias, factors.multiplier, factors.shift, reached, strict=True)):
        offset, multiplier, shift, bound = map(int, values)
        if bound >= 1 << (width - 1):
            raise ModelError(
                f"the accumulator of output channel {channel} can reach {bound}, beyond {width} bits",
                where=f"layer {layer.name}",
                remedy=f"{_SMALLER}{wider_accumulators(width)}",
            )
        if bound * multiplier > numerics.PRODUCT_MAX:
            raise ModelError(
                f"channel {channel}: an accumulator of {bound} times multiplier {multiplier} exceeds 62 bits",
                where=f"layer {layer.name}",
                remedy="use a larger scale for the output tensor",
            )
        lanes.append(Lane(offset, multiplier, shift))
    return lanes


def pack_parameters(config: AcceleratorConfig, lanes: Sequence[Lane]) -> NDArray[np.uint8]:
    """Parameter words (words, bytes) of consecutive channels; lanes beyond the last hold zeros."""
    groups = -(-len(lanes) // config.post_lanes)
    padded = [*lanes, *[Lane()] * (groups * config.post_lanes - len(lanes))]
    words = [
        isa.pack_parameter(config, padded[group * config.post_lanes : (group + 1) * config.post_lanes])
        for group in range(groups)
    ]
    return np.frombuffer(b"".join(words), np.uint8).reshape(groups, config.parameter_word_bytes)
