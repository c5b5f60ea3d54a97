"""Distillation of intermediate representations: DIR-Net's third part (arXiv 2109.12338, version 2).

DIR-Net compares what a binary network and its full-precision twin represent inside. Its formula was not at
hand; this is a reconstruction in the form of attention transfer (Zagoruyko and Komodakis, ICLR 2017).
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional

from popshift.gen.train.binary.layers import BinaryConv2d, BinaryLinear, binary_layers
from popshift.gen.train.trainer import cross_entropy
from popshift.hw.errors import InputError

_Network = TypeVar("_Network", bound=nn.Module)


def full_precision_twin(network: _Network) -> _Network:
    """A copy in which every binary layer is a plain one of the same shape with the same real weights."""
    twin = copy.deepcopy(network)
    for name, layer in list(binary_layers(twin)):
        parent, _, attribute = name.rpartition(".")
        setattr(twin.get_submodule(parent), attribute, _plain(layer))
    return twin


def _plain(layer: BinaryConv2d | BinaryLinear) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # new layers draw weights
        if isinstance(layer, BinaryLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        else:
            plain = nn.Conv2d(
                layer.in_channels,
                layer.out_channels,
                (layer.kernel_size[0], layer.kernel_size[1]),
                (layer.stride[0], layer.stride[1]),
                layer.padding if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[1]),
                (layer.dilation[0], layer.dilation[1]),
                bias=layer.bias is not None,
            )
    plain.load_state_dict(layer.state_dict())
    return plain.train(layer.training)


@contextlib.contextmanager
def recorded(network: nn.Module, names: list[str]) -> Iterator[list[torch.Tensor]]:
    """In the block, the inputs of the layers called `names` are appended to the list as they are computed."""
    found: list[torch.Tensor] = []

    def record(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append(inputs[0])

    handles = [network.get_submodule(name).register_forward_pre_hook(record) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def attention(activations: torch.Tensor) -> torch.Tensor:
    """Where the energy is: squares, summed over channels, as a vector of length 1 per sample.

    (N, channels, height, width) to (N, height x width); of (N, features) every square counts on its own.
    """
    squares = activations.square()
    energy = squares.sum(1).flatten(1) if activations.dim() == 4 else squares
    return functional.normalize(energy, dim=1)


def representation_loss(student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
    """Sum over layers of || Q_S / ||Q_S|| - Q_T / ||Q_T|| ||, mean over the batch; Q is `attention`.

    Raises
    ------
    InputError: not as many layers on both sides, or none.
    """
    if len(student) != len(teacher) or not student:
        what = f"{len(student)} and {len(teacher)} representations to compare"
        raise InputError(what, where="distillation", remedy="give the same layers of both networks")
    distances = [
        torch.linalg.vector_norm(attention(mine) - attention(other), dim=1).mean()
        for mine, other in zip(student, teacher, strict=True)
    ]
    return torch.stack(distances).sum()


class Distillation:
    """The loss of a binary network that a trained full-precision twin teaches.

    Cross entropy + weight x `representation_loss` of the activations before they become signs. Can be given
    to `popshift.gen.train.trainer.Procedure` as its loss.

    Parameters
    ----------
    teacher: its twin, trained; as `full_precision_twin` makes it. It is put into eval mode.
    weight: lambda, of the representations.
    """

    def __init__(self, teacher: nn.Module, *, weight: float = 1.0) -> None:
        self.teacher, self.weight = teacher.eval(), weight

    def __call__(self, network: nn.Module, batch: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in binary_layers(network)]
        with torch.no_grad(), recorded(self.teacher, names) as teacher:
            self.teacher(batch)
        with recorded(network, names) as student:
            loss = cross_entropy(network, batch, labels)
        return loss + self.weight * representation_loss(student, teacher)
