"""The instruction set: field positions, packing, and what each instruction means.

A program is a sequence of 32-bit words. The first word of an instruction starts with its opcode, which fixes
how many words it has. The sequencer hands an instruction to its unit as soon as the unit is free; units run
side by side:

* ``MATRIX``: for each of ``n_tiles`` column tiles: take an empty accumulator half; in each of ``k_tiles``
  passes load a weight tile and stream the pixels ``x_count * y_count`` through it; hand the half to the post
  unit. A tile is ``rows`` words of the weight memory, which is read from ``weight_base`` on, word by word
  for the whole instruction. Row r of the array reads bank r at ``pixel address + offset``, offset as stored
  with row r of the tile. ``kind`` says what the words hold (`Kind`).
  ``REBUILD`` only: every tile serves ``replays`` passes, and in each the pixels lie ``again_step`` further
  than in the one before. After ``slice_tiles`` tiles, and with every column tile, a slice begins: the next
  `BASIS_WORDS` words are its bases. The weight of a row is its coefficients times a column of the basis: the
  one its word names, and the next one in every further replay (beyond the last column weights are 0). The
  last tile of a column tile serves as many passes as are left.
  ``XNOR`` only: a row whose offset has its highest bit set adds nothing.
  ``windows`` (only with ``window_depth``, kind ``DENSE``): for depthwise layers. In column c, row
  ``3 * v + u`` multiplies the byte that bank c gave ``v`` lines (of ``x_count`` pixels) and ``u`` pixels ago,
  for v and u below `window_block`; 0 if v > ``y_first`` or u > ``x_first``. Rows beyond, and columns that
  have no bank, work as ever. Only pixels ``x_first + n * x_every`` of the lines ``y_first + n * y_every``
  have an accumulator.
  ``after``: read no activation before what was handed over in front is done (`After`). Weights are loaded
  meanwhile.
* ``POST``: requantise and write. A *group* is ``post_lanes`` consecutive banks or channels. ``source`` says
  where the values come from:
  ``MATRIX``: drains accumulator halves in the order they were handed over. For each of ``chunks`` groups of
      channels (``cols / post_lanes`` to a half, the last half may have fewer): for each pixel (y outer, x
      inner): write.
  ``BASIS``: drains halves whose columns hold sums over one column of Ce (``SHIFT`` weights): group 3 q + j of
      a half belongs to column j of the q-th group of channels. A half has `basis_groups` groups of channels;
      for each of ``chunks``: for each y: for ``stride * (x_count - 1) + 3`` inputs: for each j: multiplies by
      row j of the basis. ``y[x] = sum over j, s of basis[j][s] * input[stride * x + s][j]`` is written.
      ``single``: an output has one input, ``stride`` apart, and only the last column of the basis counts.
  ``CHANNEL``: for each of ``chunks`` planes, for each pixel the channel unit delivers: for each of ``period``
      groups.
  ``FILL``: ``chunks`` times: writes ``zero_point`` into the groups of ``mask`` over the x/y rectangle.
  ``mask`` names the bank groups that the first group of channels is written to (several bits: copies); it
  moves up by one for each further group and starts again after ``period`` groups, when a new plane begins:
  ``plane_step`` further. (FILL keeps the mask, every repetition begins a new plane.)
  The parameter word is ``parameter_base`` plus the number of the group of channels (MATRIX: chunk, CHANNEL:
  plane * period + group), or always the first if ``uniform``. BASIS has three words for a group, one for each
  row of the basis, and takes everything else from the last of them.
  ``strips``: all of it so often, each strip (of ``y_count`` rows, in all planes, with the same parameters)
  behind the last row of the one before. Of ADD's other tensor likewise.
  ``packed`` (only with xnor PEs; not from BASIS): not results are written but their signs, a bit each (1:
  not negative), 8 consecutive channels to a byte (`popshift.hw.numerics.LANE_CHANNELS`). MATRIX: ``chunks``
  counts bytes, each takes ``8 / post_lanes`` groups of columns and as many parameter words; ``period``
  counts banks. CHANNEL: ``8 / post_lanes`` groups of a pixel are a byte, ``period`` must be a multiple.
  The first byte goes to bank ``first_bank`` (modulo ``post_lanes``) of the groups in ``mask``, each further
  one to the next bank, behind the last bank of a group comes the next group.
  ``edges``, ``class_words`` (only with xnor PEs; MATRIX): pixels on the named sides (`Edge`) of the rectangle
  have their parameters `EDGE_CLASSES` times ``class_words`` further: there the window reaches beyond the
  image, where binary activations have no zero to read.
* ``ADD`` (only with ``residual``): a POST from MATRIX, not packed, that adds a tensor to what it would write.
  A result is clamped to ``inner_low .. inner_high`` around ``inner_zero_point`` first. It and the tensor's
  byte are raised by `popshift.hw.numerics.Requantise.sum_shift` bits. One of them (the result, if
  ``scale_result``) is then scaled, with a bias, multiplier and shift; the other is halved. Their sum is
  requantised like an accumulator. The two parameter words in front of ``parameter_base`` hold that: of the
  one that is scaled, of the sum. The bytes lie in the bank groups from ``addend_group`` on, a pixel
  ``x_step`` behind the other, and so on as the results do; groups that do not exist read as 0.
* ``CHANNEL``: for each plane, for each output pixel (y outer, x inner), for each tap (ky outer, kx inner):
  read one word (a byte of every bank) and fold it into the window's maximum, sum, or bitwise or; hand each
  finished window to the post unit. Whichever POST is at work takes it: while one for another CHANNEL is, hand
  over the new POST first. Nothing is read before a POST is at work that takes windows. Without ``depthwise``,
  no MATRIX may read activations meanwhile: both have the same port.
* ``DEPTHWISE`` (only with ``depthwise``): for each line y, for each of its columns x: read ``ky_count`` words
  (at most `WINDOW`). Column ``x_first`` of a line and each ``x_every``-th behind it finish a window: it and
  the two in front of it (in the same line), each byte times the weight of its bank, row and column, the
  rightmost for this one. There is one plane (``planes``), and ``kx_count`` is 1; ``operation`` is not heeded.
  The weights lie in the parameter memory (`pack_taps`) from ``parameter_base`` on, for every bank group
  `tap_words`, and are read as soon as a POST takes windows.
* ``MARK``: wait until every unit is idle; remember the layer index; pause here if the host asked to stop at
  marks. ``soft``: do not wait, unless the host asked.
* ``END``: wait until every unit is idle; the run is done.

Addresses are words over all banks. A *step* is added to the address when its loop advances, after every loop
inside it has finished (so an outer step also undoes what the inner loops moved). Addresses and steps are
modulo ``2**heeded_bits``. Counts are stored minus one. Between two barriers, or MATRIXes with ``after``, the
compiler guarantees that no unit reads what another one writes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from popshift.hw import numerics
from popshift.hw.codes import EDGE_CLASSES as EDGE_CLASSES
from popshift.hw.codes import WINDOW as WINDOW
from popshift.hw.codes import After as After
from popshift.hw.codes import ChannelOperation as ChannelOperation
from popshift.hw.codes import Edge as Edge
from popshift.hw.codes import Kind as Kind
from popshift.hw.codes import Opcode as Opcode
from popshift.hw.codes import Source as Source
from popshift.hw.codes import kinds as kinds
from popshift.hw.codes import opcodes as opcodes
from popshift.hw.codes import operations as operations
from popshift.hw.codes import sources as sources
from popshift.hw.codes import unit_of as unit_of
from popshift.hw.config import ADDRESS_BITS, WORD_ADDRESS_BITS, AcceleratorConfig
from popshift.hw.parameter_word import Lane as Lane
from popshift.hw.parameter_word import pack_parameter as pack_parameter
from popshift.hw.parameter_word import pack_taps as pack_taps
from popshift.hw.parameter_word import tap_words as tap_words
from popshift.hw.parameter_word import unpack_parameter as unpack_parameter
from popshift.hw.parameter_word import unpack_taps as unpack_taps
from popshift.hw.status import ALWAYS_COUNTED as ALWAYS_COUNTED
from popshift.hw.status import COUNTER_BITS as COUNTER_BITS
from popshift.hw.status import CYCLE_CAUSES as CYCLE_CAUSES
from popshift.hw.status import NO_PROGRESS_CYCLES as NO_PROGRESS_CYCLES
from popshift.hw.status import Counter as Counter
from popshift.hw.status import Status as Status

WORD_BITS = 32
OPCODE_BITS = 4


BASIS_WORDS = -(-numerics.BASIS_BITS * numerics.BASIS_SIZE**2 // (numerics.CODE_BITS * numerics.BASIS_SIZE))
"""Words that hold the bases of all columns of the array: of each the bits of ``basis[j][s]``, row by row."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an instruction: its width, whether it is stored minus one, and the word it lives in."""

    name: str
    bits: int
    count: bool = False

    @property
    def low(self) -> int:
        return 1 if self.count else 0

    @property
    def high(self) -> int:
        return self.low + (1 << self.bits) - 1


