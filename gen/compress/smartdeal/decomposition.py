"""One layer's weights as integer coefficients times an integer basis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from popshift.gen.compress.smartdeal.fit import fit, improve_coefficients
from popshift.gen.compress.smartdeal.options import SmartDealConfig
from popshift.gen.compress.smartdeal.slices import MISSING, Slicing
from popshift.hw.numerics import BASIS_BITS, BASIS_MAX, CODE_BITS


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """``weight[f] = scale[f] * (coefficients[f] @ basis[f])``, each element where `slicing.taps` says.

    Attributes
    ----------
    coefficients: int8 (filters, slices, rows, columns): 0 or plus or minus 1, 2, 4 … 64.
    basis: int8 (filters, slices, columns, columns), -127 .. 127.
    scale: float32 (filters,), one for all slices of a filter.
    slicing: how filters are cut.
    group: filters that share their zero rows.
    """

    coefficients: torch.Tensor
    basis: torch.Tensor
    scale: torch.Tensor
    slicing: Slicing
    group: int

    def weight(self) -> torch.Tensor:
        """The weights, float32 in the layer's shape. The integer product is exact before it is scaled."""
        product = self.coefficients.float() @ self.basis.float()
        return self.slicing.join(product * self.scale[:, None, None, None])

    @property
    def zero_rows(self) -> torch.Tensor:
        """Rows that are zero in every filter of a group, boolean (groups, slices, rows)."""
        used = (self.coefficients != 0).any(3)
        return ~torch.stack([part.any(0) for part in used.split(self.group)])

    @property
    def row_sparsity(self) -> float:
        """Share of the rows, of those that have weights at all, that are zero in every filter of a group."""
        return float(self.zero_rows[:, self.slicing.channels != MISSING].float().mean())

    def bits(self) -> dict[str, int]:
        """Storage: codes of the rows that are not skipped, an index bit for each row and group, bases."""
        zero = self.zero_rows
        filters = torch.tensor([len(part) for part in self.coefficients.split(self.group)])
        rows = int(((~zero).sum((1, 2)) * filters).sum())
        return {
            "codes": CODE_BITS * self.slicing.columns * rows,
            "index": len(zero) * int((self.slicing.channels != MISSING).sum()),
            "basis": BASIS_BITS * self.basis.numel(),
        }


def kept_rows(matrices: torch.Tensor, slicing: Slicing, config: SmartDealConfig) -> torch.Tensor:
    """Which rows of Ce stay, boolean (filters, slices, rows): the weakest of each group of filters go.

    Every bank loses its share of rows, up or down to a whole number.

    Parameters
    ----------
    matrices: (filters, slices, rows, columns).
    """
    channels = slicing.channels.flatten()
    units = int((channels != MISSING).sum())  # rows behind them are filled up
    strength = matrices.abs().sum(3).flatten(1)[:, :units]
    groups = torch.stack([part.sum(0) for part in strength.split(config.group)])
    gone = _weakest(groups, channels[:units], config.banks, math.ceil(config.row_sparsity * units))
    kept = torch.zeros((len(groups), len(channels)), dtype=torch.bool)
    kept[:, :units] = ~gone
    return kept.repeat_interleave(config.group, 0)[: len(matrices)].reshape(matrices.shape[:3])


def _weakest(strength: torch.Tensor, channel: torch.Tensor, banks: int, count: int) -> torch.Tensor:
    """The `count` weakest rows, spread over their banks; boolean (groups, rows) from (groups, rows) and
    (rows,).

    The share of a bank is the share of the half that it belongs to, halved again, and so on: it is also right
    for arrays of half as many rows, and where copies of a tensor lie beside each other.
    """
    values, channels = strength.double().numpy(), channel.numpy()
    shares = {0: np.full(len(values), count)}
    modulus = 1
    for factor in _factors(banks):
        parts = {}
        for bank, share in shares.items():
            children = [bank + modulus * number for number in range(factor)]
            rows = [np.sort(values[:, channels % (modulus * factor) == child]) for child in children]
            parts |= dict(zip(children, _divided(share, rows), strict=True))
        shares, modulus = parts, modulus * factor
    gone = np.zeros(values.shape, bool)
    for bank, share in shares.items():
        rows = np.flatnonzero(channels % banks == bank)
        rank = values[:, rows].argsort(axis=1, kind="stable").argsort(axis=1)
        gone[:, rows] = rank < share[:, None]
    return torch.from_numpy(gone)


