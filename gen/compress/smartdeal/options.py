"""What a SmartDeal decomposition shall look like."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.errors import InputError, ModelError
from popshift.hw.isa import basis_groups

ONE_SLICE = 1 << 20
"""As `slice_rows`: every filter has one basis, as factored execution needs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmartDealConfig:
    """How weights become coefficients (Ce) times basis (B).

    Attributes
    ----------
    row_sparsity: share of the rows of a layer's Ce that become zero, 0 .. 1: those whose weights have the
        smallest sum of magnitudes over the `group` filters that share a pattern, about the same share of
        each bank's rows.
    group: filters that share the pattern of zero rows; 1: every filter has its own. As many as the array has
        columns are skipped together.
    banks: channels that are equal modulo this share a bank of the activation memory, which has one for each
        row of the array; 1: rows are chosen from all alike, and a row of a narrow kernel has adjacent
        channels.
    element_sparsity: share of the elements of Ce that are zero at least, zero rows included, 0 .. 1.
    skip: names of layers that stay as they are, paths in the module like ``classify`` or ``stage1.0``.
    slice_rows: most rows of Ce with one basis; a channel of a large kernel may have more.
    restarts: bases to start from: the identity and random orthogonal ones.
    iterations: of the alternation, on the best start.
    seed: of the random bases.
    """

    row_sparsity: float = 0.0
    group: int = 16
    banks: int = 16
    element_sparsity: float = 0.0
    skip: tuple[str, ...] = ()
    slice_rows: int = 192
    restarts: int = 10
    iterations: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("row_sparsity", "element_sparsity"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < 1:
                raise InputError(f"{name} must be at least 0 and below 1, not {value!r}")
        smallest = {"group": 1, "banks": 1, "slice_rows": 3, "restarts": 1, "iterations": 1}
        for name, least in smallest.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be an integer of at least {least}, not {value}")
        if isinstance(self.skip, str) or not all(isinstance(name, str) for name in self.skip):
            raise InputError(f"skip must be a tuple of names, not {self.skip!r}")
        object.__setattr__(self, "skip", tuple(self.skip))

    @classmethod
    def for_target(cls, config: AcceleratorConfig | str | Path, **options: Any) -> Self:
        """What suits the array of `config` best: zero rows that it skips for free, and one basis for a filter
        if it has ``shift`` PEs alone. `config` may be its name or file; `options` are the other attributes,
        or the same.
        """
        config = config if isinstance(config, AcceleratorConfig) else load_config(config)
        suited: dict[str, Any] = {"group": config.cols, "banks": config.rows}
        if "mul" not in config.pe_kinds:
            suited |= {"group": basis_groups(config) * config.post_lanes, "slice_rows": ONE_SLICE}
        return cls(**{**suited, **options})


def require_smartdeal(config: AcceleratorConfig) -> None:
    """Refuse a configuration that cannot work with SmartDeal weights as they are.

    Raises
    ------
    ModelError
    """
    if not config.smartdeal:
        what = f"configuration {config.name} has neither rebuild nor shift PEs"
        raise ModelError(what, remedy="use a16-rebuild or a16-shift, or set rebuild = true")
