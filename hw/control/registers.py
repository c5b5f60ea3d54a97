"""The command registers of a unit: the words of its current instruction, seen as fields."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from popshift.hw import isa
from popshift.hw.isa import Opcode


def command_members() -> dict:
    """The ports by which the sequencer hands an instruction to a unit.

    ``command_write``, ``command_index``, ``command_word``: one word of the instruction. ``go`` comes with the
        last word's
    successor cycle: the registers are complete and the unit is idle.
    """
    return {
        "command_write": In(1),
        "command_index": In(range(isa.MAX_LENGTH)),
        "command_word": In(isa.WORD_BITS),
        "go": In(1),
    }


class CommandRegisters(wiring.Component):
    """Holds one instruction; `field` gives a field's raw bits (counts are stored minus one)."""

    def __init__(self, opcode: Opcode) -> None:
        self._opcode = opcode
        members = command_members()
        del members["go"]
        super().__init__(members)
        self._words = [
            Signal(isa.WORD_BITS, name=f"{opcode.name.lower()}_word_{index}", reset_less=True)
            for index in range(isa.LENGTHS[opcode])
        ]

    def field(self, name: str):
        """The raw bits of a field."""
        place = isa.PLACEMENTS[self._opcode][name]
        return self._words[place.word][place.shift : place.shift + place.field.bits]

    def elaborate(self, platform):
        m = Module()
        for index, word in enumerate(self._words):
            with m.If(self.command_write & (self.command_index == index)):
                m.d.sync += word.eq(self.command_word)
        return m


def connect_command(m: Module, unit, registers: CommandRegisters) -> None:
    """Wire a unit's command ports to its registers."""
    m.d.comb += [
        registers.command_write.eq(unit.command_write),
        registers.command_index.eq(unit.command_index),
        registers.command_word.eq(unit.command_word),
    ]
