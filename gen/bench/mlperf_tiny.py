"""Networks of the MLPerf Tiny benchmark (Banbury et al., NeurIPS 2021) with random weights, for what depends
on their layers alone. Padding is that of the originals: at a stride of two one pixel, on the right and below.
"""

import itertools

import torch
from torch import nn

from popshift.gen.bench.networks import gaussian

_MOBILENET = (
    *((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2)),
    *((128, 1), (128, 1), (128, 1), (128, 1), (128, 1), (256, 2), (256, 1)),
)
"""Channels and stride of the separable layers, a quarter of the original's width."""


def _convolution(
    inputs: int, channels: int, stride: int = 1, kernel: int = 3, groups: int = 1
) -> list[nn.Module]:
    """A convolution that halves an even image at stride two, batch norm, ReLU."""
    around = kernel // 2
    padding: list[nn.Module] = [nn.ZeroPad2d((0, 1, 0, 1))] if stride == 2 and kernel == 3 else []
    layer = nn.Conv2d(
        inputs, channels, kernel, stride, padding=0 if padding else around, groups=groups, bias=False
    )
    return [*padding, layer, nn.BatchNorm2d(channels), nn.ReLU()]


class _Block(nn.Module):
    """ReLU(shortcut + two 3x3 convolutions); the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        *last, _ = _convolution(channels, channels)
        self.inner = nn.Sequential(*_convolution(inputs, channels, stride), *last)
        same = (inputs, stride) == (channels, 1)
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, channels, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.shortcut(x) + self.inner(x)).relu()


def resnet8(seed: int) -> nn.Sequential:
    """Image classification: (N, 3, 32, 32) to (N, 10), 12.5 million MACs."""
    blocks = [_Block(16, 16, 1), _Block(16, 32, 2), _Block(32, 64, 2)]
    head = (nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10))
    return gaussian(nn.Sequential(*_convolution(3, 16), *blocks, *head), seed)


def dscnn(seed: int) -> nn.Sequential:
    """Keyword spotting: (N, 1, 49, 10) to (N, 12), 2.66 million MACs."""
    first = nn.Conv2d(1, 64, (10, 4), 2, bias=False)
    layers: list[nn.Module] = [nn.ZeroPad2d((1, 1, 4, 5)), first, nn.BatchNorm2d(64), nn.ReLU()]
    for _ in range(4):
        layers += [*_convolution(64, 64, groups=64), *_convolution(64, 64, kernel=1)]
    layers += [nn.AvgPool2d((25, 5)), nn.Flatten(), nn.Linear(64, 12)]
    return gaussian(nn.Sequential(*layers), seed)


def mobilenet025(seed: int) -> nn.Sequential:
    """Visual wake words, MobileNetV1 of a quarter width: (N, 3, 96, 96) to (N, 2), 7.49 million MACs."""
    layers, inputs = _convolution(3, 8, 2), 8
    for channels, stride in _MOBILENET:
        layers += [
            *_convolution(inputs, inputs, stride, groups=inputs),
            *_convolution(inputs, channels, kernel=1),
        ]
        inputs = channels
    layers += [nn.AvgPool2d(3), nn.Flatten(), nn.Linear(inputs, 2)]
    return gaussian(nn.Sequential(*layers), seed)


def autoencoder(seed: int) -> nn.Sequential:
    """Anomaly detection: (N, 640) to (N, 640), 264 thousand MACs."""
    widths = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return gaussian(nn.Sequential(*layers, nn.Linear(widths[-1], widths[0])), seed)
