"""The sign of binary networks, and the gradients that training puts in place of its own, which is 0.

Sources: IR-Net (Qin et al., "Forward and Backward Information Retention for Accurate Binary Neural
Networks", CVPR 2020, section 3.3) for `Estimator.EDE`; DIR-Net (Qin et al., "Distribution-sensitive
Information Retention for Accurate Binary Neural Network", IJCV 2022, arXiv 2109.12338) for `Estimator.DTE`.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from popshift.hw.errors import InputError

_SAMPLE = 4096
"""Values looked at for the distribution of a tensor."""


class Estimator(StrEnum):
    """What stands in for the derivative of the sign.

    `STE`: straight through where |x| <= 1, 0 beyond (Courbariaux et al., "Binarized Neural Networks", 2016).
    `EDE`: the derivative of k tanh(t x), k = max(1 / t, 1), whose t grows from epoch to epoch: first a
    straight line whose window shrinks from both sides to |x| < 1, then a steeper and steeper step.
    `DTE`: the same, but t stays so small that the smallest share of the values has a useful derivative.
    DIR-Net published no code: the rule in `largest_sharpness` is a reconstruction, not checked against it.
    """

    STE = "ste"
    EDE = "ede"
    DTE = "dte"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """An estimator and how far its schedule has come.

    Attributes
    ----------
    estimator: which derivative.
    sharpness_min, sharpness_max: t at the beginning and at the end. IR-Net's scripts have 0.1 and 10 for
        VGG-Small, 0.001 and 10 for ResNet-20.
    share: of the values of a tensor that shall have a useful derivative (DTE only), 0 .. 1. DIR-Net is said
        to have 0.1, which in this reconstruction never limits a Gaussian (a quarter of it is useful at the
        end); one half was best on the digits.
    useful: the smallest derivative that counts as useful (DTE only), 0 .. 1.
    progress: 0 at the beginning .. 1 at the end of the training.
    """

    estimator: Estimator = Estimator.EDE
    sharpness_min: float = 0.1
    sharpness_max: float = 10.0
    share: float = 0.5
    useful: float = 0.1
    progress: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "estimator", Estimator(self.estimator))
        if not 0 < self.sharpness_min <= self.sharpness_max:
            raise InputError(
                f"sharpness_min and sharpness_max must be positive and in order, "
                f"not {self.sharpness_min} and {self.sharpness_max}",
                where="surrogate",
                remedy="IR-Net has 0.1 and 10",
            )
        for name in ("share", "useful"):
            if not 0 < getattr(self, name) < 1:
                what = f"{name} must be between 0 and 1, not {getattr(self, name)}"
                raise InputError(what, where="surrogate", remedy="share 0.5 and useful 0.1 are the defaults")
        if not 0 <= self.progress <= 1:
            raise InputError(f"progress must be 0 .. 1, not {self.progress}", where="surrogate")

    @property
    def sharpness(self) -> float:
        """t of the schedule: it grows by the same factor in every epoch."""
        return self.sharpness_min * (self.sharpness_max / self.sharpness_min) ** self.progress

    def sharpness_for(self, values: torch.Tensor) -> float:
        """t for a tensor of these values, of any shape."""
        if self.estimator is not Estimator.DTE or not values.numel():
            return self.sharpness
        return largest_sharpness(smallest_quantile(values, self.share), self.sharpness, self.useful)


def binary_sign(
    values: torch.Tensor, surrogate: Surrogate | None = None, *, reach: float = 1.0
) -> torch.Tensor:
    """+1 where `values` >= 0, -1 elsewhere: float32 of the same shape.

    Parameters
    ----------
    values: float32, any shape.
    surrogate: the derivative; without one, or where no gradient is recorded, it is a plain comparison and
        selection, which every exporter understands.
    reach: |x| beyond which the straight-through estimator has no derivative.
    """
    if surrogate is None or not torch.is_grad_enabled():
        return torch.where(values >= 0, 1.0, -1.0)
    sharpness = surrogate.sharpness_for(values.detach())
    result = _Sign.apply(values, surrogate.estimator, sharpness, reach)
    assert isinstance(result, torch.Tensor)
    return result


def slope(values: torch.Tensor, estimator: Estimator, sharpness: float, reach: float = 1.0) -> torch.Tensor:
    """The derivative that stands in for that of the sign, in the shape of `values`; `sharpness` is t."""
    if estimator is Estimator.STE:
        return (values.abs() <= reach).to(values.dtype)
    return (1 - (sharpness * values).tanh().square()) * max(1.0, sharpness)  # k t = max(1, t)


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, estimator: Estimator, sharpness: float, reach: float
    ) -> torch.Tensor:
        ctx.save_for_backward(values)
        ctx.shape = (estimator, sharpness, reach)
        return torch.where(values >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (values,) = ctx.saved_tensors
        return gradients[0] * slope(values, *ctx.shape), None, None, None


def useful_reach(sharpness: float, useful: float) -> float:
    """The |x| at which the derivative of k tanh(t x) has fallen to `useful` (0 .. 1); it falls with t."""
    return math.atanh(math.sqrt(1 - useful / max(1.0, sharpness))) / sharpness


def smallest_quantile(values: torch.Tensor, share: float) -> float:
    """The smallest bound below which `share` of the |x| are, of at most some 4096 values, evenly taken."""
    stride = values.numel() // _SAMPLE | 1  # odd, so that it meets all pixels of an image of 2^n
    sample = values.flatten()[::stride].abs()
    return float(sample.kthvalue(max(1, math.ceil(share * sample.numel()))).values)


def largest_sharpness(bound: float, sharpness: float, useful: float) -> float:
    """The largest t, at most `sharpness`, with which all |x| <= `bound` have a useful derivative.

    DIR-Net's distribution-sensitive estimator as reconstructed: t = min(schedule's t, the largest t with
    P(|x| <= r(t)) >= share), where r is `useful_reach` and `bound` the quantile of |x| at share.
    """
    if useful_reach(sharpness, useful) >= bound:
        return sharpness
    flat = useful_reach(1.0, useful)  # up to t = 1 the reach is flat / t
    if flat <= bound:
        return flat / bound
    low, high = 1.0, sharpness
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if useful_reach(middle, useful) >= bound else (low, middle)
    return low
