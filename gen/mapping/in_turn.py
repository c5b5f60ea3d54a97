"""The order in which the instructions of a layer are handed over.

An instruction is handed over when its unit is free, and what follows it only then.
"""

from collections.abc import Sequence
from dataclasses import replace

from popshift.hw import isa
from popshift.hw.isa import After, Edge, Instruction, Opcode, Source

Drained = tuple[list[Instruction], Instruction]
"""MATRIXes, and the POST that drains what they fill."""
_MOST_STRIPS = isa.PLACEMENTS[Opcode.POST]["strips"].field.high
_ACROSS = 1 << Edge.TOP | 1 << Edge.BOTTOM


def in_strips(tiles: Sequence[Drained]) -> list[Drained]:
    """The same with one POST for consecutive pixel tiles alike, each below the one before: its pipeline stays
    full from tile to tile.
    """
    found: list[Drained] = []
    for matrices, post in tiles:
        if found and _continues(found[-1][1], post):
            before, first = found[-1]
            more = replace(first, fields={**first.fields, "strips": first["strips"] + 1})
            found[-1] = ([*before, *matrices], more)
        else:
            found.append((matrices, post))
    return found


def _continues(first: Instruction, post: Instruction) -> bool:
    """Whether `post` does what one more strip of `first` would."""
    number = first["strips"]
    behind = {**first.fields, **isa.strip_bases(first, number), "strips": 1}
    edges_differ = first["edges"] & _ACROSS  # they are those of every strip
    return (
        number < _MOST_STRIPS and post.opcode is first.opcode and post.fields == behind and not edges_differ
    )


def drained_in_turn(
    tiles: Sequence[Drained], fills: Sequence[Instruction], *, fills_first: bool = False
) -> list[Instruction]:
    """MATRIXes with the POSTs that drain them; FILLs run beside the first MATRIX, or in front of it.

    The MATRIX behind a POST's first comes before the POST: its weights are loaded while this waits for the
    one before it. Not if the first fills several halves: it would wait for its POST until the last is nearly
    full.
    """
    items: list[Instruction] = list(fills) if fills_first else []
    due = [] if fills_first else list(fills)
    for (first, *others), post in tiles:
        items += [first, *due]
        due = [post]
        if first["n_tiles"] > 1 or others:
            items += [*others[: first["n_tiles"] == 1], post, *others[first["n_tiles"] == 1 :]]
            due = []
    return [*items, *due]


def after(items: Sequence[Instruction], waits: After, early: int = 0) -> list[Instruction]:
    """The same with a first MATRIX that `waits` for what is in front: if `early` MATRIXes may run beside the
    last strip of that, further ones come behind the first POST, which is handed over when the last strip is
    done.
    """
    first = replace(items[0], fields={**items[0].fields, "after": int(waits)})
    drains = (Source.MATRIX, Source.BASIS)
    drain = next(n for n, item in enumerate(items) if item.fields.get("source") in drains)
    matrices = [item for item in items[1:drain] if item.opcode is Opcode.MATRIX]
    if not early or len(matrices) < early:
        return [first, *items[1:]]
    fills = [item for item in items[1:drain] if item.opcode is not Opcode.MATRIX]
    return [first, *fills, items[drain], *matrices, *items[drain + 1 :]]


def windows_in_turn(
    pairs: Sequence[tuple[Instruction, Instruction]], fills: Sequence[Instruction]
) -> list[Instruction]:
    """CHANNELs, each with the POST that takes its windows: the FILLs run beside the first; every other
    CHANNEL comes behind its POST, else the POST before might take its first windows.
    """
    (channel, post), *others = pairs
    return [channel, *fills, post, *(item for one, taker in others for item in (taker, one))]
