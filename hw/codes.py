"""The numbers in instructions that stand for something, and which of them a configuration has."""

from enum import IntEnum

from popshift.hw.config import AcceleratorConfig


class Opcode(IntEnum):
    """Zero is no opcode, so that an empty program memory stops at once."""

    END = 1
    MARK = 2
    MATRIX = 3
    POST = 4
    CHANNEL = 5
    ADD = 6
    DEPTHWISE = 7


def unit_of(opcode: Opcode) -> Opcode:
    """The unit that executes an instruction, named by its first one."""
    return {Opcode.ADD: Opcode.POST, Opcode.DEPTHWISE: Opcode.CHANNEL}.get(opcode, opcode)


def opcodes(config: AcceleratorConfig) -> tuple[Opcode, ...]:
    """The instructions that a configuration has."""
    present = {Opcode.ADD: config.residual, Opcode.DEPTHWISE: config.depthwise}
    return tuple(opcode for opcode in Opcode if present.get(opcode, True))


WINDOW = 3
"""Pixels of a line, and lines, of depthwise windows: what the array keeps of every bank, where it has rows
for all of them, and what the channel unit multiplies.
"""


class Kind(IntEnum):
    """What a word of weights holds beside the offset, for each column, and which PEs it is for."""

    DENSE = 0
    """An int8 weight, ``mul``."""
    REBUILD = 1
    """The coefficients of a row of Ce, one for each row of the basis; the feeder makes ``mul`` weights."""
    SHIFT = 2
    """One coefficient of a row of Ce, ``shift``."""
    XNOR = 3
    """The binary weights of 8 channels, ``xnor``."""


def kinds(config: AcceleratorConfig) -> tuple[Kind, ...]:
    """The kinds of weights that a configuration can work with."""
    present = {
        Kind.DENSE: "mul" in config.pe_kinds,
        Kind.REBUILD: config.rebuild,
        Kind.SHIFT: "shift" in config.pe_kinds,
        Kind.XNOR: "xnor" in config.pe_kinds,
    }
    return tuple(kind for kind, built in present.items() if built)


class After(IntEnum):
    """What of the instructions in front a MATRIX waits for, beside those of its own unit; 3 is like 2 in a
    configuration without ``depthwise``.
    """

    NOTHING = 0
    ALL = 1
    """Every other unit is idle, all accumulators are drained."""
    ALL_BUT_LAST_STRIP = 2
    """The channel unit is idle, and the post unit is, or all is written but the last strip of its POST."""
    ALL_FOR_LAST_PASS = 3
    """Both are idle, but only the last pass of its first accumulator half, and what follows, waits."""


class Source(IntEnum):
    """Where the post unit takes its values from."""

    MATRIX = 0
    CHANNEL = 1
    FILL = 2
    BASIS = 3


def sources(config: AcceleratorConfig) -> tuple[Source, ...]:
    """The sources that a configuration has."""
    return tuple(source for source in Source if source is not Source.BASIS or config.has_basis)


class Edge(IntEnum):
    """Bits of a POST's ``edges``: this side of its rectangle has parameters of its own."""

    LEFT = 0
    RIGHT = 1
    TOP = 2
    BOTTOM = 3


EDGE_CLASSES = {Edge.LEFT: 1, Edge.RIGHT: 2, Edge.TOP: 3, Edge.BOTTOM: 6}
"""By how many times ``class_words`` the parameters of a side lie behind the others; corners add two."""


class ChannelOperation(IntEnum):
    """How the channel unit folds a window."""

    MAX = 0
    SUM = 1
    OR = 2


def operations(config: AcceleratorConfig) -> tuple[ChannelOperation, ...]:
    """The operations that a configuration's channel unit has."""
    return tuple(
        operation
        for operation in ChannelOperation
        if operation is not ChannelOperation.OR or config.has_packing
    )
