"""Training of binary networks: IR-Net (CVPR 2020) and DIR-Net (arXiv 2109.12338)."""

from popshift.gen.train.binary.accounting import compiled_storage, resnet18_storage, storage
from popshift.gen.train.binary.blocks import BinaryBlock, BinaryStyle, resnet20, vgg_small
from popshift.gen.train.binary.digits import binary_trained, compare_parts
from popshift.gen.train.binary.distillation import Distillation, full_precision_twin
from popshift.gen.train.binary.estimators import Estimator, Surrogate, binary_sign
from popshift.gen.train.binary.layers import BinaryConv2d, BinaryLinear, binary_layers, set_progress
from popshift.gen.train.binary.recipe import VARIANTS, Parts, train_binary

__all__ = [
    "VARIANTS",
    "BinaryBlock",
    "BinaryConv2d",
    "BinaryLinear",
    "BinaryStyle",
    "Distillation",
    "Estimator",
    "Parts",
    "Surrogate",
    "binary_layers",
    "binary_sign",
    "binary_trained",
    "compare_parts",
    "compiled_storage",
    "full_precision_twin",
    "resnet18_storage",
    "resnet20",
    "set_progress",
    "storage",
    "train_binary",
    "vgg_small",
]
