"""Binary networks for scikit-learn's handwritten digits, and what each part of their training brings."""

import dataclasses
import statistics
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from popshift.gen.train.binary.blocks import CLASSES, BinaryStyle
from popshift.gen.train.binary.distillation import full_precision_twin
from popshift.gen.train.binary.recipe import VARIANTS, Parts, train_binary
from popshift.gen.train.digits import Digits
from popshift.gen.train.trainer import Procedure, TrainingOptions, accuracy, shift_pixels, train
from popshift.hw.errors import InputError

WIDTHS = (64, 64, 64)
"""Channels of the network to be compiled."""


def network(seed: int, style: BinaryStyle, *, widths: Sequence[int] = WIDTHS) -> nn.Sequential:
    """An untrained network, (N, 1, 8, 8) to (N, 10), a chain without shortcuts; `seed` decides its weights.

    The first convolution, to ``widths[0]`` channels, and the last layer have full precision, all
    convolutions between them are binary. The maximum is taken behind the first of these (8 x 8 to 4 x 4),
    the average behind the last (to 2 x 2).

    Raises
    ------
    InputError: less than two widths.
    """
    if len(widths) < 2:
        what = f"widths must be of two convolutions at least, not {tuple(widths)}"
        raise InputError(what, where="binary digits", remedy=f"for instance {WIDTHS}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        for number, width in enumerate(widths, 1):
            if number > 1:
                layers[f"conv{number}"] = style.convolution(widths[number - 2], width)
            if number == 2:
                layers["pool1"] = nn.MaxPool2d(2)
            layers[f"norm{number}"] = nn.BatchNorm2d(width)
            layers[f"hardtanh{number}"] = nn.Hardtanh()
        layers |= {"pool2": nn.AvgPool2d(2), "flatten": nn.Flatten()}
        layers["classify"] = nn.Linear(widths[-1] * 2 * 2, CLASSES)
        return nn.Sequential(layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How wide the network is, how long and how it is trained.

    Attributes
    ----------
    widths: channels, see `network`.
    binary: training of the binary network.
    teacher: of its full-precision twin, where there is one.
    """

    widths: tuple[int, ...]
    binary: TrainingOptions
    teacher: TrainingOptions


COMPILED = Recipe(
    widths=WIDTHS,
    binary=TrainingOptions(epochs=20, learning_rate=1e-2, weight_decay=0),
    teacher=TrainingOptions(epochs=10),
)
COMPARED = Recipe(
    widths=(16, 16, 16, 16),
    binary=TrainingOptions(epochs=40, batch=128, learning_rate=3e-2, weight_decay=0.1),
    teacher=TrainingOptions(epochs=20),
)
"""So narrow that networks differ."""


def binary_trained(
    digits: Digits, seed: int, *, parts: Parts = VARIANTS["DIR-Net"], recipe: Recipe = COMPILED
) -> nn.Sequential:
    """A binary network trained on the training images; `seed` decides everything that is drawn.

    Nothing in it but `nn.Conv2d`, `BinaryConv2d`, `nn.BatchNorm2d`, `nn.Hardtanh`, `nn.MaxPool2d`,
    `nn.AvgPool2d`, `nn.Flatten` and `nn.Linear`, one after the other.

    Parameters
    ----------
    parts: what is switched on; with distillation a full-precision twin is trained before, from the same
        weights.
    recipe: widths and both trainings; their seed is replaced.
    """
    return _trained(digits, seed, parts, recipe, "training (epochs)")[0]


def binary_and_twin(digits: Digits, seed: int) -> tuple[nn.Sequential, nn.Sequential]:
    """A network of the same layers in full precision, and the binary one, both trained on the training images
    from the same weights.
    """
    parts = VARIANTS["DIR-Net"]
    twin = full_precision_twin(network(seed, parts.style))
    options = dataclasses.replace(COMPILED.teacher, seed=seed)
    procedure = Procedure(title="training in full precision (epochs)")
    train(twin, digits.train_images, digits.train_labels, options, augment=shift_pixels, procedure=procedure)
    return twin, binary_trained(digits, seed, parts=parts)


def _trained(
    digits: Digits, seed: int, parts: Parts, recipe: Recipe, title: str
) -> tuple[nn.Sequential, float]:
    """The network, and its mean cross entropy (with distillation: and what that adds) in the last epoch."""
    model = network(seed, parts.style, widths=recipe.widths)
    images, labels = digits.train_images, digits.train_labels
    teacher = None
    if parts.distillation:
        teacher = full_precision_twin(model)
        options = dataclasses.replace(recipe.teacher, seed=seed)
        procedure = Procedure(title=f"{title}, full-precision twin")
        train(teacher, images, labels, options, augment=shift_pixels, procedure=procedure)
    losses = train_binary(
        model,
        images,
        labels,
        dataclasses.replace(recipe.binary, seed=seed),
        teacher=teacher,
        distillation=parts.distillation,
        augment=shift_pixels,
        title=title,
    )
    return model, losses[-1]


@dataclass(frozen=True, slots=True)
class Series:
    """One number for every seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 of a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a variant reached.

    Attributes
    ----------
    accuracy: on the test images, 0 .. 1.
    moved: on the test images in all nine positions of `shift_pixels`: nine times as many, and as the
        network was trained.
    loss: the mean of the last epoch, with what distillation adds.
    """

    accuracy: Series
    moved: Series
    loss: Series


def compare_parts(
    digits: Digits,
    seeds: Sequence[int],
    epochs: int = COMPARED.binary.epochs,
    *,
    variants: Mapping[str, Parts] = VARIANTS,
    recipe: Recipe = COMPARED,
) -> dict[str, Outcome]:
    """The parts of DIR-Net switched on one at a time, all trained equally long from the same seeds.

    The training of the full-precision twin, half as many epochs, comes on top of that.
    """
    options = dataclasses.replace(recipe.binary, epochs=epochs)
    twin = dataclasses.replace(recipe.teacher, epochs=max(1, epochs // 2))
    recipe = dataclasses.replace(recipe, binary=options, teacher=twin)
    images, labels = digits.test_images, digits.test_labels
    positions, nine = moved(images), labels.repeat(9)
    found: dict[str, Outcome] = {}
    for number, (name, parts) in enumerate(variants.items()):
        rows = []
        for place, seed in enumerate(seeds, 1 + number * len(seeds)):
            title = f"{name}: training {place} of {len(variants) * len(seeds)} (epochs)"
            model, loss = _trained(digits, seed, parts, recipe, title)
            rows.append((accuracy(model, images, labels), accuracy(model, positions, nine), loss))
        plain, everywhere, losses = map(Series, zip(*rows, strict=True))
        found[name] = Outcome(accuracy=plain, moved=everywhere, loss=losses)
    return found


def moved(images: torch.Tensor) -> torch.Tensor:
    """Every image moved by -1, 0 and 1 pixel in each direction: (9 N, channels, height, width)."""
    height, width = images.shape[2:]
    padded = functional.pad(images, (1, 1, 1, 1))
    return torch.cat(
        [padded[:, :, down : down + height, right : right + width] for down in range(3) for right in range(3)]
    )
