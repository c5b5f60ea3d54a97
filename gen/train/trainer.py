"""A small supervised trainer: Adam, cosine learning rate, the same weights for the same seed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from popshift.firmware_py.progress import TransferBar
from popshift.gen.threads import one_thread
from popshift.gen.train.checkpoint import TrainingState
from popshift.hw.errors import InputError

Augmentation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Takes a batch (N, channels, height, width) and the generator to draw from; returns the changed batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How to train.

    Attributes
    ----------
    epochs: passes over the training data.
    batch: images per step.
    learning_rate: of the first step; it falls to zero along half a cosine.
    weight_decay: decoupled from the gradient (AdamW).
    seed: of the order of the images and of the augmentation.
    """

    epochs: int
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    seed: int = 0


def steps_per_epoch(images: torch.Tensor, options: TrainingOptions) -> int:
    """Batches in one pass over the images; the last may be smaller."""
    return -(-len(images) // options.batch)


def adamw(network: torch.nn.Module, options: TrainingOptions) -> list[torch.optim.Optimizer]:
    """AdamW on all parameters."""
    return [
        torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    ]


Optimisers = Callable[[torch.nn.Module, TrainingOptions], list[torch.optim.Optimizer]]
"""Makes the optimisers of a training."""


def cross_entropy(network: torch.nn.Module, batch: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the network's answers to a batch: a scalar."""
    return functional.cross_entropy(network(batch), labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure:
    """What is done in an epoch, for trainings that do more than classify.

    A training can be resumed with the same result if both functions depend on their arguments and on what
    the checkpoint holds alone.

    Attributes
    ----------
    loss: takes the network, a batch (N, channels, height, width) and labels (N,); returns the scalar to be
        made small.
    before_epoch: called with the network, the number of the epoch (from 0) and the number of epochs, also
        before the first epoch after a resumption.
    title: of the progress bar.
    """

    loss: Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor] = cross_entropy
    before_epoch: Callable[[torch.nn.Module, int, int], None] | None = None
    title: str = "training (epochs)"


CLASSIFY = Procedure()
"""Cross entropy, nothing else."""


def train(
    network: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    options: TrainingOptions,
    *,
    augment: Augmentation | None = None,
    checkpoint: Path | None = None,
    optimisers: Optimisers = adamw,
    procedure: Procedure = CLASSIFY,
) -> list[float]:
    """Train `network` in place to classify; it is in eval mode afterwards.

    Nothing is drawn from torch's global generator and one thread does all sums, so that the result depends on
    the network's weights, the data and the options alone (for one build of torch). For networks of this size
    one thread is also faster than several that wait for each other.

    Parameters
    ----------
    images: float32 (N, channels, height, width).
    labels: int64 (N,).
    augment: changes every batch.
    checkpoint: file that is written after every epoch; if it exists, the training goes on from there, with
        the same result as if it had never stopped.
    optimisers: what takes the steps, by default AdamW on all parameters; the learning rate of each falls.
    procedure: the loss, and what is done before an epoch.

    Returns
    -------
    Mean loss of every epoch.

    Raises
    ------
    InputError: there are not as many labels as images, or none; the checkpoint is of another training or
        cannot be written.
    """
    if len(images) != len(labels) or not len(images):
        raise InputError(
            f"{len(images)} images and {len(labels)} labels given",
            where="training",
            remedy="give one label per image",
        )
    generator = torch.Generator().manual_seed(options.seed)
    steps = options.epochs * steps_per_epoch(images, options)
    chosen_optimisers = optimisers(network, options)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, steps) for each in chosen_optimisers]
    steppers = [*chosen_optimisers, *schedules]
    parts = {"network": network, **{f"stepper_{index}": each for index, each in enumerate(steppers)}}
    state = TrainingState(parts, generator, [])
    if checkpoint is not None and checkpoint.exists():
        state.load(checkpoint, options)
    network.train()
    with one_thread(), TransferBar(procedure.title, options.epochs) as bar:
        for epoch in range(len(state.losses), options.epochs):
            if procedure.before_epoch is not None:
                procedure.before_epoch(network, epoch, options.epochs)
            total = 0.0
            for chosen in torch.randperm(len(images), generator=generator).split(options.batch):
                batch = images[chosen] if augment is None else augment(images[chosen], generator)
                loss = procedure.loss(network, batch, labels[chosen])
                network.zero_grad()
                loss.backward()
                for each in steppers:
                    each.step()
                total += loss.item() * len(chosen)
            state.losses.append(total / len(images))
            if checkpoint is not None:
                state.save(checkpoint, options)
            bar.update(epoch + 1)
    network.eval()
    return state.losses


def accuracy(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of `images` that `network` puts into the right class, 0 .. 1."""
    with torch.inference_mode():
        return float((network(images).argmax(1) == labels).double().mean())


def shift_pixels(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every image moved by -1, 0 or 1 pixel in each direction; zeros come in. An `Augmentation`."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, count, 1, 1, 1), generator=generator)
    rows = down + torch.arange(height)[:, None]
    columns = right + torch.arange(width)
    return padded[
        torch.arange(count)[:, None, None, None], torch.arange(images.shape[1])[:, None, None], rows, columns
    ]
