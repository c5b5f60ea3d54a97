"""A long job as named steps: shown while they run, and how long each took."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text


@dataclass(slots=True)
class Step:
    """One step; what it found out goes into ``note`` while it runs."""

    title: str
    note: str = ""
    seconds: float = 0.0


class Steps:
    """Keeps the steps of a job in ``done``.

    Parameters
    ----------
    console: where to show them; None shows nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.done: list[Step] = []
        self._console = console
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return time.monotonic() - self._begin

    @contextlib.contextmanager
    def step(self, title: str, *, has_bar: bool = False) -> Iterator[Step]:
        """Run the block as a step; nothing is kept of one that fails.

        Parameters
        ----------
        has_bar: the block shows its own progress, so that a spinner would be in its way.
        """
        step, begin = Step(title), time.monotonic()
        console = self._console
        spins = console is not None and console.is_terminal and not has_bar
        with console.status(Text(title)) if console and spins else contextlib.nullcontext():
            yield step
        step.seconds = time.monotonic() - begin
        self.done.append(step)
        if console is not None:
            line = Text.assemble(
                ("✓ ", "green"), f"{title:<34}", (f"{step.seconds:7.1f} s  ", "cyan"), step.note
            )
            console.print(line, soft_wrap=True)
