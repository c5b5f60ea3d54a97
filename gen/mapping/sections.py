"""Sections: the instructions, weights and parameters of one layer, not yet at their place in the memories.

Weight and parameter addresses count from the section's own first word; `popshift.gen.mapping.assemble` moves
them. A layer whose weights, parameters or instructions exceed a memory becomes several sections, for ranges
of its output channels and pixel tiles.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.weight_words import half_words
from popshift.gen.graph import Window
from popshift.gen.mapping.padding import Padding
from popshift.gen.mapping.placement import Placed
from popshift.gen.mapping.tiling import MAX_COUNT, Rectangle, split
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Instruction, Opcode, Source, instruction
from popshift.sim.cycles import predict

Piece = TypeVar("Piece")
CHANNEL_TILE_WORDS = isa.LENGTHS[Opcode.CHANNEL] + isa.LENGTHS[Opcode.POST]
"""Program words of a pixel tile of the channel unit."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What runs between two marks.

    ``weights`` and ``parameters``: uint8 (words, bytes of a word). ``mapping``: plain values for reports.
    ``reads``, ``writes``: words of the activation memory, which `map_graph` knows. ``first_reads``: pixels of
    the input, with the padding around it, that each of the first MATRIXes reads. ``last_writes``: pixels of
    the output that the last strip writes. ``spares_last_plane``: of the passes of the first accumulator half
    only the last reads the last plane of the input. ``pairs``: on the channel unit, what makes each plane of
    the output, and the POST that writes it.
    """

    name: str
    kind: str
    output: str
    macs: int
    instructions: list[Instruction]
    weights: NDArray[np.uint8]
    parameters: NDArray[np.uint8]
    mapping: dict[str, Any] = field(default_factory=dict)
    reads: Sequence[range] = ()
    writes: Sequence[range] = ()
    first_reads: Sequence[Rectangle] = ()
    last_writes: Rectangle | None = None
    spares_last_plane: bool = False
    pairs: Sequence[tuple[Instruction, Instruction]] = ()

    def waits_for(self, other: "Section") -> bool:
        """Whether it must not begin before the `other` is done."""
        return other.on_channel_unit or _meet(self.reads, other.writes) or self.overwrites(other)

    def overwrites(self, other: "Section") -> bool:
        """Whether it writes what the `other` reads or writes."""
        return _meet(self.writes, [*other.reads, *other.writes])

    def early(self, other: "Section") -> int:
        """How many of its first MATRIXes may run beside the last strip of the `other`, which is in front."""
        if other.last_writes is None:
            return 0
        if other.writes != self.reads[:1]:
            return len(self.first_reads)
        apart = (not place.meets(other.last_writes) for place in self.first_reads)
        return sum(1 for _ in itertools.takewhile(bool, apart))

    def spares_last_plane_of(self, other: "Section") -> bool:
        """Whether it may begin beside the last plane of the `other`, which is in front."""
        return bool(other.pairs) and self.spares_last_plane and other.writes == self.reads[:1]

    def moved(self, starts: dict[str, int]) -> "Section":
        """The same with its weights and parameters beginning at these words, by the name of the field."""
        pairs = [(_moved(one, starts), _moved(taker, starts)) for one, taker in self.pairs]
        return replace(self, instructions=[_moved(item, starts) for item in self.instructions], pairs=pairs)

    @property
    def on_channel_unit(self) -> bool:
        """Whether the channel unit works for it."""
        return any(isa.unit_of(item.opcode) is Opcode.CHANNEL for item in self.instructions)

    @property
    def program_words(self) -> int:
        """Words of its instructions and of the MARK behind them."""
        return words_of(self.instructions) + isa.LENGTHS[Opcode.MARK]


_BASES = {
    Opcode.MATRIX: "weight_base",
    **dict.fromkeys((Opcode.POST, Opcode.ADD, Opcode.DEPTHWISE), "parameter_base"),
}


def _meet(ours: Sequence[range], theirs: Sequence[range]) -> bool:
    return any(max(one.start, two.start) < min(one.stop, two.stop) for one in ours for two in theirs)


def _moved(item: Instruction, starts: dict[str, int]) -> Instruction:
    field = _BASES.get(item.opcode)
    if field is None or item.fields.get("source") == Source.FILL:
        return item
    return instruction(item.opcode, **{**item.fields, field: item[field] + starts[field]})


def words_of(instructions: Sequence[Instruction]) -> int:
    """Program words that `instructions` take."""
    return sum(isa.LENGTHS[item.opcode] for item in instructions)


def weight_reads(instructions: Sequence[Instruction], config: AcceleratorConfig) -> int:
    """Words that they read of the weight memory."""
    matrices = [item for item in instructions if item.opcode is Opcode.MATRIX]
    return sum(half_words(item, config) * item["n_tiles"] for item in matrices)


def cycles_alone(section: Section, config: AcceleratorConfig) -> int:
    """What it takes with nothing in front, by the cycle model."""
    return predict([*section.instructions, instruction(Opcode.MARK, layer=0)], config)[0]


def no_words(word_bytes: int) -> NDArray[np.uint8]:
    """An empty piece of a memory."""
    return np.zeros((0, word_bytes), np.uint8)


def part_name(name: str, index: int, count: int) -> str:
    """Name of part `index` (from 0) of a layer in `count` sections."""
    return name if count == 1 else f"{name}[{index + 1}/{count}]"


def bank_groups(placed: Placed, config: AcceleratorConfig) -> int:
    """Bank groups that one copy of a tensor written by the post unit takes."""
    groups, rest = divmod(placed.layout.period, config.post_lanes)
    assert rest == 0, f"{placed.layout.name}: a period of {placed.layout.period} is not whole groups"
    return groups


def copy_mask(placed: Placed, config: AcceleratorConfig) -> int:
    """Bank mask of the first group of every copy."""
    groups = bank_groups(placed, config)
    return sum(1 << copy * groups for copy in range(placed.layout.copies))


def window_base(
    source: Placed, padding: tuple[int, int, int, int], stride: tuple[int, int], tile: Rectangle
) -> int:
    """Word of the top left tap, in plane 0, of the window of the tile's first output pixel."""
    top, _, left, _ = padding
    return source.layout.word(0, tile.y * stride[0] - top, tile.x * stride[1] - left)


