"""Layers with one bit per weight and per activation (IR-Net, CVPR 2020; DIR-Net, arXiv 2109.12338)."""

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from popshift.gen.train.binary.estimators import Surrogate, binary_sign
from popshift.hw.errors import InputError

_EVEN = 1e-6
"""A filter whose weights differ by less, relative to their size, has no deviation but that of rounding."""


def balanced(weight: torch.Tensor) -> torch.Tensor:
    """Every filter with mean 0 and standard deviation 1 (unbiased); zeros where all its weights are equal.

    Parameters
    ----------
    weight: float32 (filters, ...).
    """
    axes = tuple(range(1, weight.dim()))
    centred = weight - weight.mean(axes, keepdim=True)
    variance = centred.square().sum(axes, keepdim=True) / max(1, weight[0].numel() - 1)
    varies = variance > (_EVEN * weight.detach().abs().mean(axes, keepdim=True)).square()
    deviation = torch.where(varies, variance, 1.0).sqrt()  # 1: no division by 0, and no gradient of the root
    return torch.where(varies, centred / deviation, 0.0)


def power_of_two_scale(weight: torch.Tensor) -> torch.Tensor:
    """2^s of every filter, s = round(log2(mean |w|)), and 1 for zeros: float32 (filters, 1, ...)."""
    mean = weight.abs().mean(tuple(range(1, weight.dim())), keepdim=True)
    return torch.where(mean > 0, mean, 1.0).log2().round().exp2()


def binary_weight(
    weight: torch.Tensor, *, balance: bool = True, surrogate: Surrogate | None = None
) -> torch.Tensor:
    """Weights of one bit, +-2^s with one s per filter: exact powers of two (float32, shape of `weight`).

    IR-Net's Libra parameter binarisation, which DIR-Net keeps as information maximised binarisation (IMB):
    the filters are balanced and standardised, then 2^s sign(w). The sign of 0 is +1. No gradient flows
    through s. Standardised Gaussian weights have s = 0; a batch norm behind the layer takes 2^s over. The
    straight-through estimator lets standardised weights of any size pass: 1 is a bound for raw weights.

    Parameters
    ----------
    weight: float32 (filters, ...).
    balance: without it, the weights are taken as they are: sign and scale of the raw weight.
    surrogate: derivative of the sign in training.
    """
    reach = 1.0
    if balance:
        weight, reach = balanced(weight), math.inf  # else a third of a Gaussian would not be trained
    return binary_sign(weight, surrogate, reach=reach) * power_of_two_scale(weight.detach())


class BinaryConv2d(nn.Conv2d):
    """A convolution of signs of activations with weights of one bit: (N, in, height, width) to (N, out, …).

    Its padding is zero and adds nothing to a sum. The weight it holds is the real one that is trained.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation: as of `torch.nn.Conv2d`.
    groups: 1.
    bias: None by default, for a batch norm follows.
    padding_mode: ``zeros``.
    balance: see `binary_weight`.
    surrogate: derivative of both signs in training; `set_progress` moves it on.

    Raises
    ------
    InputError: groups or another padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        *,
        balance: bool = True,
        surrogate: Surrogate | None = None,
    ) -> None:
        if groups != 1:
            raise InputError(
                f"groups must be 1, not {groups}", where="BinaryConv2d", remedy="use plain convolutions here"
            )
        if padding_mode != "zeros":
            what = f"padding_mode must be 'zeros', not {padding_mode!r}"
            raise InputError(what, where="BinaryConv2d", remedy="pad in a layer of its own")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias)
        self.balance = balance
        self.surrogate = Surrogate() if surrogate is None else surrogate

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        surrogate = self.surrogate if self.training else None
        weight = binary_weight(self.weight, balance=self.balance, surrogate=surrogate)
        signs = binary_sign(input, surrogate)
        return functional.conv2d(signs, weight, self.bias, self.stride, self.padding, self.dilation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, balance={self.balance}, estimator={self.surrogate.estimator}"


class BinaryLinear(nn.Linear):
    """A fully connected layer of signs of activations and weights of one bit, (N, in) to (N, out).

    Parameters
    ----------
    in_features, out_features: as of `torch.nn.Linear`.
    bias: None by default.
    balance, surrogate: see `BinaryConv2d`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        balance: bool = True,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.balance = balance
        self.surrogate = Surrogate() if surrogate is None else surrogate

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        surrogate = self.surrogate if self.training else None
        weight = binary_weight(self.weight, balance=self.balance, surrogate=surrogate)
        return functional.linear(binary_sign(input, surrogate), weight, self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, balance={self.balance}, estimator={self.surrogate.estimator}"


def binary_layers(network: nn.Module) -> Iterator[tuple[str, BinaryConv2d | BinaryLinear]]:
    """Binary layers with their paths, in the order in which they were registered."""
    for name, layer in network.named_modules():
        if isinstance(layer, BinaryConv2d | BinaryLinear):
            yield name, layer


def set_progress(network: nn.Module, epoch: int, epochs: int) -> None:
    """Move the estimators of all binary layers to the beginning of an epoch, numbered from 0.

    As in IR-Net's code the last epoch stays one step below the end of the schedule, which epoch = epochs is.

    Raises
    ------
    InputError: no such epoch.
    """
    if not 0 <= epoch <= epochs or not epochs:
        what = f"epoch must be 0 .. {epochs} of at least one, not {epoch}"
        raise InputError(what, where="set_progress")
    for _, layer in binary_layers(network):
        layer.surrogate = dataclasses.replace(layer.surrogate, progress=epoch / epochs)
