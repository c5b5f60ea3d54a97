"""Training of binary networks: the parts of DIR-Net (arXiv 2109.12338), to be switched on one by one."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from popshift.gen.train.binary.blocks import BinaryStyle
from popshift.gen.train.binary.distillation import Distillation
from popshift.gen.train.binary.estimators import Estimator, Surrogate
from popshift.gen.train.binary.layers import binary_layers, set_progress
from popshift.gen.train.trainer import Augmentation, Procedure, TrainingOptions, cross_entropy, train


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is switched on.

    Attributes
    ----------
    style: balance of the weights, and the estimator.
    distillation: weight of the representations of a full-precision twin in the loss; 0: there is no twin.
    """

    style: BinaryStyle = field(default_factory=BinaryStyle)
    distillation: float = 0.0


def _parts(estimator: Estimator, *, balance: bool = True, distillation: float = 0.0) -> Parts:
    surrogate = Surrogate(estimator=estimator)
    return Parts(style=BinaryStyle(balance=balance, surrogate=surrogate), distillation=distillation)


VARIANTS = {
    "STE": _parts(Estimator.STE, balance=False),
    "IMB": _parts(Estimator.STE),
    "IR-Net": _parts(Estimator.EDE),
    "IMB + DTE": _parts(Estimator.DTE),
    "DIR-Net": _parts(Estimator.DTE, distillation=0.1),
}
"""Each has one part more than the one before it, but for DTE, which takes the place of EDE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options(TrainingOptions):
    """All that decides about the result, for checkpoints; texts, because these must not name classes."""

    layers: str
    teacher: str
    distillation: float


def train_binary(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    options: TrainingOptions,
    *,
    teacher: nn.Module | None = None,
    distillation: float = 1.0,
    augment: Augmentation | None = None,
    checkpoint: Path | None = None,
    title: str = "training (epochs)",
) -> list[float]:
    """Train a network with binary layers in place; their estimators follow their schedule.

    Parameters
    ----------
    images, labels, options, augment, checkpoint: see `popshift.gen.train.trainer.train`.
    teacher: the trained full-precision twin whose representations are imitated; None: no distillation.
    distillation: their weight in the loss.
    title: of the progress bar.

    Returns
    -------
    Mean loss of every epoch.
    """
    set_progress(network, 0, options.epochs)
    layers = [f"{name} {layer.balance} {layer.surrogate}" for name, layer in binary_layers(network)]
    loss = cross_entropy if teacher is None else Distillation(teacher, weight=distillation)
    run = _Options(
        **asdict(options),
        layers="; ".join(layers),
        teacher="" if teacher is None else _digest(teacher),
        distillation=0.0 if teacher is None else distillation,
    )
    procedure = Procedure(loss=loss, before_epoch=set_progress, title=title)
    return train(network, images, labels, run, augment=augment, checkpoint=checkpoint, procedure=procedure)


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()
