"""What a front end found out about each layer, and the one error that names every layer it cannot take."""

from collections.abc import Iterable
from dataclasses import dataclass

from popshift.hw.errors import ModelError


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one operator of a network.

    Attributes
    ----------
    layer: path of the module that holds the operator (``features.0``), or the operator's own name.
    operator: in the front end's words (``conv2d``).
    supported: whether it can run on the accelerator.
    reason: why not; for a supported operator what becomes of it, if not obvious (``folded into conv1``).
    remedy: what would help; empty for a supported operator.
    """

    layer: str
    operator: str
    supported: bool
    reason: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"layer {self.layer} ({self.operator}): {self.reason}{remedy}"


class UnsupportedError(Exception):
    """Raised while one operator is imported; the front end turns it into a `Finding` and goes on."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


def refuse(findings: Iterable[Finding]) -> None:
    """Raise one error for all unsupported operators, if there are any.

    Raises
    ------
    ModelError: a single problem on one line; several as a summary line and one line for each.
    """
    problems = [finding for finding in findings if not finding.supported]
    if len(problems) == 1:
        (problem,) = problems
        where = f"layer {problem.layer} ({problem.operator})"
        raise ModelError(problem.reason, where=where, remedy=problem.remedy)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ModelError(f"{len(problems)} operators of the network cannot run on the accelerator:{lines}")
