"""Networks whose inner convolutions are binary, shaped as in IR-Net's code (CVPR 2020): the first convolution
and the last layer keep full precision, Hardtanh is the activation, convolutions have no bias.
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

from popshift.gen.train.binary.estimators import Surrogate
from popshift.gen.train.binary.layers import BinaryConv2d
from popshift.hw.errors import InputError

CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryStyle:
    """How the binary layers of a network are made; see `popshift.gen.train.binary.layers.BinaryConv2d`."""

    balance: bool = True
    surrogate: Surrogate = field(default_factory=Surrogate)

    def convolution(self, inputs: int, channels: int, stride: int = 1) -> BinaryConv2d:
        """3x3, with zero padding of one pixel."""
        return BinaryConv2d(
            inputs, channels, 3, stride, padding=1, balance=self.balance, surrogate=self.surrogate
        )


IRNET = BinaryStyle()
"""Balanced weights and error decay estimation."""


class PaddedShortcut(nn.Module):
    """Option A of He et al. (CVPR 2016): every `stride`-th pixel, new channels are zeros, half of them before
    the old ones and half after, as in IR-Net's code; (N, inputs, height, width) to (N, channels, …).
    """

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        if channels < inputs:
            what = f"channels must be at least {inputs}, not {channels}"
            raise InputError(what, where="PaddedShortcut", remedy="a shortcut can only add channels")
        self.stride = stride
        self.before = (channels - inputs) // 2
        self.after = channels - inputs - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        strided = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(strided, (0, 0, 0, 0, self.before, self.after))


class BinaryBlock(nn.Module):
    """hardtanh(norm(conv(sign x)) + shortcut x), (N, inputs, height, width) to (N, channels, …).

    There is a shortcut around every convolution, which carries real numbers past the signs (Liu et al.,
    "Bi-Real Net", ECCV 2018).
    """

    def __init__(self, inputs: int, channels: int, stride: int = 1, style: BinaryStyle = IRNET) -> None:
        super().__init__()
        self.conv = style.convolution(inputs, channels, stride)
        self.norm = nn.BatchNorm2d(channels)
        same = (inputs, stride) == (channels, 1)
        self.shortcut = nn.Identity() if same else PaddedShortcut(inputs, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.hardtanh(self.norm(self.conv(x)) + self.shortcut(x))


def vgg_small(
    seed: int, style: BinaryStyle = IRNET, *, channels: tuple[int, int, int] = (128, 256, 512)
) -> nn.Sequential:
    """VGG-Small for CIFAR-10: 2 x 128 C3 - P - 2 x 256 C3 - P - 2 x 512 C3 - P - FC, untrained.

    (N, 3, 32, 32) to (N, 10). Convolution, maximum, batch norm, Hardtanh, in this order; the first
    convolution and the last layer have full precision. `seed` decides the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        inputs = 3
        for width in channels:
            for pooled in (False, True):
                first = not layers
                layers.append(
                    nn.Conv2d(inputs, width, 3, padding=1, bias=False)
                    if first
                    else style.convolution(inputs, width)
                )
                layers += [nn.MaxPool2d(2)] if pooled else []
                layers += [nn.BatchNorm2d(width), nn.Hardtanh()]
                inputs = width
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * 4 * 4, CLASSES))


def resnet20(
    seed: int, style: BinaryStyle = IRNET, *, channels: tuple[int, int, int] = (16, 32, 64)
) -> nn.Sequential:
    """ResNet-20 for CIFAR-10 with a shortcut around each of its 18 binary convolutions, untrained.

    (N, 3, 32, 32) to (N, 10); first convolution and last layer in full precision. `seed` decides the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inputs = channels[0]
        layers: list[nn.Module] = [
            nn.Conv2d(3, inputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(inputs),
            nn.Hardtanh(),
        ]
        for stage, width in enumerate(channels):
            for number in range(6):
                layers.append(BinaryBlock(inputs, width, 2 if stage and not number else 1, style))
                inputs = width
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(inputs), nn.Linear(inputs, CLASSES))
        return nn.Sequential(*layers, *head)
