"""Layers on the channel unit beside the layer in front on the matrix unit.

A plane of a depthwise layer can be made as soon as the post unit has written that plane of its input, while
the array computes the next column tile; and the layer behind can begin with what does not read the last
plane. Which depthwise layers are better off there than on the array, the cycle model says.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from popshift.gen.mapping.in_turn import after, windows_in_turn
from popshift.gen.mapping.sections import Section, cycles_alone
from popshift.hw.config import ADDRESS_BITS, AcceleratorConfig
from popshift.hw.isa import After, Instruction, Opcode, Source, instruction
from popshift.sim.cycles import predict


def _beside(
    items: Sequence[Instruction], front: Section, section: Section, config: AcceleratorConfig
) -> tuple[list[Instruction], list[Instruction]] | None:
    """The instructions `items` of the section in `front`, and those of the `section` behind it, on the
    channel unit, among each other: those up to the end of the first, and the rest. None if it cannot be.
    """
    if not (items and section.pairs and section.reads == front.writes) or section.overwrites(front):
        return None
    *matrices, post = items
    parts = _by_planes(post, len(section.pairs), config)
    if len(parts) < 2 or not all(item.opcode is Opcode.MATRIX or _fills(item) for item in matrices):
        return None
    fills = [item for item in section.instructions if _fills(item)]
    at_once = -(-parts[0]["chunks"] // post["period"])  # planes of a part
    found, behind, left = list(matrices), list[Instruction](), list(section.pairs)
    for number, part in enumerate(parts, 1):
        found += [*behind, part]
        taken = at_once if number < len(parts) else len(left)  # the front may be the last part of its layer
        pairs, left = left[:taken], left[taken:]
        behind = windows_in_turn(pairs, fills) if pairs else []
        fills = []
    return found, behind


def _fills(item: Instruction) -> bool:
    return item.fields.get("source") == Source.FILL


def _by_planes(post: Instruction, number: int, config: AcceleratorConfig) -> list[Instruction]:
    """A POST that drains halves as one for each of its first planes, `number` in all, or for as many as take
    whole halves; and one for the others. As it is if it cannot be divided so.
    """
    plain = post.opcode is Opcode.POST and post["source"] == Source.MATRIX
    if not plain or post["packed"] or post["edges"] or post["strips"] > 1:
        return [post]
    groups = math.lcm(post["period"], config.chunks)
    planes = groups // post["period"]
    starts = [*range(0, min(post["chunks"], number * post["period"]), groups)]
    rest = starts[-1] + groups
    starts += [rest] if rest < post["chunks"] else []
    return [
        replace(
            post,
            fields={
                **post.fields,
                "chunks": stop - start,
                "parameter_base": post["parameter_base"] + start,
                "base": (post["base"] + start // groups * planes * post["plane_step"]) % (1 << ADDRESS_BITS),
            },
        )
        for start, stop in itertools.pairwise([*starts, post["chunks"]])
    ]


def segment_instructions(
    sections: Sequence[Section], layers: Sequence[int], config: AcceleratorConfig
) -> tuple[list[Instruction], list[int]]:
    """The instructions of a segment, with a MARK behind each section, for the layer in `layers`; and the
    layers that run beside the one in front.
    """
    starts = {"weight_base": 0, "parameter_base": 0}
    moved: list[Section] = []
    for section in sections:
        moved.append(section.moved(starts))
        starts["weight_base"] += len(section.weights)
        starts["parameter_base"] += len(section.parameters)
    items, early = list[Instruction](), list[int]()
    running: list[Section] = []  # what may not be done when the next section begins
    begun: list[Instruction] | None = None  # what is left of the next section
    for section, following, layer in zip(moved, [*moved, None][1:], layers, strict=True):
        own = section.instructions
        waits = False
        if begun is not None:
            own = begun
            early.append(layer)
        elif own[0].opcode is not Opcode.MATRIX:  # at the barrier in front
            waits = True
        elif any(section.waits_for(other) for other in running):
            own = _after(own, section, running[-1])
            waits = True
        running = [section] if waits else [*running, section]
        begun, soft = None, following is not None and following.instructions[0].opcode is Opcode.MATRIX
        if following is not None and (among := _beside(own, section, following, config)) is not None:
            (own, begun), soft = among, True
        items += [*own, instruction(Opcode.MARK, layer=layer, soft=int(soft))]
    return [*items, instruction(Opcode.END)], early


def _after(items: list[Instruction], section: Section, front: Section) -> list[Instruction]:
    """The section's instructions, with a first MATRIX that waits for those in front."""
    if section.spares_last_plane_of(front):
        return after(items, After.ALL_FOR_LAST_PASS)
    early = section.early(front)
    return after(items, After.ALL_BUT_LAST_STRIP if early else After.ALL, early)


def with_channel_unit(
    layers: Sequence[list[Section]],
    number: int,
    by_planes: list[Section],
    others: Sequence[list[Section]],
    config: AcceleratorConfig,
) -> list[list[Section]]:
    """The sections of all layers, with one of the `others` for layer `number`, on the channel unit as a whole
    or in part, if it takes fewer cycles between its neighbours than the layer does as it is.

    `by_planes`: sections of the layer in front that are done plane by plane; none: there is no such layer.
    """
    first, plain = max(0, number - 1), layers[number]
    front, behind = list(layers[first:number]), list(layers[number + 1 : number + 2])
    ways = [[*front, plain], *([*front, other] for other in others)]
    if by_planes and not any(section.on_channel_unit for section in front[0]):
        ways += [[by_planes, other] for other in others]
    cycles = []
    for way in ways:
        sections = list(itertools.chain(*way, *behind))
        items, _ = segment_instructions(sections, range(len(sections)), config)
        cycles.append(sum(predict(items, config)))
    best = ways[cycles.index(min(cycles))]
    if others:
        worse = others[0] if best[-1] is plain else plain
        rejected = sum(cycles_alone(section, config) for section in worse)
        part = " for all of it" if len(best[-1]) > len(worse) else ""
        best[-1][0].mapping["other_executions"][worse[0].mapping["execution"] + part] = rejected
    return [*layers[:first], *best, *layers[number + 1 :]]
