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
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import After, Instruction, Opcode, Source, instruction
from popshift.sim.cycles import predict


def _beside(
    items: Sequence[Instruction], front: Section, section: Section, config: AcceleratorConfig
) -> tuple[list[Instruction], list[Instruction]] | None:
    """The instructions `items` of the section in `front`, and those of the `section` behind it, on the
    channel unit, among each other: those up to the end of the first, and the rest. None if it cannot be.
    """
    *matrices, post = items
    parts = _by_planes(post, config)
    only_matrices = all(item.opcode is Opcode.MATRIX or _fills(item) for item in matrices)
    if not (section.pairs and only_matrices and len(parts) > 1 and section.reads == front.writes):
        return None
    if section.overwrites(front):
        return None
    fills = [item for item in section.instructions if _fills(item)]
    at_once = -(-parts[0]["chunks"] // post["period"])  # planes of a part
    found, behind = list(matrices), list[Instruction]()
    for number, part in enumerate(parts):
        found += behind
        behind = windows_in_turn(section.pairs[number * at_once : (number + 1) * at_once], fills)
        fills = []
        found.append(part)
    return found, behind


def _fills(item: Instruction) -> bool:
    return item.fields.get("source") == Source.FILL


def _by_planes(post: Instruction, config: AcceleratorConfig) -> list[Instruction]:
    """A POST that drains halves as one for as many whole planes as take whole halves; as it is if it cannot
    be divided so.
    """
    plain = post.opcode is Opcode.POST and post["source"] == Source.MATRIX
    if not plain or post["packed"] or post["edges"] or post["strips"] > 1:
        return [post]
    groups = math.lcm(post["period"], config.chunks)
    planes = groups // post["period"]
    found = []
    for first in range(0, post["chunks"], groups):
        further = first // groups * planes * post["plane_step"]
        moved = {
            "chunks": min(groups, post["chunks"] - first),
            "parameter_base": post["parameter_base"] + first,
            "base": (post["base"] + further) % (1 << 16),
        }
        found.append(replace(post, fields={**post.fields, **moved}))
    return found


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
    for section, following, layer in zip(moved, [*moved[1:], None], layers, strict=True):
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


def chosen(
    layers: Sequence[list[Section]],
    others: dict[int, tuple[list[Section], list[Section]]],
    config: AcceleratorConfig,
) -> list[list[Section]]:
    """The sections of all layers: for each that can run on the channel unit the way that takes the fewest
    cycles between its neighbours.

    `others`: by number, such a layer's sections there, behind those of a layer in front that is done plane by
    plane (none: there is no such layer).
    """
    found = list(layers)
    for number, (by_planes, own) in sorted(others.items()):
        plain, front = found[number], found[max(0, number - 1) : number]
        ways = [(front, plain), (front, own)]
        if by_planes and front == [layers[number - 1]]:
            ways.append(([by_planes], own))
        cycles = []
        for before, sections in ways:
            near = [*before, sections, *found[number + 1 : number + 2]]
            flat = list(itertools.chain(*near))
            items, _ = segment_instructions(flat, range(len(flat)), config)
            cycles.append(sum(predict(items, config)))
        best = cycles.index(min(cycles))
        found[number - len(front) : number + 1] = [*ways[best][0], ways[best][1]]
        worse = own if best == 0 else plain
        rejected = sum(cycles_alone(section, config) for section in worse)
        for section in found[number]:
            section.mapping["other_executions"][worse[0].mapping["execution"]] = rejected
    return found
