"""Cases on their way from pytest, which draws them and asks PyTorch, to the process of the simulation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy

Drawn = TypeVar("Drawn")


def draw(strategy: SearchStrategy[Drawn], count: int, seed: int) -> list[Drawn]:
    """At most `count` examples; the same for the same seed."""
    found: list[Drawn] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(example: Drawn) -> None:
        found.append(example)

    collect()
    assert found
    return found


def save_cases(path: Path, cases: Sequence[Mapping[str, Any]]) -> str:
    """Write cases: numbers, texts and arrays by name. Returns the path, to be passed on as a parameter."""
    entries = {f"{index}/{name}": value for index, case in enumerate(cases) for name, value in case.items()}
    np.savez(path, count=np.array(len(cases)), **{name: np.asarray(value) for name, value in entries.items()})
    return str(path)


def load_cases(path: str) -> list[dict[str, Any]]:
    """What `save_cases` wrote; numbers and texts as Python values."""
    with np.load(path) as stored:
        cases: list[dict[str, Any]] = [{} for _ in range(int(stored["count"]))]
        for key in stored.files:
            index, _, name = key.partition("/")
            if name:
                value = stored[key]
                cases[int(index)][name] = value if value.ndim else value.item()
    return cases
