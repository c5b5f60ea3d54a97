"""Operators as a front end meets them, before `popshift.gen.frontend.fusion` folds some into others."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popshift.gen.frontend.float_graph import FloatOperator, Levels, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorm:
    """``x * factor + offset`` per channel, as the front end met it; `fuse` folds it away.

    ``step``: the same as the module computes it.
    """

    name: str
    input: str
    output: str
    factor: NDArray[np.float64]
    offset: NDArray[np.float64]
    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Clamp:
    """A piecewise linear activation (ReLU, ReLU6, Hardtanh) as the front end met it; `fuse` folds it."""

    name: str
    input: str
    output: str
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """``scale`` where x is not negative, else ``-scale``; `fuse` folds it.

    ``negate``: channels, bool (channels,), in which it is the other way round.
    """

    name: str
    input: str
    output: str
    scale: float = 1.0
    negate: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiser:
    """The nearest of `levels`; `fuse` gives them to the tensor that it reads."""

    name: str
    input: str
    output: str
    levels: Levels


RawOperator = FloatOperator | BatchNorm | Clamp | Sign | Quantiser
