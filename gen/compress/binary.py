"""Binary layers as integers: batch norm, activation and sign become one threshold for each channel.

The threshold is not computed but found: what the module does behind its sums is done, in float32, to every
value that a sum can take, so that the bits are those of the trained module, ties and rounding included (the
identities: Courbariaux et al., "Binarized Neural Networks", 2016, and Umuroglu et al., "FINN", FPGA 2017).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from popshift.firmware_py.bits import packed_size
from popshift.gen.frontend.float_graph import BinaryWeight, FloatConvolution, FloatTensor
from popshift.gen.graph import Convolution, Requantisation, Tensor
from popshift.hw.errors import ModelError
from popshift.hw.numerics import Requantise


def binary_tensor(tensor: FloatTensor) -> Tensor:
    """As it is stored."""
    channels, height, width = tensor.shape
    shape = packed_size(channels), height, width
    return Tensor(tensor.name, shape, tensor.sign, 0, channels, tensor.threshold)


def binarised(operator: FloatConvolution, source: Tensor, mode: Requantise) -> Convolution:
    """A layer with binary input and output: ``sum of products + bias >= 0`` are the bits of the module.

    Raises
    ------
    ModelError: the bits of a channel do not change once at most, so that there is no threshold.
    """
    assert operator.binary is not None
    weight, bias = thresholds(operator.name, operator.binary, source.scale, operator.negate)
    return Convolution(
        name=operator.name,
        input=operator.input,
        output=operator.output,
        window=operator.window,
        weight=weight,
        bias=bias,
        requantisation=Requantisation.identity(len(weight), mode),
    )


def thresholds(
    layer: str, binary: BinaryWeight, scale: float, negate: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Weights of 1 and -1, of falling channels with the other sign, and a bias for each.

    Parameters
    ----------
    scale: magnitude of the inputs.
    negate: channels whose bits are the other way round.

    Raises
    ------
    ModelError: see `binarised`.
    """
    channels, inputs = len(binary.signs), binary.signs[0].size
    sums = np.arange(-inputs, inputs + 1)
    bits = _bits(binary, sums * np.float32(scale))
    if negate is not None:
        bits = bits ^ negate[:, None]
    weight, bias = binary.signs.copy(), np.empty(channels, np.int64)
    changes = bits[:, 1:] != bits[:, :-1]
    for channel in range(channels):
        places = np.flatnonzero(changes[channel])
        if len(places) > 1:
            what = f"the bits of channel {channel} change {len(places)} times as its sum grows"
            raise ModelError(what, where=f"layer {layer}", remedy="use batch norm and clamps before a sign")
        if not len(places):
            bias[channel] = inputs if bits[channel, 0] else -inputs - 1
        elif bits[channel, -1]:
            bias[channel] = -sums[places[0] + 1]
        else:  # falling: of the negated sum it rises
            weight[channel] = -weight[channel]
            bias[channel] = sums[places[0]]
    return weight, bias


def _bits(binary: BinaryWeight, sums: NDArray[np.floating]) -> NDArray[np.bool_]:
    """bool (channels, sums): what the module makes of all `sums` of products, weights not yet scaled."""
    scaled = torch.from_numpy(binary.scale)[:, None] * torch.from_numpy(sums.astype(np.float32))
    values = scaled[None, :, :, None]
    with torch.no_grad():
        for step in binary.steps:
            values = step(values)
    return (values[0, :, :, 0] >= 0).numpy()


def signs_of(convolution: Convolution, operator: FloatConvolution, mode: Requantise) -> Convolution:
    """An int8 layer whose output is binary, from what quantisation made of it: its bits are ``acc >= 0``."""
    weight, bias = convolution.weight, convolution.bias.copy()
    never = operator.high < 0
    if operator.low >= 0 or never:  # the activation leaves one sign only
        weight, bias = np.zeros_like(weight), np.full_like(bias, -1 if never else 0)
    if operator.negate is not None and operator.negate.any():  # not (acc >= 0) is -acc - 1 >= 0
        weight = weight * np.where(operator.negate, -1, 1).astype(np.int8)[:, None, None, None]
        bias = np.where(operator.negate, -bias - 1, bias)
    return Convolution(
        name=convolution.name,
        input=convolution.input,
        output=convolution.output,
        window=convolution.window,
        weight=weight,
        bias=bias,
        requantisation=Requantisation.identity(len(weight), mode),
        factors=None if weight is not convolution.weight else convolution.factors,
        groups=convolution.groups,
    )


def whole(
    operator: FloatConvolution, source: Tensor, shape: tuple[int, int, int], mode: Requantise
) -> tuple[Tensor, Convolution]:
    """A layer with a binary input whose sums are its output."""
    assert operator.binary is not None
    signs = operator.binary.signs
    scale = source.scale * float(operator.binary.scale[0])
    layer = Convolution(
        name=operator.name,
        input=operator.input,
        output=operator.output,
        window=operator.window,
        weight=signs,
        bias=np.zeros(len(signs), np.int64),
        requantisation=Requantisation.identity(len(signs), mode),
    )
    return Tensor(operator.output, shape, scale, 0), layer