def _count(name: str, bits: int = 12) -> Field:
    return Field(name, bits, count=True)


def _address(name: str) -> Field:
    return Field(name, ADDRESS_BITS)


# The one place where fields have a width and a position: a list of words, each a list of fields from bit 0
# upwards. The opcode itself occupies bits 0 .. 3 of word 0 of every instruction.
_POST = [
    [
        Field("source", 2),
        _count("period", 6),
        Field("uniform", 1),
        Field("zero_point", 8),
        _count("stride", 4),
        Field("single", 1),
        Field("packed", 1),
        Field("edges", len(Edge)),
    ],
    [Field("low", 8), Field("high", 8), _count("chunks", 16)],
    [_address("parameter_base"), _address("base")],
    [_count("x_count"), _count("y_count"), _count("strips", 8)],
    [_address("x_step"), _address("y_step")],
    [_address("plane_step"), Field("class_words", 13), Field("first_bank", 3)],
    [Field("mask", 32)],
]

_CHANNEL = [
    [Field("operation", 2), _count("x_count"), _count("y_count")],
    [_count("kx_count", 6), _count("ky_count", 6), _count("planes", 12), _count("period", 6)],
    [_address("base"), _address("x_step")],
    [_address("y_step"), _address("kx_step")],
    [_address("ky_step"), _address("plane_step")],
]

