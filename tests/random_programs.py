"""Random pairs of MATRIX, CHANNEL or DEPTHWISE and POST, of every kind, operation and source that a
configuration has, and memories for them.
"""

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.weight_words import half_words
from popshift.hw import isa, numerics
from popshift.hw.config import ADDRESS_BITS, OFFSET_BITS, AcceleratorConfig
from popshift.hw.isa import Instruction, Lane, Opcode, Source, instruction
from popshift.hw.packet import Space, bank_mask
from popshift.sim.executor import Machine

_END = instruction(Opcode.END)
_LARGEST_OFFSET = 60
WAYS_TO_SPOIL = 11
_OF_WINDOWS = WAYS_TO_SPOIL - 1
"""The one for what the channel unit does; else as good as none."""


@dataclass(frozen=True)
class Memories:
    """Contents of all words: uint8 (words, bytes of a word) and int8 (banks, words)."""

    weights: NDArray[np.uint8]
    parameters: NDArray[np.uint8]
    activations: NDArray[np.int8]

    def load(self, machine: Machine) -> None:
        """Into the executor's."""
        machine.write(Space.WEIGHT, 0, self.weights.tobytes())
        machine.write(Space.PARAMETER, 0, self.parameters.tobytes())
        for bank, values in enumerate(self.activations):
            machine.write(Space.ACTIVATION, 0, bank_mask(machine.config, [bank]) + values.tobytes())


