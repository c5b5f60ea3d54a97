"""What a decomposition costs in accuracy of the weights and saves in storage."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from popshift.gen.compress.smartdeal.decomposition import Decomposition
from popshift.hw.numerics import WEIGHT_BITS

FLOAT_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """What became of one layer.

    Attributes
    ----------
    name, weights: path in the module, number of weights.
    error: Frobenius norm of the change over that of the weights.
    row_sparsity, element_sparsity: share of rows that are zero in all filters of a group, of zeros in Ce.
    code_bits, index_bits, basis_bits: storage; the scale goes into the requantisation, which is there anyway.
    """

    name: str
    weights: int
    error: float
    row_sparsity: float
    element_sparsity: float
    code_bits: int
    index_bits: int
    basis_bits: int

    @classmethod
    def of(cls, name: str, weight: torch.Tensor, found: Decomposition) -> "LayerReport":
        """Of the layer `name`, whose `weight` became `found`."""
        norm = float(weight.norm())
        bits = found.bits()
        return cls(
            name=name,
            weights=weight.numel(),
            error=float((found.weight() - weight).norm()) / norm if norm else 0.0,
            row_sparsity=found.row_sparsity,
            element_sparsity=float((found.coefficients == 0).float().mean()),
            code_bits=bits["codes"],
            index_bits=bits["index"],
            basis_bits=bits["basis"],
        )

    @property
    def bits(self) -> int:
        return self.code_bits + self.index_bits + self.basis_bits

    @property
    def compression(self) -> float:
        """32-bit floats over the storage, indices and bases included."""
        return FLOAT_BITS * self.weights / self.bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """Storage of the weights of a network's convolutions and linear layers.

    Attributes
    ----------
    weights, bits: of the layers in SmartDeal form: how many, and their storage with indices and bases.
    plain: weights of each of the other layers, by name; they count 8 bits each.
    """

    weights: int
    bits: int
    plain: Mapping[str, int]

    @property
    def ratio(self) -> float:
        """32-bit floats over the storage; 0 for a network without weights."""
        plain = sum(self.plain.values())
        bits = self.bits + WEIGHT_BITS * plain
        return FLOAT_BITS * (self.weights + plain) / bits if bits else 0.0

    def __str__(self) -> str:
        text = f"{self.ratio:.2f} times smaller than fp32, indices and bases included"
        if not self.plain:
            return text
        number = sum(self.plain.values())
        return f"{text}; {number:,} weights of {', '.join(self.plain)} count {WEIGHT_BITS} bits each"
