"""What a SmartDeal decomposition shall look like."""

from dataclasses import dataclass

from popshift.hw.errors import InputError

EXPONENTS = 7
"""Magnitudes 2**0 .. 2**6; with zero they fit a code of four bits, sign included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmartDealConfig:
    """How weights become coefficients (Ce) times basis (B).

    Attributes
    ----------
    row_sparsity: share of the rows of a layer's Ce that become zero, 0 .. 1: those whose weights have the
        smallest sum of magnitudes over the `group` filters that share a pattern.
    group: filters that share the pattern of zero rows; 1: every filter has its own. As many as the array has
        columns are skipped together.
    element_sparsity: share of the elements of Ce that are zero at least, zero rows included, 0 .. 1.
    slice_rows: most rows of Ce with one basis.
    restarts: bases to start from: the identity and random orthogonal ones.
    iterations: of the alternation, on the best start.
    seed: of the random bases.
    """

    row_sparsity: float = 0.0
    group: int = 16
    element_sparsity: float = 0.0
    slice_rows: int = 192
    restarts: int = 10
    iterations: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("row_sparsity", "element_sparsity"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"{name} must be at least 0 and below 1, not {value}")
        for name, least in (("group", 1), ("slice_rows", 3), ("restarts", 1), ("iterations", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be an integer of at least {least}, not {value}")