def channel_rectangle(
    source: Placed, window: Window, tile: Rectangle, config: AcceleratorConfig, *, first: int, every: int = 1
) -> dict[str, int]:
    """The address fields of a CHANNEL that makes `tile` from every `every`-th plane, from `first` on."""
    layout = source.layout
    down, right = window.stride[0] * layout.row_pitch, window.stride[1]
    kx_moved = (window.kernel[1] - 1) * window.dilation[1]
    taps_moved = (window.kernel[0] - 1) * window.dilation[0] * layout.row_pitch + kx_moved
    x_moved = (tile.width - 1) * right + taps_moved
    return {
        "x_count": tile.width,
        "y_count": tile.height,
        "kx_count": window.kernel[1],
        "ky_count": window.kernel[0],
        "period": bank_groups(source, config),
        "base": window_base(source, window.padding, window.stride, tile) + first * layout.plane_step,
        "kx_step": window.dilation[1],
        "ky_step": window.dilation[0] * layout.row_pitch - kx_moved,
        "x_step": right - taps_moved,
        "y_step": down - x_moved,
        "plane_step": every * layout.plane_step - (tile.height - 1) * down - x_moved,
    }


def post_rectangle(target: Placed, tile: Rectangle, plane: int = 0) -> dict[str, int]:
    """The address fields of a POST that writes `tile`, from plane `plane` on."""
    layout = target.layout
    return {
        "base": layout.base + plane * layout.plane_step + tile.y * layout.row_pitch + tile.x,
        "x_count": tile.width,
        "y_count": tile.height,
        "x_step": 1,
        "y_step": layout.row_pitch - (tile.width - 1),
        "plane_step": layout.plane_step,
    }


def tile_ranges(
    tiles: Sequence[Piece], tile_words: int, fixed_words: int, depth: int
) -> list[Sequence[Piece]]:
    """The pixel tiles in as many pieces as the program memory demands."""
    room = depth - fixed_words - isa.LENGTHS[Opcode.MARK] - isa.LENGTHS[Opcode.END]
    at_once = max(1, room // tile_words)
    return [tiles[start : start + size] for start, size in split(len(tiles), -(-len(tiles) // at_once))]


def fill_padding(placed: Placed, config: AcceleratorConfig) -> list[Instruction]:
    """FILLs that write the padding of a buffer, and nothing but the padding."""
    layout, padding, height = placed.layout, placed.buffer.padding, placed.layout.shape[1]
    first = layout.base - placed.buffer.first_word
    last_gap = layout.base + (height - 1) * layout.row_pitch + layout.shape[2]
    above, below = placed.buffer.first_word, padding.side + padding.bottom * layout.row_pitch
    if 0 < above == below <= MAX_COUNT:
        runs = [(first, above, 2, last_gap - first)]
    else:
        runs = [*_run(first, above), *_run(last_gap, below)]
    pieces = [*runs, *_gaps(layout.base + layout.shape[2], padding, height - 1, layout.row_pitch)]
    used = -(-layout.period * layout.copies // config.post_lanes)
    return [
        instruction(
            Opcode.POST,
            source=Source.FILL,
            period=1,
            uniform=1,
            zero_point=padding.value,
            low=-128,
            high=127,
            chunks=placed.buffer.planes,
            parameter_base=0,
            base=start,
            x_count=width,
            y_count=rows,
            x_step=1,
            y_step=pitch - (width - 1),
            plane_step=layout.plane_step,
            mask=(1 << used) - 1,
        )
        for start, width, rows, pitch in pieces
    ]


def _run(start: int, words: int) -> Iterator[tuple[int, int, int, int]]:
    """(start, width, rows, pitch) of the rectangles that make up `words` consecutive words."""
    rows, rest = divmod(words, MAX_COUNT)
    if rows:
        yield start, MAX_COUNT, rows, MAX_COUNT
    if rest:
        yield start + rows * MAX_COUNT, rest, 1, rest


def _gaps(start: int, padding: Padding, number: int, pitch: int) -> Iterator[tuple[int, int, int, int]]:
    """The same for the words between `number` pairs of rows."""
    for y in range(0, number, MAX_COUNT):
        for x in range(0, padding.side, MAX_COUNT):
            yield start + y * pitch + x, min(MAX_COUNT, padding.side - x), min(MAX_COUNT, number - y), pitch
