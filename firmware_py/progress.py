"""A progress bar on standard error for what takes longer than two seconds."""

import time
from types import TracebackType
from typing import Self

DELAY_SECONDS = 2.0


class TransferBar:
    """Shows ``done`` of ``total``; nothing appears within the first two seconds, nor when standard error is
    no terminal.

    Parameters
    ----------
    title: what is being done.
    total: the number that `update` reaches in the end.
    enabled: False shows nothing at all.
    """

    def __init__(self, title: str, total: int, *, enabled: bool = True) -> None:
        self._title, self._total, self._enabled = title, total, enabled
        self._begin = time.monotonic()
        self._bar = None
        self._task = None

    def update(self, done: int) -> None:
        """Show that `done` of the total is done."""
        if self._bar is None:
            if not self._enabled or time.monotonic() - self._begin < DELAY_SECONDS:
                return
            self._start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._enabled = console.is_terminal
        if self._enabled:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(self._title, total=self._total)
            self._bar.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