def random_memories(rng: random.Random, config: AcceleratorConfig, *, wild: bool) -> Memories:
    """Any bytes, but offsets to the first words; `wild`: one offset lies anywhere.

    Multipliers are such that no product can leave 62 bits, which the compiler proves of every program.
    """
    weights = np.frombuffer(rng.randbytes(config.weight_depth * config.weight_word_bytes), np.uint8)
    weights = weights.reshape(config.weight_depth, -1).copy()
    heads = np.array([rng.randrange(_LARGEST_OFFSET) for _ in weights], "<u2")
    if config.rebuild:
        heads += (
            np.array([rng.getrandbits(ADDRESS_BITS - OFFSET_BITS) for _ in weights], "<u2") << OFFSET_BITS
        )
    if wild:
        heads[rng.randrange(len(heads))] = rng.getrandbits(ADDRESS_BITS)
    weights[:, : ADDRESS_BITS // 8] = heads[:, None].view(np.uint8)
    shifts = config.requantise.shifts[4:26]  # with others, hardly any result would lie within 8 bits

    def lane() -> Lane:
        multiplier = rng.getrandbits(min(30, config.requantise.multiplier_bits))
        basis = (0, 0, 0)
        if config.has_basis:
            basis = (rng.randint(-128, 127), rng.choice((-128, -127, 0, 127)), rng.randint(-128, 127))
        bias = rng.randint(-(1 << 20), 1 << 20)
        return Lane(bias, multiplier, rng.choice(shifts), basis)

    words = [
        isa.pack_parameter(config, [lane() for _ in range(config.post_lanes)])
        for _ in range(config.parameter_depth)
    ]
    activations = np.frombuffer(rng.randbytes(config.rows * config.activation_depth), np.int8)
    return Memories(
        weights,
        np.frombuffer(b"".join(words), np.uint8).reshape(config.parameter_depth, -1),
        activations.reshape(config.rows, -1),
    )


def _post_shape(
    rng: random.Random, config: AcceleratorConfig, source: Source
) -> tuple[dict[str, int], int, int]:
    """Loops of a POST that a half can hold; rows and pixels of a row that it takes out of the half."""
    while True:
        x, (y, strips) = rng.choice((1, 2, 3, 5, 8)), rng.choice(((1, 1), (1, 3), (2, 1), (2, 2), (4, 1)))
        found = {
            "x_count": x,
            "y_count": y,
            "strips": strips,
            "stride": rng.choice((1, 2, 3, 16)),
            "single": rng.getrandbits(1),
        }
        width = x
        if source is Source.BASIS:
            width = isa.basis_inputs(instruction(Opcode.POST, **_plain_post(), **found))
        if y * width <= config.accumulator_depth:
            return found, y, width


def _plain_post() -> dict[str, int]:
    zeros = ("source", "uniform", "zero_point", "parameter_base", "base", "x_step", "y_step", "plane_step")
    return dict.fromkeys(zeros, 0) | {"period": 1, "chunks": 1, "mask": 1, "low": -128, "high": 127}


def _pair(rng: random.Random, config: AcceleratorConfig) -> tuple[dict[str, int], dict[str, int]]:
    """Fields of a MATRIX and of the POST or ADD that drains what it filled, within all memories.

    MATRIX reads words below 300 of the activation memory, POST writes above, below 512.
    """
    kind = rng.choice(isa.kinds(config))
    source = rng.choice([Source.MATRIX, *([Source.BASIS] if config.has_basis else [])])
    shape, rows, width = _post_shape(rng, config, source)
    packed = config.has_packing and source is Source.MATRIX and rng.random() < 0.6
    assert config.activation_depth >= 512
    matrix = {
        "kind": int(kind),
        "x_count": width,
        "y_count": rows,
        "k_tiles": rng.randint(1, 7),
        "n_tiles": shape["strips"] * rng.randint(1, 4 if shape["strips"] == 1 else 2),
        "base": rng.randint(10, 40),
        "x_step": rng.randint(0, 2),
        "y_step": rng.randint(0, 9),
        "again_step": rng.randint(-3, 20),
        "slice_tiles": rng.choice((1, 2, 3, 100)),
        "replays": rng.randint(1, 4),
        "weight_base": 0,
        "after": rng.choice((0, 0, 0, 1, 2, 2, 3)),
    }
    if config.window_depth and kind is isa.Kind.DENSE and rng.random() < 0.7:
        matrix |= _windows(rng, width, rows)
    words = matrix["n_tiles"] * half_words(instruction(Opcode.MATRIX, **matrix), config)
    assert words <= config.weight_depth
    matrix["weight_base"] = rng.choice(
        (0, config.weight_depth - words, rng.randint(0, config.weight_depth - words))
    )
    post = _plain_post() | shape | {"source": int(source), "packed": int(packed)}
    per_half = isa.groups_per_half(instruction(Opcode.POST, **post), config)
    chunks = matrix["n_tiles"] // post["strips"] * per_half - rng.randrange(per_half)
    parameters = chunks * (numerics.BASIS_SIZE if source is Source.BASIS else 1)
    parameters *= config.groups_of_byte if packed else 1
    assert parameters <= config.parameter_depth
    low, period = rng.randint(-128, 127), rng.randint(1, config.rows if packed else config.bank_groups)
    if config.has_packing and source is Source.MATRIX:
        furthest = sum(isa.EDGE_CLASSES.values())
        post["edges"] = rng.getrandbits(4)
        post["class_words"] = rng.randint(0, (config.parameter_depth - parameters) // furthest)
        parameters += furthest * post["class_words"]
        post["first_bank"] = rng.randrange(8)
    post |= {
        "period": period,
        "uniform": rng.getrandbits(1),
        "zero_point": rng.randint(-128, 127),
        "low": rng.choice((-128, low)),
        "high": rng.choice((127, rng.randint(low, 127))),
        "chunks": chunks,
        "parameter_base": rng.choice((0, config.parameter_depth - parameters)),
        "base": 340 + rng.randint(0, 20),
        "x_step": rng.randint(0, 2),
        "y_step": rng.randint(0, 9),
        "plane_step": rng.randint(-1, 60 // -(-chunks // period)),
        "mask": rng.randint(1, (1 << config.bank_groups) - 1),
    }
    if config.residual and source is Source.MATRIX and not packed and rng.random() < 0.8:
        planes = -(-chunks // period)
        post["parameter_base"] = max(post["parameter_base"], isa.ADDEND_WORDS)
        post |= {
            "addend_base": rng.randint(10, 40),
            "addend_y_step": rng.randint(0, 9),
            "addend_plane_step": rng.randint(-1 if planes < 10 else 0, 60 // planes),
            "addend_group": rng.randrange(config.bank_groups + 1),
            "scale_result": rng.randrange(2),
            "inner_zero_point": rng.randint(-128, 127),
            "inner_low": rng.choice((-128, low)),
            "inner_high": rng.choice((127, rng.randint(low, 127))),
        }
    return matrix, post


def _windows(rng: random.Random, width: int, rows: int) -> dict[str, int]:
    """Fields of a MATRIX with windows that fills `rows` lines of `width` accumulators."""
    found = {"windows": 1, "x_step": rng.randint(0, 1)}
    for axis, wanted in (("x", width), ("y", rows)):
        first, every = rng.randint(0, 3), rng.randint(1, 2)
        more = rng.randrange(every)
        found |= {f"{axis}_first": first, f"{axis}_every": every}
        found[f"{axis}_count"] = first + (wanted - 1) * every + 1 + more
    moved = (found["x_count"] - 1) * found["x_step"]
    return found | {"y_step": rng.randint(-min(moved, 5), 0 if moved else 5)}


def _post(fields: dict[str, int]) -> Instruction:
    return instruction(Opcode.ADD if "addend_base" in fields else Opcode.POST, **fields)


def _channel_pair(rng: random.Random, config: AcceleratorConfig) -> list[Instruction]:
    """A CHANNEL and the POST that takes its windows, within all memories."""
    packed = config.has_packing and config.rows >= 8 and rng.getrandbits(1)
    unit = config.groups_of_byte if packed else 1
    period = unit * rng.randint(1, config.bank_groups // unit)
    planes, x, y, strips = rng.randint(1, 2), rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 2)
    kx, ky, pitch = rng.randint(1, 3), rng.randint(1, 2), rng.randint(5, 8)
    back = (ky - 1) * pitch + kx - 1  # what the taps of a window moved
    line = (x - 1) + back
    channel = {
        "operation": int(rng.choice(isa.operations(config))),
        **{"x_count": x, "y_count": y, "planes": planes * strips, "period": period},
        **{"kx_count": kx, "ky_count": ky, "base": rng.randint(10, 40)},
        **{"kx_step": 1, "ky_step": pitch - (kx - 1), "x_step": 1 - back, "y_step": pitch - line},
        "plane_step": rng.randint(0, 60) - (y - 1) * pitch - line,
    }
    post = _plain_post() | {
        **{"source": int(Source.CHANNEL), "packed": int(packed), "first_bank": rng.randrange(8)},
        **{"period": period, "chunks": planes, "x_count": x, "y_count": y, "uniform": rng.getrandbits(1)},
        **{"base": 340, "x_step": 1, "y_step": 2, "plane_step": rng.randint(0, 40), "strips": strips},
        "mask": rng.randint(1, (1 << config.bank_groups) - 1),
        "edges": rng.getrandbits(4),
        "class_words": rng.randint(0, 3),
    }
    return [instruction(Opcode.CHANNEL, **channel), instruction(Opcode.POST, **post)]


def _depthwise_pair(rng: random.Random, config: AcceleratorConfig) -> list[Instruction]:
    """A DEPTHWISE and the POST that takes its windows, within all memories."""
    lines, wanted, height = rng.randint(1, 4), rng.randint(1, 6), rng.randint(1, isa.WINDOW)
    first, every, pitch = rng.randint(0, 3), rng.randint(1, 3), rng.randint(1, 9)
    columns = first + (wanted - 1) * every + 1 + rng.randrange(every)
    back = (height - 1) * pitch
    period = rng.randint(1, config.bank_groups)
    words = isa.tap_words(config) * config.bank_groups
    depthwise = {
        **{"operation": rng.randrange(4), "x_count": columns, "y_count": lines, "planes": 1},
        **{"kx_count": 1, "ky_count": height, "period": period, "base": rng.randint(10, 40)},
        **{"kx_step": rng.getrandbits(16), "ky_step": pitch, "x_step": 1 - back},
        **{"y_step": rng.randint(0, 9) - back, "plane_step": rng.getrandbits(16)},
        **{"parameter_base": rng.randint(0, config.parameter_depth - words)},
        **{"x_first": first, "x_every": every},
    }
    post = _plain_post() | {
        **{"source": int(Source.CHANNEL), "period": period, "x_count": wanted, "y_count": lines},
        **{"uniform": rng.getrandbits(1), "base": 340, "x_step": 1, "y_step": rng.randint(1, 9)},
        "mask": rng.randint(1, (1 << config.bank_groups) - 1),
    }
    return [instruction(Opcode.DEPTHWISE, **depthwise), instruction(Opcode.POST, **post)]


def _spoil(
    how: int, rng: random.Random, config: AcceleratorConfig, matrix: dict[str, int], post: dict[str, int]
) -> None:
    """Change one field or two, in one of `WAYS_TO_SPOIL`, such that something may lie outside."""
    depth = config.activation_depth
    match how:
        case 0:
            matrix["weight_base"] = config.weight_depth - rng.randint(0, 2 * config.rows + isa.BASIS_WORDS)
        case 1:
            matrix["again_step"] = rng.choice((depth // 2, depth - 70, -30, -depth, rng.getrandbits(16)))
        case 2:
            matrix["base"] = depth - rng.randint(0, 40)
        case 3:
            post["x_count"] = matrix["x_count"] = config.accumulator_depth + rng.randint(0, 1)
            post["y_count"] = matrix["y_count"] = 1
        case 4:
            post["stride"], post["x_count"] = rng.randint(1, 16), rng.randint(1, config.accumulator_depth)
        case 5:
            post["parameter_base"] = config.parameter_depth - rng.randint(0, 4)
        case 6:
            post["base"] = depth - rng.randint(0, 30)
        case 7:
            post["chunks"] += rng.choice((-1, 1)) * rng.randint(0, config.chunks)
            post["chunks"] = max(1, post["chunks"])
        case 8:
            if "addend_base" in post:
                post["addend_base"] = depth - rng.randint(0, 30)
                post["parameter_base"] -= rng.randrange(2)
            else:
                post["parameter_base"] = config.parameter_depth - rng.randint(0, 4)
        case 9:
            matrix |= {"windows": 1, "x_count": max(config.window_depth + 1, matrix["x_count"])}


def _spoilt_windows(rng: random.Random, config: AcceleratorConfig, item: Instruction) -> Instruction:
    """With one of its fields such that something may lie outside, or be illegal."""
    fields = {"base": config.activation_depth - rng.randint(0, 30)}
    if item.opcode is Opcode.DEPTHWISE:
        ways = [{"parameter_base": config.parameter_depth - rng.randint(0, 8)}, {"ky_count": 4}]
        fields = rng.choice([fields, *ways, {"planes": 2}, {"x_first": 3, "x_count": 3, "x_every": 1}])
    return instruction(item.opcode, **{**item.fields, **fields})


def random_program(
    rng: random.Random, config: AcceleratorConfig, *, pairs: int, spoilt: int | None = None
) -> list[Instruction]:
    """`pairs` of MATRIX and POST with a mark behind some of them, and windows between some, beside the next
    MATRIX with ``depthwise``; `spoilt`: how one of them is.

    First all of both accumulator halves is written, so that what a POST finds beyond the pixels of its MATRIX
    is known.
    """
    counts = {"x_count": config.accumulator_depth, "y_count": 1, "k_tiles": 1, "n_tiles": 2}
    steps = dict.fromkeys(("weight_base", "base", "x_step", "y_step"), 0)
    first = _plain_post() | {
        "x_count": 1,
        "y_count": 1,
        "chunks": config.chunks + 1,
        "base": config.activation_depth - 1,
    }
    found: list[Instruction] = [
        instruction(Opcode.MATRIX, kind=isa.kinds(config)[0], **counts, **steps),
        instruction(Opcode.POST, **first),
        instruction(Opcode.MARK, layer=0),
    ]
    wrong = rng.randrange(pairs)
    for index in range(pairs):
        matrix, post = _pair(rng, config)
        if index == wrong and spoilt is not None:
            _spoil(spoilt, rng, config, matrix, post)
        found += [instruction(Opcode.MATRIX, **matrix), _post(post)]
        if config.depthwise and rng.random() < 0.7:
            windows, taker = (_channel_pair if rng.random() < 0.4 else _depthwise_pair)(rng, config)
            if index == wrong and spoilt == _OF_WINDOWS:
                windows = _spoilt_windows(rng, config, windows)
            found += [windows, taker]
        elif not config.depthwise and rng.random() < 0.3:
            barrier = instruction(Opcode.MARK, layer=100 + index)  # both units read through the same ports
            found += [barrier, *_channel_pair(rng, config), barrier]
        if rng.getrandbits(1):
            found.append(instruction(Opcode.MARK, layer=index, soft=rng.getrandbits(1)))
    return [*found, _END]
