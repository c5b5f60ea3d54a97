"""SmartDeal weights inside PyTorch modules: optimisers, state dicts and export go on working."""

import copy
import math
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from popshift.firmware_py.progress import TransferBar
from popshift.gen.compress.smartdeal.decomposition import Decomposition, decompose_weight, quantise_basis
from popshift.gen.compress.smartdeal.fit import nearest_level
from popshift.gen.compress.smartdeal.options import SmartDealConfig
from popshift.gen.compress.smartdeal.report import Compression, LayerReport
from popshift.gen.compress.smartdeal.slices import Slicing
from popshift.hw.errors import InputError, ModelError

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
        self.slicing = Slicing.of(shape, config.slice_rows, config.banks)
        kept = torch.ones((shape[0], *self.slicing.taps.shape), dtype=torch.bool)
        self.register_buffer("kept", kept)
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


def decompose(
    module: _Module, config: SmartDealConfig, *, progress: bool = False
) -> tuple[_Module, list[LayerReport]]:
    """A copy of a module whose convolutions and linear layers have SmartDeal weights, and a report per layer.

    Depthwise convolutions stay as they are: a basis per channel would be as large as the weights. So do the
    layers of `config.skip`.

    Parameters
    ----------
    progress: show a bar if it takes long.

    Raises
    ------
    InputError: `config.skip` names a layer that would not be decomposed anyway.
    ModelError: a weight is not finite, or has a parametrisation already; names the layer.
    """
    result = copy.deepcopy(module)
    layers = {name: layer for name, layer in result.named_modules() if _decomposable(layer)}
    for name in config.skip:
        if name not in layers:
            raise InputError(f"there is no layer {name!r} to skip", remedy=f"layers: {', '.join(layers)}")
    layers = {name: layer for name, layer in layers.items() if name not in config.skip}
    weights = {
        name: _plain_weight(layer, f"layer {name or type(layer).__name__}") for name, layer in layers.items()
    }
    reports, done = [], 0
    total = sum(weight.numel() for weight in weights.values())
    with TransferBar("decomposing (weights)", total, enabled=progress) as bar:
        for name, layer in layers.items():
            form = SmartDealWeight(config, tuple(weights[name].shape))
            parametrize.register_parametrization(layer, "weight", form)
            reports.append(LayerReport.of(name, weights[name], decomposition(layer)))
            done += weights[name].numel()
            bar.update(done)
    return result, reports


def compression(network: nn.Module) -> Compression:
    """Storage of a network's weights as they are now; of layers without SmartDeal form at 8 bits a weight."""
    weights, bits, plain = 0, 0, {}
    for name, layer in network.named_modules():
        if is_decomposed(layer):
            found = decomposition(layer)
            weights += math.prod(found.slicing.shape)
            bits += sum(found.bits().values())
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            plain[name or type(layer).__name__] = layer.weight.numel()
    return Compression(weights=weights, bits=bits, plain=plain)


def is_decomposed(layer: nn.Module) -> bool:
    """Whether the layer itself has SmartDeal weights."""
    return _form(layer) is not None


def decomposition(layer: nn.Module) -> Decomposition:
    """The integers of a layer that `decompose` has made."""
    ((form, coefficients),) = smartdeal_weights(layer)
    return form.integers(coefficients, layer.get_parameter("parametrizations.weight.original1"))


def smartdeal_weights(network: nn.Module) -> Iterator[tuple[SmartDealWeight, nn.Parameter]]:
    """Parametrisation and carrier of the coefficients of every layer that has SmartDeal weights."""
    for layer in network.modules():
        form = _form(layer)
        if form is not None:
            yield form, layer.get_parameter("parametrizations.weight.original0")


def _form(layer: nn.Module) -> SmartDealWeight | None:
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    form = layer.get_submodule("parametrizations.weight.0")
    return form if isinstance(form, SmartDealWeight) else None


def _decomposable(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return not layer.groups == layer.in_channels > 1
    return isinstance(layer, nn.Linear)


def _plain_weight(layer: nn.Module, where: str) -> torch.Tensor:
    """A copy of a weight that can be decomposed."""
    if parametrize.is_parametrized(layer, "weight"):
        remedy = "decompose the plain network"
        raise ModelError("its weight has a parametrisation already", where=where, remedy=remedy)
    weight = layer.get_parameter("weight").detach().clone()
    if not weight.isfinite().all():
        raise ModelError("a weight is NaN or infinite", where=where, remedy="train it again")
    return weight
