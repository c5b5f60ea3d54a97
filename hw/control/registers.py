"""The command registers of a unit: the words of its current instruction, seen as fields."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Opcode


def command_members() -> dict:
    """The ports by which the sequencer hands an instruction to a unit.

    ``command_write``, ``command_index``, ``command_word``: one word of the instruction. ``go``: strobe, a
    cycle after the last word: the registers are complete and the unit is idle. ``idle``: the next
    instruction may come. ``illegal``: strobe: the instruction makes no sense and is dropped.
    """
    return {
        "command_write": In(1),
        "command_index": In(range(isa.MAX_LENGTH)),
        "command_word": In(isa.WORD_BITS),
        "go": In(1),
        "idle": Out(1),
        "illegal": Out(1),
    }


START_CYCLES = 1
"""Cycles from `go` until the unit starts."""


class CommandRegisters(wiring.Component):
    """Holds one instruction; `field` gives a field's raw bits (counts are stored minus one).

    Members
    -------
    command ports: the unit's; see `connect_command`.
    legal: the registers hold an instruction that makes sense. busy: it is being executed.
    start: strobe: execute it.

    What decides about the start are registers: the fields that are judged and the counters that are started
    lie far apart in the device.
    """

    def __init__(self, opcode: Opcode, config: AcceleratorConfig) -> None:
        self._opcode, self._config = opcode, config
        super().__init__({**command_members(), "legal": In(1), "busy": In(1), "start": Out(1)})
        self._words = [
            Signal(isa.WORD_BITS, name=f"{opcode.name.lower()}_word_{index}", reset_less=True)
            for index in range(isa.LENGTHS[opcode])
        ]

    def field(self, name: str):
        """The raw bits of a field; of an address those that are heeded."""
        place = isa.PLACEMENTS[self._opcode][name]
        bits = isa.heeded_bits(name, self._config) if isa.is_address(name) else place.field.bits
        return self._words[place.word][place.shift : place.shift + bits]

    @property
    def opcode(self):
        """The instruction's own, where a unit executes several."""
        return self._words[0][: isa.OPCODE_BITS]

    def elaborate(self, platform):
        m = Module()
        for index, word in enumerate(self._words):
            with m.If(self.command_write & (self.command_index == index)):
                m.d.sync += word.eq(self.command_word)
        m.d.sync += [self.start.eq(self.go & self.legal), self.illegal.eq(self.go & ~self.legal)]
        m.d.comb += self.idle.eq(~self.busy & ~self.start)
        return m


def connect_command(m: Module, outer, inner) -> None:
    """Wire the command ports of a unit to those of its control or registers."""
    for name, member in command_members().items():
        source, sink = (outer, inner) if member.flow is In else (inner, outer)
        m.d.comb += getattr(sink, name).eq(getattr(source, name))
