"""The cycles that each section of a program is said to take."""

from collections.abc import Sequence

from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Instruction, Opcode, instruction
from popshift.sim import cycles


def section_cycles(items: Sequence[Instruction], config: AcceleratorConfig) -> list[int]:
    """Predicted cycles from mark to mark (the first from the start), one value for each MARK in `items`."""
    if items[-1].opcode is not Opcode.END:
        items = [*items, instruction(Opcode.END)]
    return cycles.predict(items, config)[:-1]
