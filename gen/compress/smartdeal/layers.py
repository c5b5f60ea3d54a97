"""SmartDeal weights inside PyTorch modules: optimisers, state dicts and export go on working."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from popshift.gen.compress.smartdeal.decomposition import Decomposition, decompose_weight, quantise_basis
from popshift.gen.compress.smartdeal.fit import nearest_level
from popshift.gen.compress.smartdeal.options import SmartDealConfig
from popshift.gen.compress.smartdeal.slices import Slicing
from popshift.hw.errors import ModelError

FLOAT_BITS = 32
_Module = TypeVar("_Module", bound=nn.Module)


class SmartDealWeight(nn.Module):
    """The parametrisation ``weight = Q(Ce) Q(B)``, with straight-through gradients for both.

    The parameters are carriers: float32 coefficients, rounded to powers of two where `kept` allows any, and a
    float32 basis, rounded to int8 with one scale a filter. Assigning to the layer's weight decomposes what is
    assigned.

    The largest element of a filter's basis is near one when it is made, by a power of two `unit` that the
    coefficients have in them, so that one learning rate suits both: coefficients have the size of weights.
    """

    kept: torch.Tensor
    unit: torch.Tensor

    def __init__(self, config: SmartDealConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.slicing = Slicing.of(shape, config.slice_rows)
        cut = self.slicing.cut(torch.empty(shape, device="meta"))
        self.register_buffer("kept", torch.ones(cut.shape, dtype=torch.bool))
        self.register_buffer("unit", torch.ones(shape[0], 1, 1, 1))

    def forward(self, coefficients: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        """Weights in the layer's shape."""
        levels, integers, scale = self._rounded(coefficients, basis)
        steps = scale[:, None, None, None]
        product = _straight_through(coefficients / self.unit, levels) * self.kept
        return self.slicing.join(product @ _straight_through(basis * self.unit / steps, integers) * steps)

    def _rounded(
        self, coefficients: torch.Tensor, basis: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Levels of the coefficients, integers and scale of the basis."""
        return nearest_level(coefficients.detach() / self.unit), *quantise_basis(basis.detach() * self.unit)

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Carriers of coefficients and basis that come closest to a weight."""
        found, self.kept = decompose_weight(weight, self.config)
        basis = found.basis.float() * found.scale[:, None, None, None]
        largest = basis.abs().amax((1, 2, 3), keepdim=True)
        self.unit = torch.where(largest > 0, largest, torch.ones_like(largest)).log2().round().exp2()
        return found.coefficients * self.unit, basis / self.unit

    def integers(self, coefficients: torch.Tensor, basis: torch.Tensor) -> Decomposition:
        """What `forward` computes with."""
        levels, integers, scale = self._rounded(coefficients, basis)
        return Decomposition(
            coefficients=(levels * self.kept).to(torch.int8),
            basis=integers.to(torch.int8),
            scale=scale,
            slicing=self.slicing,
            group=self.config.group,
        )


def _straight_through(carrier: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value` in the forward pass, the gradient of `carrier` in the backward pass."""
    return value + (carrier - carrier.detach())


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """What became of one layer.

    Attributes
    ----------
    name, weights: path in the module, number of weights.
    error: Frobenius norm of the change over that of the weights.
    row_sparsity, element_sparsity: share of rows that are zero in all filters of a group, of zeros in Ce.
    code_bits, index_bits, basis_bits: storage; the scale goes into the requantisation, which is there anyway.
    compression: 32-bit floats over that storage.
    """

    name: str
    weights: int
    error: float
    row_sparsity: float
    element_sparsity: float
    code_bits: int
    index_bits: int
    basis_bits: int

    @property
    def compression(self) -> float:
        return FLOAT_BITS * self.weights / (self.code_bits + self.index_bits + self.basis_bits)


def decompose(module: _Module, config: SmartDealConfig) -> tuple[_Module, list[LayerReport]]:
    """A copy of a module whose convolutions and linear layers have SmartDeal weights, and a report per layer.

    Depthwise convolutions stay as they are: a basis per channel would be as large as the weights.

    Raises
    ------
    ModelError: a weight is not finite, or has a parametrisation already; names the layer.
    """
    result = copy.deepcopy(module)
    reports = []
    for name, layer in list(result.named_modules()):
        if not _decomposable(layer):
            continue
        where = f"layer {name or type(layer).__name__}"
        if parametrize.is_parametrized(layer, "weight"):
            remedy = "decompose the plain network"
            raise ModelError("its weight has a parametrisation already", where=where, remedy=remedy)
        weight = layer.get_parameter("weight").detach().clone()
        if not weight.isfinite().all():
            raise ModelError("a weight is NaN or infinite", where=where, remedy="train it again")
        parametrize.register_parametrization(layer, "weight", SmartDealWeight(config, tuple(weight.shape)))
        reports.append(_report(name, weight, decomposition(layer)))
    return result, reports


def decomposition(layer: nn.Module) -> Decomposition:
    """The integers of a layer that `decompose` has made."""
    ((form, coefficients),) = smartdeal_weights(layer)
    return form.integers(coefficients, layer.get_parameter("parametrizations.weight.original1"))


def smartdeal_weights(network: nn.Module) -> Iterator[tuple[SmartDealWeight, nn.Parameter]]:
    """Parametrisation and carrier of the coefficients of every layer that has SmartDeal weights."""
    for layer in network.modules():
        if parametrize.is_parametrized(layer, "weight"):
            form = layer.get_submodule("parametrizations.weight.0")
            if isinstance(form, SmartDealWeight):
                yield form, layer.get_parameter("parametrizations.weight.original0")


def _decomposable(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return not layer.groups == layer.in_channels > 1
    return isinstance(layer, nn.Linear)


def _report(name: str, weight: torch.Tensor, found: Decomposition) -> LayerReport:
    norm = float(weight.norm())
    bits = found.bits()
    return LayerReport(
        name=name,
        weights=weight.numel(),
        error=float((found.weight() - weight).norm()) / norm if norm else 0.0,
        row_sparsity=float(found.zero_rows.float().mean()),
        element_sparsity=float((found.coefficients == 0).float().mean()),
        code_bits=bits["codes"],
        index_bits=bits["index"],
        basis_bits=bits["basis"],
    )