def _divided(share: NDArray[np.int64], rows: Sequence[NDArray[np.float64]]) -> list[NDArray[np.int64]]:
    """`share` (groups,) in proportion to the number of rows in each part; of parts with a fraction
    those are rounded up whose next row is weakest. `rows`: (groups, rows) of each part, in ascending order.
    """
    sizes = np.array([part.shape[1] for part in rows])
    parts = share[:, None] * sizes // max(1, sizes.sum())
    padding = ((0, 0), (0, 1))
    following = np.stack(
        [
            np.take_along_axis(np.pad(part, padding, constant_values=np.inf), parts[:, [index]], 1)[:, 0]
            for index, part in enumerate(rows)
        ],
        axis=1,
    )
    following[share[:, None] * sizes % max(1, sizes.sum()) == 0] = np.inf
    rest = share - parts.sum(axis=1)
    order = following.argsort(axis=1, kind="stable").argsort(axis=1)
    return list((parts + (order < rest[:, None])).T)


def _factors(number: int) -> list[int]:
    """Prime factors, the largest first."""
    found, factor = [], 2
    while number > 1:
        while number % factor == 0:
            found.insert(0, factor)
            number //= factor
        factor += 1
    return found


def decompose_weight(weight: torch.Tensor, config: SmartDealConfig) -> tuple[Decomposition, torch.Tensor]:
    """The decomposition of one layer's weights, and which coefficients it may use.

    Parameters
    ----------
    weight: (filters, channels, height, width) or (filters, inputs), finite.
    """
    slicing = Slicing.of(tuple(weight.shape), config.slice_rows, config.banks)
    matrices = slicing.cut(weight.detach().float())
    kept = kept_rows(matrices, slicing, config)[..., None].expand(matrices.shape)
    flat, mask = matrices.flatten(0, 1), kept.flatten(0, 1)
    generator = torch.Generator().manual_seed(config.seed)
    search = {"restarts": config.restarts, "iterations": config.iterations, "generator": generator}
    coefficients, basis = fit(flat, mask, **search)
    if config.element_sparsity:
        mask = _strongest(coefficients, basis, mask, 1 - config.element_sparsity)
        coefficients, basis = fit(flat, mask, **search)
    quantised, scale = quantise_basis(basis.unflatten(0, matrices.shape[:2]))
    # The coefficients once more, now that the basis is what it will be.
    steps = flat / scale.repeat_interleave(slicing.slices)[:, None, None]
    final = improve_coefficients(
        steps.mT, mask.mT.float(), quantised.flatten(0, 1), coefficients.mT.contiguous()
    )
    final = final.mT.reshape(matrices.shape)
    found = Decomposition(
        coefficients=final.to(torch.int8),
        basis=quantised.to(torch.int8),
        scale=_best_scale(matrices, final @ quantised, scale),
        slicing=slicing,
        group=config.group,
    )
    return found, mask.reshape(matrices.shape).clone()


def quantise_basis(basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers -127 .. 127 (as float32) and the scale of every filter, from (filters, slices, n, n)."""
    scale = basis.abs().amax((1, 2, 3)) / BASIS_MAX
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (basis / scale[:, None, None, None]).round().clamp(-BASIS_MAX, BASIS_MAX), scale


def _best_scale(matrices: torch.Tensor, product: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """The scale of every filter with the least squared error, given the integer product."""
    power = product.square().sum((1, 2, 3))
    return torch.where(power > 0, (matrices * product).sum((1, 2, 3)) / power.clamp_min(1), otherwise)


def _strongest(
    coefficients: torch.Tensor, basis: torch.Tensor, kept: torch.Tensor, share: float
) -> torch.Tensor:
    """The mask of the `share` of all coefficients that contribute most, among those of `kept`."""
    strength = coefficients.abs() * basis.norm(dim=2).unsqueeze(1) * kept
    count = math.floor(share * strength.numel())
    order = strength.flatten().argsort(descending=True, stable=True)[:count]
    mask = torch.zeros(strength.numel(), dtype=torch.bool)
    mask[order] = True
    return mask.reshape(kept.shape) & kept
