"""What the weights of a partly binary network take, counted from its list of layers."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from popshift.gen.bench.networks import resnet18, weighted
from popshift.gen.compress.smartdeal.report import FLOAT_BITS
from popshift.gen.train.binary.layers import BinaryConv2d, BinaryLinear
from popshift.hw.numerics import WEIGHT_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStorage:
    """One layer: its path, number of weights, and bits per weight."""

    name: str
    weights: int
    bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A network.

    Attributes
    ----------
    layers: convolutions and fully connected layers.
    others: numbers that stay float32 on both sides: biases, scales and shifts of batch norms.
    """

    layers: tuple[LayerStorage, ...]
    others: int

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def weight_bits(self) -> int:
        """All weights together."""
        return sum(layer.weights * layer.bits for layer in self.layers)

    @property
    def ratio(self) -> float:
        """How many times smaller than float32 the weights are."""
        return self.weights * FLOAT_BITS / self.weight_bits

    @property
    def megabytes(self) -> tuple[float, float]:
        """(float32, this), in 10^6 bytes, with the other numbers: what a file holds."""
        others = self.others * FLOAT_BITS
        return (self.weights * FLOAT_BITS + others) / 8e6, (self.weight_bits + others) / 8e6


def storage(network: nn.Module, bits: Callable[[str, nn.Conv2d | nn.Linear], int]) -> Storage:
    """Count `network`; `bits` says how many a weight of a layer (its path, itself) takes."""
    layers = tuple(
        LayerStorage(name=name, weights=layer.weight.numel(), bits=bits(name, layer))
        for name, layer in weighted(network)
    )
    every = sum(parameter.numel() for parameter in network.parameters())
    return Storage(layers=layers, others=every - sum(layer.weights for layer in layers))


def compiled_storage(network: nn.Module) -> Storage:
    """What is streamed to the device: a bit for a weight of a binary layer, eight for every other."""

    def bits(_: str, layer: nn.Conv2d | nn.Linear) -> int:
        return 1 if isinstance(layer, BinaryConv2d | BinaryLinear) else WEIGHT_BITS

    return storage(network, bits)


def resnet18_storage(
    *, first: int = FLOAT_BITS, last: int = FLOAT_BITS, shortcuts: int = FLOAT_BITS
) -> Storage:
    """ResNet-18 for ImageNet with binary 3x3 convolutions.

    DIR-Net's 11.1 times (46.77 MB to 4.21 MB) is reached when everything else stays float32, as here by
    default: first convolution, 1x1 shortcuts, fully connected layer and batch norms. The last layer alone is
    half of what remains; eight bits for these layers make it 22 times.

    Parameters
    ----------
    first: bits per weight of the 7x7 convolution.
    last: of the fully connected layer.
    shortcuts: of the three 1x1 convolutions.
    """

    def bits(name: str, layer: nn.Conv2d | nn.Linear) -> int:
        if isinstance(layer, nn.Linear):
            return last
        if layer.in_channels == 3:
            return first
        return shortcuts if layer.kernel_size == (1, 1) else 1

    return storage(resnet18(seed=0), bits)