_LAYOUT: dict[Opcode, list[list[Field]]] = {
    Opcode.END: [[]],
    Opcode.MARK: [[Field("layer", 16), Field("soft", 1)]],
    Opcode.MATRIX: [
        [Field("kind", 4), _count("x_count"), _count("y_count")],
        [_count("k_tiles", 16), _count("n_tiles", 16)],
        [Field("weight_base", WORD_ADDRESS_BITS)],
        [_address("base"), _address("x_step")],
        [_address("y_step"), _address("again_step")],
        [
            *(_count("slice_tiles", 16), _count("replays", 2), Field("windows", 1)),
            *(Field("x_first", 2), Field("y_first", 2), _count("x_every", 3), _count("y_every", 3)),
            Field("after", 2),
        ],
    ],
    Opcode.POST: _POST,
    Opcode.CHANNEL: _CHANNEL,
    Opcode.DEPTHWISE: [*_CHANNEL, [_address("parameter_base"), Field("x_first", 2), _count("x_every", 3)]],
    Opcode.ADD: [
        *_POST,
        [_address("addend_base"), _address("addend_y_step")],
        [_address("addend_plane_step"), Field("inner_zero_point", 8), Field("inner_low", 8)],
        [Field("inner_high", 8), Field("addend_group", 5), Field("scale_result", 1)],
    ],
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a field lives: ``word`` counted from the instruction's first, ``shift`` from bit 0."""

    field: Field
    word: int
    shift: int


def _place(words: list[list[Field]]) -> dict[str, Placement]:
    placed: dict[str, Placement] = {}
    for index, fields in enumerate(words):
        shift = OPCODE_BITS if index == 0 else 0
        for field in fields:
            placed[field.name] = Placement(field, index, shift)
            shift += field.bits
        assert shift <= WORD_BITS, f"word {index} of an instruction overflows"
    return placed


PLACEMENTS: dict[Opcode, dict[str, Placement]] = {opcode: _place(words) for opcode, words in _LAYOUT.items()}
"""For every opcode its fields, by name, in layout order. Zero points and limits of a POST are two's
complement.
"""

LENGTHS: dict[Opcode, int] = {opcode: len(words) for opcode, words in _LAYOUT.items()}
"""Words of each instruction."""

MAX_LENGTH = max(LENGTHS.values())


def is_address(field: str) -> bool:
    """Whether a field is an address or a step."""
    return field.endswith(("base", "step"))


def heeded_bits(field: str, config: AcceleratorConfig) -> int:
    """How many of an address field's bits are heeded: enough for every word of its memory and as many beyond.

    What lies beyond the memory is told as an error; higher bits are ignored, which saves registers.
    """
    depth = {"weight_base": config.weight_depth, "parameter_base": config.parameter_depth}.get(
        field, config.activation_depth
    )
    stored = next(places[field].field.bits for places in PLACEMENTS.values() if field in places)
    return min(stored, (depth - 1).bit_length() + 1)


_SIGNED = ("zero_point", "low", "high", "inner_zero_point", "inner_low", "inner_high")
_DEFAULTS = {
    **{"again_step": 0, "slice_tiles": 1, "replays": 1, "stride": 1, "single": 0},
    **{"packed": 0, "edges": 0, "class_words": 0, "first_bank": 0, "strips": 1},
    **{"windows": 0, "x_first": 0, "y_first": 0, "x_every": 1, "y_every": 1},
    **{"soft": 0, "after": 0},
}
"""Fields that only SmartDeal weights, binary activations, depthwise layers, layers without a barrier or
several pixel tiles need.
"""


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction as the assembler and the executor see it: natural values (counts from 1, signed clamp
    limits).
    """

    opcode: Opcode
    fields: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        return self.fields[name]


def instruction(opcode: Opcode, **fields: int) -> Instruction:
    """Check every field against its range; steps may be given negative (they are modulo 2**16).

    The fields of `_DEFAULTS` may be left out.

    Raises
    ------
    ValueError: an unknown, missing or out-of-range field.
    """
    placements = PLACEMENTS[opcode]
    fields = {name: value for name, value in _DEFAULTS.items() if name in placements} | fields
    if set(fields) != set(placements):
        raise ValueError(f"{opcode.name} has the fields {sorted(placements)}, not {sorted(fields)}")
    checked = {}
    for name, value in fields.items():
        field = placements[name].field
        if name.endswith("_step"):
            value %= 1 << field.bits
        low, high = (-128, 127) if name in _SIGNED else (field.low, field.high)
        if not low <= value <= high:
            raise ValueError(f"{opcode.name}.{name} must be {low} .. {high}, not {value}")
        checked[name] = int(value)
    return Instruction(opcode, checked)


def encode(item: Instruction) -> list[int]:
    """The instruction's 32-bit words."""
    words = [0] * LENGTHS[item.opcode]
    words[0] = int(item.opcode)
    for name, place in PLACEMENTS[item.opcode].items():
        raw = (item[name] - place.field.low) & ((1 << place.field.bits) - 1)
        words[place.word] |= raw << place.shift
    return words


def encode_all(items: Iterable[Instruction]) -> list[int]:
    """All words of a program."""
    return [word for item in items for word in encode(item)]


def decode(words: Sequence[int], pc: int) -> Instruction | Status:
    """The instruction that starts at word `pc`, or the status the machine stops with there."""
    if pc >= len(words):
        return Status.PROGRAM_ADDRESS
    number = words[pc] & ((1 << OPCODE_BITS) - 1)
    if number not in LENGTHS:
        return Status.ILLEGAL_INSTRUCTION
    opcode = Opcode(number)
    if pc + LENGTHS[opcode] > len(words):
        return Status.PROGRAM_ADDRESS
    fields = {}
    for name, place in PLACEMENTS[opcode].items():
        raw = (words[pc + place.word] >> place.shift) & ((1 << place.field.bits) - 1)
        if name in _SIGNED:
            raw -= (raw & 0x80) << 1
        fields[name] = raw + place.field.low
    return Instruction(opcode, fields)


def illegal_fields(item: Instruction, config: AcceleratorConfig) -> bool:
    """Whether the sequencer refuses the instruction although its opcode is known
    (`Status.ILLEGAL_INSTRUCTION`).

    Only what no address check would catch: reserved codes, a period beyond the bank groups, signs to be
    packed of sums that come column by column, windows of lines that are too long or of weights that are not
    int8, columns that are too high or too many. The hardware evaluates the same rules.
    """
    if item.opcode not in opcodes(config):
        return True
    match item.opcode:
        case Opcode.MATRIX:
            if item["windows"] and (item["kind"] != Kind.DENSE or item["x_count"] > config.window_depth):
                return True
            return item["kind"] not in kinds(config)
        case Opcode.ADD:
            if item["source"] != Source.MATRIX or packs(item, config):
                return True
            first = item["parameter_base"] & ((1 << heeded_bits("parameter_base", config)) - 1)
            return first < ADDEND_WORDS or item["period"] > config.bank_groups
        case Opcode.POST:
            if config.has_packing and item["packed"] and item["source"] == Source.BASIS:
                return True
            longest = config.bank_groups
            if packs(item, config):
                if item["source"] == Source.MATRIX:
                    longest = config.rows
                elif item["period"] % config.groups_of_byte:
                    return True
            return item["source"] not in sources(config) or item["period"] > longest
        case Opcode.CHANNEL:
            return item["operation"] not in operations(config) or item["period"] > config.bank_groups
        case Opcode.DEPTHWISE:
            several = item["kx_count"] > 1 or item["ky_count"] > WINDOW or item["planes"] > 1
            return several or item["period"] > config.bank_groups
        case _:
            return False


def last_pass_waits(item: Instruction, config: AcceleratorConfig) -> bool:
    """Whether a MATRIX waits with the last pass of its first half only."""
    return config.depthwise and item["after"] == After.ALL_FOR_LAST_PASS


def packs(item: Instruction, config: AcceleratorConfig) -> bool:
    """Whether a POST packs signs; FILL never does."""
    return config.has_packing and bool(item["packed"]) and item["source"] != Source.FILL


def groups_per_half(item: Instruction, config: AcceleratorConfig) -> int:
    """What an accumulator half holds of the things that a POST counts with ``chunks``."""
    if item["source"] == Source.BASIS:
        return basis_groups(config)
    return config.chunks // config.groups_of_byte if packs(item, config) else config.chunks


def window_block(config: AcceleratorConfig) -> tuple[int, int]:
    """Lines and pixels of the part of a depthwise window that one pass covers."""
    return min(WINDOW, config.rows // WINDOW), WINDOW


def accumulated(item: Instruction) -> tuple[int, int]:
    """Lines and pixels of a line that have an accumulator in a MATRIX."""
    if not item["windows"]:
        return item["y_count"], item["x_count"]
    lines, pixels = (
        max(0, -(-(item[f"{axis}_count"] - item[f"{axis}_first"]) // item[f"{axis}_every"])) for axis in "yx"
    )
    return lines, pixels


def strip_bases(item: Instruction, number: int) -> dict[str, int]:
    """The addresses, by field, at which strip `number` of a POST begins."""
    found = {}
    for prefix in ("", "addend_") if item.opcode is Opcode.ADD else ("",):
        row = (item["x_count"] - 1) * item["x_step"] + item[f"{prefix}y_step"]
        below = item[f"{prefix}base"] + number * item["y_count"] * row
        found[f"{prefix}base"] = below % (1 << ADDRESS_BITS)
    return found


ADDEND_WORDS = 2
"""Parameter words in front of those of the channels of an ADD: of what is scaled, and of the sum."""


def basis_groups(config: AcceleratorConfig) -> int:
    """Groups of channels in an accumulator half of sums over columns of Ce."""
    return config.chunks // numerics.BASIS_SIZE


def basis_inputs(item: Instruction) -> int:
    """Inputs that a row of outputs takes in a POST from BASIS."""
    return item["stride"] * (item["x_count"] - 1) + (1 if item["single"] else numerics.BASIS_SIZE)
