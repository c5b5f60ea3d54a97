"""Bucket switch: coefficients that move by whole exponents (SmartDeal training, arXiv 2101.01163).

An ordinary step would change a coefficient by less than the distance to its neighbouring power of two. Here
steps only vote: when enough of them point the same way, the exponent moves by one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from popshift.gen.compress.smartdeal.fit import nearest_level
from popshift.gen.compress.smartdeal.layers import SmartDealWeight, smartdeal_weights
from popshift.hw.numerics import COEFFICIENT_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSwitchOptions:
    """How exponents move.

    Attributes
    ----------
    learning_rate, momentum: of the steps that vote.
    threshold: steps that are not larger do not vote; without one, noise moves every exponent.
    votes: how many more votes one way than the other move an exponent.
    """

    learning_rate: float = 1e-2
    momentum: float = 0.9
    threshold: float = 3e-3
    votes: int = 4


class BucketSwitch(torch.optim.Optimizer):
    """SGD with momentum whose steps are counted instead of taken; the coefficients of SmartDeal layers only.

    A coefficient becomes the next power of two in the direction of the votes; from the smallest it falls to
    zero, from zero it rises to the smallest with the sign of the votes: signs change through zero only.

    Parameters
    ----------
    network: its layers of SmartDeal weights are trained, nothing else is.
    options: see `BucketSwitchOptions`.
    reset_every: steps after which all votes are forgotten, usually an epoch; 0: never.
    """

    def __init__(self, network: nn.Module, options: BucketSwitchOptions, *, reset_every: int = 0) -> None:
        found = list(smartdeal_weights(network))
        self._forms = [form for form, _ in found]
        defaults = {
            "lr": options.learning_rate,
            "momentum": options.momentum,
            "threshold": options.threshold,
            "votes": options.votes,
            "reset_every": reset_every,
        }
        super().__init__([{"params": [coefficients]} for _, coefficients in found], defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One vote of every coefficient, and the moves that follow. There is no loss to return."""
        assert closure is None, "a step here is not a function of the loss"
        for form, group in zip(self._forms, self.param_groups, strict=True):
            (coefficients,) = group["params"]
            if coefficients.grad is not None:
                self._vote(form, coefficients, group, self.state[coefficients])

    def _vote(self, form: SmartDealWeight, coefficients: torch.Tensor, group: Any, state: Any) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(coefficients)
            state["votes"] = torch.zeros_like(coefficients)
            state["steps"] = 0
        if group["reset_every"] and state["steps"] % group["reset_every"] == 0:
            state["votes"].zero_()
        state["steps"] += 1
        state["momentum"].mul_(group["momentum"]).add_(coefficients.grad)
        change = -group["lr"] * state["momentum"]
        state["votes"] += torch.where(change.abs() > group["threshold"], change.sign(), 0)
        moves = state["votes"].abs() >= group["votes"]
        direction = torch.where(moves & form.kept, state["votes"].sign(), 0)
        state["votes"][moves] = 0
        level = nearest_level(coefficients / form.unit)
        coefficients.copy_(switched(level, direction) * form.unit)


def switched(level: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """The neighbouring level of each in `direction` (-1, 0 or 1)."""
    moved = level * torch.exp2(direction * level.sign())
    moved = torch.where(moved.abs() < 1, 0, moved.clamp(-COEFFICIENT_MAX, COEFFICIENT_MAX))
    return torch.where(level == 0, direction, moved)


def others(network: nn.Module) -> Iterable[nn.Parameter]:
    """The parameters that `BucketSwitch` leaves to another optimiser."""
    own = {id(coefficients) for _, coefficients in smartdeal_weights(network)}
    return (parameter for parameter in network.parameters() if id(parameter) not in own)
