"""The fit of coefficients and basis: W = Ce B with every element of Ce zero or plus or minus a power of two.

After SmartDeal (arXiv 2101.01163) and SmartExchange (ISCA 2020, arXiv 2005.03403), with two changes. Their
alternation solves for real coefficients and rounds them; here each coefficient is set in turn to the level
that is best given the others, so the error never grows and the last iterate is the best one. And the scale
of a column of Ce moves into its row of B, which makes the exponents 0 .. 6 in every column.

Inside, matrices are transposed, (slices, columns, rows): what one operation walks over is contiguous.
"""

from concurrent.futures import ThreadPoolExecutor

import torch

from popshift.gen.threads import one_thread
from popshift.hw.numerics import COEFFICIENT_MAX

_SHORT_ITERATIONS = 3
_RIDGE = 1e-6
_FIRST_MAXIMA = (0.75 * COEFFICIENT_MAX, 1.4 * COEFFICIENT_MAX)
"""Where the largest coefficient of a slice may start: a start with more room at the bottom or at the top."""
_CHUNK_ELEMENTS = 1 << 18
"""Elements fitted at a time: what one iteration works on fits a processor's cache."""


def nearest_level(x: torch.Tensor) -> torch.Tensor:
    """The nearest of 0, 1, 2, 4 … `COEFFICIENT_MAX` in magnitude, with the sign; ties to the smaller one."""
    bits = x.float().contiguous().view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    # Adding just below half of the mantissa carries into the exponent beyond 1.5 times a power of two.
    power = (magnitude + 0x3FFFFF).bitwise_and_(0x7F800000).clamp_(min=_ONE, max=_LARGEST)
    power *= magnitude > _HALF
    return power.bitwise_or_(bits & -0x80000000).view(torch.float32).to(x.dtype)


def _bits(value: float) -> int:
    return int(torch.tensor(value, dtype=torch.float32).view(torch.int32))


_HALF, _ONE, _LARGEST = _bits(0.5), _bits(1), _bits(COEFFICIENT_MAX)


def fit(
    matrices: torch.Tensor, kept: torch.Tensor, *, restarts: int, iterations: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients (N, rows, columns) and bases (N, columns, columns), float32, of many slices at once.

    Parameters
    ----------
    matrices: (N, rows, columns) float32.
    kept: which coefficients may differ from zero, of the same shape.
    restarts, iterations: see `SmartDealConfig`; every start gets a few iterations, the best goes on.
    generator: of the random bases.
    """
    columns = matrices.shape[2]
    starts = [torch.eye(columns)]
    if restarts > 1:
        starts += torch.linalg.qr(torch.randn((restarts - 1, columns, columns), generator=generator))[0]
    size = max(1, _CHUNK_ELEMENTS // matrices[0].numel())

    def work(part: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _fit_chunk(part.mT.contiguous(), mask.mT.float().contiguous(), starts, iterations)

    with one_thread() as threads, ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(work, matrices.split(size), kept.split(size)))
    return torch.cat([part[0] for part in parts]).mT, torch.cat([part[1] for part in parts])


def _fit_chunk(
    matrices: torch.Tensor, kept: torch.Tensor, starts: list[torch.Tensor], iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    best: tuple[torch.Tensor, torch.Tensor] | None = None
    least = torch.empty(0)
    for number, start in enumerate(starts):
        basis = _scaled(start, matrices, _FIRST_MAXIMA[number % len(_FIRST_MAXIMA)])
        found = _alternate(matrices, kept, basis, _SHORT_ITERATIONS)
        error = torch.baddbmm(matrices, found[1].mT, found[0], alpha=-1).square_().sum((1, 2))
        if best is None:
            best, least = found, error
            continue
        better = (error < least)[:, None, None]
        best = (torch.where(better, found[0], best[0]), torch.where(better, found[1], best[1]))
        least = torch.minimum(least, error)
    assert best is not None
    return _alternate(matrices, kept, best[1], iterations, best[0])


def _scaled(basis: torch.Tensor, matrices: torch.Tensor, maximum: float) -> torch.Tensor:
    """An orthogonal basis, for each slice so scaled that no coefficient exceeds `maximum`."""
    largest = (basis @ matrices).abs().amax(2)
    largest[largest == 0] = 1
    return basis * (largest / maximum).unsqueeze(2)


def _alternate(
    matrices: torch.Tensor,
    kept: torch.Tensor,
    basis: torch.Tensor,
    iterations: int,
    coefficients: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients and basis in turn; begins with the coefficients."""
    for _ in range(iterations):
        coefficients = improve_coefficients(matrices, kept, basis, coefficients)
        basis = best_basis(matrices, coefficients)
    assert coefficients is not None
    return coefficients, basis


def improve_coefficients(
    matrices: torch.Tensor, kept: torch.Tensor, basis: torch.Tensor, coefficients: torch.Tensor | None = None
) -> torch.Tensor:
    """One round of setting every coefficient to its best level given the others of its row.

    Parameters
    ----------
    matrices, kept: (N, columns, rows).
    basis: (N, columns, columns).
    coefficients: (N, columns, rows) to improve; by default the real solution is rounded.
    """
    gram, wanted = basis @ basis.mT, basis @ matrices
    if coefficients is None:
        result = torch.linalg.solve(_regular(gram), wanted) * kept
    else:
        result = coefficients.clone()
    scale = gram.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(torch.float32).tiny)
    # What row j of the basis still has to explain: everything but what the other rows do.
    others = gram / scale.unsqueeze(2)
    others.diagonal(dim1=1, dim2=2).zero_()
    for j in range(basis.shape[1]):
        rest = wanted[:, j] / scale[:, j, None]
        rest -= (others[:, j, None] @ result).squeeze(1)
        result[:, j] = nearest_level(rest) * kept[:, j]
    return result


def best_basis(matrices: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """The basis of least squared error, (N, columns, columns); zero where a column of Ce is zero."""
    return torch.linalg.solve(_regular(coefficients @ coefficients.mT), coefficients @ matrices.mT)


def _regular(gram: torch.Tensor) -> torch.Tensor:
    """A Gram matrix that can be solved with, even if columns are zero or alike."""
    diagonal = gram.diagonal(dim1=1, dim2=2)
    ridge = _RIDGE * diagonal.amax(1, keepdim=True).clamp_min(1e-30)
    return gram + torch.diag_embed(ridge.expand_as(diagonal))
