"""Cocotb drivers and monitors of Amaranth streams (``NAME__payload``, ``NAME__valid``, ``NAME__ready``).

All drive at the falling edge and look at the settled signals right behind it: what they see is what the
next rising edge sees, in any order of tasks and on any simulator.
"""

import itertools
import random
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, Event, FallingEdge, ReadOnly

PERIOD_NS = 10


async def start_clock(dut: Any, *, reset_cycles: int = 3) -> None:
    """Start ``dut.clk`` and hold ``dut.rst`` for some cycles."""
    cocotb.start_soon(Clock(dut.clk, PERIOD_NS, unit="ns").start())
    dut.rst.value = 1
    await ClockCycles(dut.clk, reset_cycles)
    await FallingEdge(dut.clk)
    dut.rst.value = 0


def no_pauses() -> Iterator[bool]:
    """Never hold back."""
    return itertools.repeat(False)


def random_pauses(source: random.Random, share: float) -> Iterator[bool]:
    """Hold back in that `share` (0 .. 1) of the cycles, each independently."""
    while True:
        yield source.random() < share


def random_bursts(source: random.Random, longest: int) -> Iterator[bool]:
    """Alternate between holding back and not, for 1 .. `longest` cycles each."""
    for pause in itertools.cycle((False, True)):
        yield from itertools.repeat(pause, source.randint(1, longest))


class _Stream:
    def __init__(self, dut: Any, name: str) -> None:
        self.name, self._clk = name, dut.clk
        self._valid, self._ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        self._payload = getattr(dut, f"{name}__payload")

    @property
    def _transfers(self) -> bool:
        return self._valid.value == 1 and self._ready.value == 1


class StreamDriver(_Stream):
    """Sends items into a stream of the design; holds each until it is taken.

    Parameters
    ----------
    dut: has ``clk`` and the stream.
    name: of the stream: ``rx`` for ``rx__valid`` and so on.
    pauses: in which cycles not to offer an item that could be.
    """

    def __init__(self, dut: Any, name: str, *, pauses: Iterator[bool] | None = None) -> None:
        super().__init__(dut, name)
        self._pauses = no_pauses() if pauses is None else pauses
        self._items: deque[int] = deque()
        self._empty = Event()
        self._valid.value = 0
        cocotb.start_soon(self._run())

    def send(self, items: Iterable[int]) -> None:
        """Queue payloads, as unsigned numbers."""
        self._items.extend(items)
        self._empty.clear()

    async def sent(self) -> None:
        """Until every item was taken."""
        while self._items:
            self._empty.clear()
            await self._empty.wait()

    async def _run(self) -> None:
        offered = False
        while True:
            await FallingEdge(self._clk)
            if not offered:
                offered = bool(self._items) and not next(self._pauses)
                self._valid.value = int(offered)
                if not offered:
                    continue
                self._payload.value = self._items[0]
            await ReadOnly()
            if self._transfers:
                offered = False
                self._items.popleft()
                if not self._items:
                    self._empty.set()


class StreamMonitor(_Stream):
    """Records what passes a stream, and checks that an offered item stays, unchanged, until it is taken.

    Attributes
    ----------
    items: payloads that passed, as unsigned numbers; may be cleared.
    count: how many passed since the start.
    news: set whenever something passed.
    """

    def __init__(self, dut: Any, name: str) -> None:
        super().__init__(dut, name)
        self.items: list[int] = []
        self.count = 0
        self.news = Event()
        cocotb.start_soon(self._run())

    async def received(self, count: int) -> None:
        """Until `items` has at least `count` entries."""
        while len(self.items) < count:
            self.news.clear()
            await self.news.wait()

    def _drive_ready(self) -> None:
        """A sink drives ready here."""

    async def _run(self) -> None:
        held: int | None = None
        while True:
            await FallingEdge(self._clk)
            self._drive_ready()
            await ReadOnly()
            payload = int(self._payload.value) if self._valid.value == 1 else None
            assert held is None or payload == held, (
                f"{self.name} offered {held}, then {payload} before that was taken"
            )
            held = payload
            if self._transfers:
                held = None
                self.items.append(int(self._payload.value))
                self.count += 1
                self.news.set()


class StreamSink(StreamMonitor):
    """Takes what a stream of the design offers, and records it.

    Parameters
    ----------
    pauses: in which cycles not to be ready.
    after_valid: be ready only in cycles behind one in which an item was offered.
    """

    def __init__(
        self, dut: Any, name: str, *, pauses: Iterator[bool] | None = None, after_valid: bool = False
    ) -> None:
        self._pauses = no_pauses() if pauses is None else pauses
        self._after_valid = after_valid
        super().__init__(dut, name)
        self._ready.value = 0

    def _drive_ready(self) -> None:
        # At this moment valid still is what it was behind the last rising edge, before ready could answer it.
        willing = self._valid.value == 1 or not self._after_valid
        self._ready.value = int(willing and not next(self._pauses))


def watch(dut: Any, *monitors: StreamMonitor, cycles: int) -> None:
    """Fail the test when nothing passes any of the `monitors` for so many cycles."""

    async def look() -> None:
        before = -1
        while (now := sum(monitor.count for monitor in monitors)) != before:
            before = now
            await ClockCycles(dut.clk, cycles)
        names = ", ".join(monitor.name for monitor in monitors)
        raise AssertionError(f"no progress on {names} for {cycles} cycles")

    cocotb.start_soon(look())
