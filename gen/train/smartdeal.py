"""The two ways to train SmartDeal weights (arXiv 2101.01163).

`project_and_retrain` trains dense weights and decomposes them after every epoch; `retrain` trains
coefficients and basis themselves, the pattern of zeros fixed.
"""

import copy
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from popshift.gen.compress import smartdeal
from popshift.gen.compress.smartdeal import SmartDealConfig
from popshift.gen.train.bucket_switch import BucketSwitch, BucketSwitchOptions, others
from popshift.gen.train.checkpoint import TrainingState
from popshift.gen.train.trainer import (
    Augmentation,
    Optimisers,
    TrainingOptions,
    accuracy,
    adamw,
    steps_per_epoch,
    train,
)

_Network = TypeVar("_Network", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options(TrainingOptions):
    """All that decides about the result, for checkpoints."""

    smartdeal: SmartDealConfig
    bucket_switch: BucketSwitchOptions | None = None


def retrain(
    network: _Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: SmartDealConfig,
    options: TrainingOptions,
    *,
    augment: Augmentation | None = None,
    checkpoint: Path | None = None,
    bucket_switch: BucketSwitchOptions | None = None,
) -> _Network:
    """A decomposed copy of a trained network, its coefficients and bases trained further, straight through.

    Parameters
    ----------
    network: trained, with plain weights; stays as it is.
    images, labels, options, augment, checkpoint: see `popshift.gen.train.trainer.train`.
    bucket_switch: coefficients move by whole exponents (`BucketSwitch`); by default their carriers are
        trained like all other parameters and rounded in every step.
    """
    result, _ = smartdeal.decompose(network, config)
    optimisers = (
        adamw if bucket_switch is None else _switching(bucket_switch, steps_per_epoch(images, options))
    )
    run = _Options(**dataclasses.asdict(options), smartdeal=config, bucket_switch=bucket_switch)
    train(result, images, labels, run, augment=augment, checkpoint=checkpoint, optimisers=optimisers)
    return result


def _switching(bucket_switch: BucketSwitchOptions, reset_every: int) -> Optimisers:
    def make(network: nn.Module, options: TrainingOptions) -> list[torch.optim.Optimizer]:
        rate, decay = options.learning_rate, options.weight_decay
        rest = torch.optim.AdamW(others(network), lr=rate, weight_decay=decay)
        return [rest, BucketSwitch(network, bucket_switch, reset_every=reset_every)]

    return make


def project_and_retrain(
    network: _Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: SmartDealConfig,
    options: TrainingOptions,
    *,
    augment: Augmentation | None = None,
    checkpoint: Path | None = None,
) -> _Network:
    """A decomposed copy of a trained network: after each epoch of dense training all weights are projected.

    Pruned weights may grow again between projections. The projection that classifies `images` best is kept,
    the last one of several that are equal. The learning rate falls from epoch to epoch along half a cosine.

    Parameters
    ----------
    network: trained, with plain weights; stays as it is.
    images, labels, options, augment, checkpoint: see `popshift.gen.train.trainer.train`.
    """
    run = _Options(**dataclasses.asdict(options), smartdeal=config)
    dense, losses = copy.deepcopy(network), []
    best, _ = smartdeal.decompose(dense, config)

    def state() -> TrainingState:
        return TrainingState({"dense": dense, "best": best}, torch.Generator(), losses)

    if checkpoint is not None and checkpoint.exists():
        state().load(checkpoint, run)
    most = accuracy(best.eval(), images, labels)
    for epoch in range(len(losses), options.epochs):
        share = 0.5 * (1 + math.cos(math.pi * epoch / options.epochs))
        step = dataclasses.replace(
            options, epochs=1, learning_rate=share * options.learning_rate, seed=options.seed + epoch
        )
        losses += train(dense, images, labels, step, augment=augment)
        projected, _ = smartdeal.decompose(dense, config)
        reached = accuracy(projected.eval(), images, labels)
        if reached >= most:
            best, most = projected, reached
        _take_weights(dense, projected)
        if checkpoint is not None:
            state().save(checkpoint, run)
    return best


def _take_weights(dense: nn.Module, projected: nn.Module) -> None:
    """Let dense layers go on from their projections."""
    with torch.no_grad():
        for name, layer in projected.named_modules():
            if parametrize.is_parametrized(layer, "weight"):
                weight = smartdeal.decomposition(layer).weight()
                dense.get_submodule(name).get_parameter("weight").copy_(weight)
