"""The progress bar appears for long transfers only, and only on a terminal."""

import io

import pytest
import rich.console

from popshift.firmware_py import progress
from popshift.firmware_py.progress import TransferBar


def shown(monkeypatch: pytest.MonkeyPatch, seconds: float, *, terminal: bool, enabled: bool = True) -> str:
    """What ten updates within `seconds` write."""
    clock, screen = [100.0], io.StringIO()
    console = rich.console.Console(file=screen, force_terminal=terminal, width=100)
    monkeypatch.setattr(rich.console, "Console", lambda **_: console)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with TransferBar("loading net", 10, enabled=enabled) as bar:
        for done in range(1, 11):
            clock[0] += seconds / 10
            bar.update(done)
    return screen.getvalue()


def test_a_long_transfer_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, 5, terminal=True)
    assert "loading net" in text and "10/10" in text


@pytest.mark.parametrize(
    ("seconds", "terminal", "enabled"), [(1.9, True, True), (5, False, True), (5, True, False)]
)
def test_otherwise_nothing_is_shown(
    monkeypatch: pytest.MonkeyPatch, seconds: float, terminal: bool, enabled: bool
) -> None:
    assert shown(monkeypatch, seconds, terminal=terminal, enabled=enabled) == ""
