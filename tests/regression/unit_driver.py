"""Drives a unit's ports in cocotb, one falling edge a cycle.

At a falling edge the outputs show what the last rising edge made of the values set a cycle before; what is
set there counts at the next.
"""

from collections.abc import Iterable
from typing import Any

from cocotb.triggers import FallingEdge

from popshift.hw import isa
from popshift.hw.isa import Instruction
from popshift.hw.numerics import wrap


def packed(lanes: Iterable[int], bits: int) -> int:
    """Signed lanes side by side, the first from bit 0 up."""
    return sum((int(lane) & ((1 << bits) - 1)) << bits * index for index, lane in enumerate(lanes))


def unpacked(value: int, bits: int, lanes: int) -> list[int]:
    """The signed lanes in `value`."""
    return [wrap(value >> bits * index, bits) for index in range(lanes)]


_COMMAND = ("command_write", "command_index", "command_word", "go", "clear_errors")


class UnitDriver:
    """The ports ``UNIT__name``; all inputs start at zero.

    Parameters
    ----------
    inputs: names of the inputs, but for the command ports and ``clear_errors``.
    commands: whether it has those.
    """

    def __init__(self, dut: Any, unit: str, inputs: tuple[str, ...], *, commands: bool = True) -> None:
        self._clk = dut.clk
        self._dut, self._unit = dut, unit
        self._handles: dict[str, Any] = {}
        for name in (*(_COMMAND if commands else ()), *inputs):
            self.set(name, 0)

    def _handle(self, name: str) -> Any:
        if name not in self._handles:
            self._handles[name] = getattr(self._dut, f"{self._unit}__{name}")
        return self._handles[name]

    def set(self, name: str, value: int) -> None:
        """Drive an input, as an unsigned number."""
        self._handle(name).value = value

    def get(self, name: str) -> int:
        """An output, as an unsigned number."""
        return int(self._handle(name).value)

    async def step(self) -> None:
        """To the next cycle."""
        await FallingEdge(self._clk)

    async def command(self, item: Instruction) -> None:
        """Hand over an instruction as the sequencer does."""
        self.set("command_write", 1)
        for index, word in enumerate(isa.encode(item)):
            self.set("command_index", index)
            self.set("command_word", word)
            await self.step()
        self.set("command_write", 0)
        self.set("go", 1)
        await self.step()
        self.set("go", 0)
