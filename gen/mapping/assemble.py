"""From sections to a program: layer marks, memory images, and as many segments as the memories demand.

A layer that begins with a MATRIX needs no barrier in front: this waits itself (`after`), with its weights
loaded, or does not if the layer needs nothing of those still under way.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from popshift.firmware_py.layout import TensorLayout
from popshift.firmware_py.program import LayerRecord, Program, Segment
from popshift.gen.mapping.beside import segment_instructions
from popshift.gen.mapping.bottleneck import Breakdown
from popshift.gen.mapping.eyexam import Chain
from popshift.gen.mapping.sections import Section, cycles_alone, no_words, words_of
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import Instruction, Opcode
from popshift.sim import cycles


@dataclass
class _Memories:
    """The sections of one segment and the words that they take."""

    config: AcceleratorConfig
    sections: list[tuple[int, Section]] = field(default_factory=list)
    weights: int = 0
    parameters: int = 0
    program: int = isa.LENGTHS[Opcode.END]

    def takes(self, section: Section) -> bool:
        return (
            self.weights + len(section.weights) <= self.config.weight_depth
            and self.parameters + len(section.parameters) <= self.config.parameter_depth
            and self.program + self._words(section) <= self.config.program_depth
        )

    def add(self, index: int, section: Section) -> None:
        self.weights += len(section.weights)
        self.parameters += len(section.parameters)
        self.program += self._words(section)
        self.sections.append((index, section))

    def _words(self, section: Section) -> int:
        """Program words that it adds: its own, and those of the layer in front when this is divided."""
        front = [section for _, section in self.sections[-1:]]
        return _program_words([*front, section], self.config) - _program_words(front, self.config)


def assemble(
    name: str,
    config: AcceleratorConfig,
    sections: Sequence[Section],
    inputs: Sequence[TensorLayout],
    outputs: Sequence[TensorLayout],
    tensors: Sequence[TensorLayout],
) -> Program:
    """Put `sections` into segments one after the other.

    Raises
    ------
    ModelError: a section alone exceeds the program memory.
    """
    memories = [_Memories(config)]
    for index, section in enumerate(sections):
        if not memories[-1].takes(section):
            memories.append(_Memories(config))
        if not memories[-1].takes(section):  # parts were made to fit; padding cannot be divided
            words = section.program_words + isa.LENGTHS[Opcode.END]
            raise ModelError(
                f"its instructions take {words} words, there are {config.program_depth}",
                where=f"layer {section.name}",
                remedy=f"raise program_depth to at least {words}",
            )
        memories[-1].add(index, section)
    segments, predicted = [], []
    for memory in memories:
        segment, items = _segment(memory, config)
        segments.append(segment)
        predicted += cycles.predict(items, config, paused=True)[:-1]  # without END
    layers = [_record(section, found, config) for section, found in zip(sections, predicted, strict=True)]
    return Program(
        config=config,
        name=name,
        inputs=list(inputs),
        outputs=list(outputs),
        tensors=list(tensors),
        layers=layers,
        segments=segments,
    )


def _program_words(sections: Sequence[Section], config: AcceleratorConfig) -> int:
    items, _ = segment_instructions(sections, range(len(sections)), config)
    return words_of(items)


def _segment(memory: _Memories, config: AcceleratorConfig) -> tuple[Segment, list[Instruction]]:
    sections = [section for _, section in memory.sections]
    items, early = segment_instructions(sections, [index for index, _ in memory.sections], config)
    for (_, front), (index, section) in itertools.pairwise(memory.sections):
        if index in early:
            section.mapping["beside"] = front.name
    segment = Segment(
        weights=np.concatenate([no_words(config.weight_word_bytes), *(each.weights for each in sections)]),
        parameters=np.concatenate(
            [no_words(config.parameter_word_bytes), *(each.parameters for each in sections)]
        ),
        instructions=np.array(isa.encode_all(items), np.uint32),
        layers=[index for index, _ in memory.sections],
    )
    return segment, items


def _record(section: Section, cycles: int, config: AcceleratorConfig) -> LayerRecord:
    spent = Breakdown.of(section.instructions, cycles, config)
    chain: dict[str, Any] = {}
    if section.macs and "least_passes" in section.mapping:
        passes, weights = section.mapping["least_passes"], section.mapping["weights"]
        found = Chain.of(
            section.instructions, config, macs=section.macs, weights=weights, passes=passes, cycles=cycles
        )
        chain = {"chain": {name: round(value, 2) for name, value in found.steps.items()}}
        chain["largest_loss"] = found.largest_loss
    fill = {name: section.mapping.get(name, 1.0) for name in ("row_fill", "column_fill")}
    bottleneck, busy = spent.words(config, **fill), cycles
    if "beside" in section.mapping:  # most of its work is done when the layer in front is
        busy = cycles_alone(section, config)
        bottleneck = (
            f"{busy:,} cycles of the channel unit, all but {cycles:,} beside {section.mapping['beside']}"
        )
    return LayerRecord(
        name=section.name,
        kind=section.kind,
        output=section.output,
        macs=section.macs,
        predicted_cycles=cycles,
        utilisation=section.macs / (busy * config.peak_macs_per_cycle) if busy else 0.0,
        bottleneck=bottleneck,
        mapping={**section.mapping, "cycles": spent.to_dict(), **chain},
    )
