"""scikit-learn's handwritten digits: the data, a network for them, and its training.

The data are 1797 images of 8 x 8 pixels with 17 grey levels, part of Alpaydin and Kaynak, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from popshift.gen.compress.smartdeal import SmartDealConfig
from popshift.gen.train.smartdeal import retrain
from popshift.gen.train.trainer import TrainingOptions, shift_pixels, train

TEST_IMAGES = 360
CLASSES = 10
_SPLIT_SEED = 0
_GREY_MAX = 16
_DENSE_EPOCHS, _SMARTDEAL_EPOCHS = 30, 60
TOO_SMALL = ("conv1",)
"""Layers that SmartDeal would make larger: a basis has as many numbers as a filter has weights here."""


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """Images are float32 (N, 1, 8, 8) from 0 (paper) to 1 (ink), labels int64 (N,) from 0 to 9."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load() -> Digits:
    """The data; always the same 360 images, with every digit in its share, are kept for the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32) / _GREY_MAX
    parts = train_test_split(
        images, labels.astype(np.int64), test_size=TEST_IMAGES, stratify=labels, random_state=_SPLIT_SEED
    )
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, parts)
    return Digits(train_images, train_labels, test_images, test_labels)


def network(seed: int) -> nn.Sequential:
    """An untrained network, (N, 1, 8, 8) to (N, 10); `seed` decides its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(1, 16, 3, padding=1, bias=False),
            "norm1": nn.BatchNorm2d(16),
            "relu1": nn.ReLU(),
            "conv2": nn.Conv2d(16, 32, 3, padding=1, bias=False),
            "norm2": nn.BatchNorm2d(32),
            "relu2": nn.ReLU(),
            "pool1": nn.MaxPool2d(2),
            "conv3": nn.Conv2d(32, 32, 3, padding=1, bias=False),
            "norm3": nn.BatchNorm2d(32),
            "relu3": nn.ReLU(),
            "pool2": nn.AvgPool2d(2),
            "flatten": nn.Flatten(),
            "classify": nn.Linear(32 * 2 * 2, CLASSES),
        }
        return nn.Sequential(OrderedDict(layers))


def trained(digits: Digits, seed: int, *, epochs: int = 12) -> nn.Sequential:
    """A network trained on the training images; `seed` decides everything that is drawn."""
    model = network(seed)
    options = TrainingOptions(epochs=epochs, seed=seed)
    train(model, digits.train_images, digits.train_labels, options, augment=shift_pixels)
    return model


def smartdeal_trained(
    digits: Digits, seed: int, config: SmartDealConfig
) -> tuple[nn.Sequential, nn.Sequential]:
    """A network trained longer than by `trained`, and its SmartDeal form, trained further; some 20 seconds.

    Accuracy and size are best if `config.skip` is `TOO_SMALL`.
    """
    dense = trained(digits, seed, epochs=_DENSE_EPOCHS)
    options = TrainingOptions(epochs=_SMARTDEAL_EPOCHS, weight_decay=0, seed=seed)
    images, labels = digits.train_images, digits.train_labels
    return dense, retrain(dense, images, labels, config, options, augment=shift_pixels)
