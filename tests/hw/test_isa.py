"""Instructions survive encoding; fields do not overlap; bad ones are refused."""

import hashlib
import json
import random
from dataclasses import replace

import numpy as np
import pytest

from popshift.hw import isa, numerics
from popshift.hw.config import MACHINE, AcceleratorConfig, load_config
from popshift.hw.isa import LENGTHS, PLACEMENTS, Kind, Lane, Opcode, Source, Status

SEED = 5
NARROW = load_config("tiny").replace(post_lanes=1)
SHIFT_ONLY = NARROW.replace(pe_kinds=["shift"], requantise="compact")
REBUILD = NARROW.replace(rebuild=True)
BINARY = NARROW.replace(cols=8, post_lanes=2, pe_kinds=["xnor"])
EVERYTHING = BINARY.replace(pe_kinds=["xnor", "shift", "mul"], rebuild=True)


def random_instruction(rng: random.Random, opcode: Opcode) -> isa.Instruction:
    fields = {}
    for name, place in PLACEMENTS[opcode].items():
        signed = name in isa._SIGNED
        low, high = (-128, 127) if signed else (place.field.low, place.field.high)
        fields[name] = rng.choice((low, high, rng.randint(low, high)))
    return isa.instruction(opcode, **fields)


def test_another_layout_is_another_machine():
    """A device must not run a program whose words it would take for something else."""
    plain = isa.opcodes(load_config("tiny"))  # what configurations without `depthwise` have never changed

    def known(*opcodes: Opcode) -> str:
        layout = {
            opcode.name: [
                (name, place.word, place.shift, place.field.bits)
                for name, place in PLACEMENTS[opcode].items()
            ]
            for opcode in opcodes
        }
        return hashlib.sha256(json.dumps(layout, sort_keys=True).encode()).hexdigest()[:16]

    told = "raise MACHINE in hw/config.py, and write all three here"
    others = [opcode for opcode in Opcode if opcode not in plain]
    assert (MACHINE, known(*plain), known(*others)) == (2, "d7286be9343f7ece", "e7ea059db1cb64fd"), told


@pytest.mark.parametrize("opcode", list(Opcode))
def test_encode_decode(opcode):
    rng = random.Random(SEED)
    for _ in range(200):
        item = random_instruction(rng, opcode)
        words = isa.encode(item)
        assert len(words) == LENGTHS[opcode] and all(0 <= word < 1 << isa.WORD_BITS for word in words)
        assert isa.decode(words, 0) == item


@pytest.mark.parametrize("opcode", list(Opcode))
def test_fields_do_not_overlap(opcode):
    taken: set[tuple[int, int]] = {(0, bit) for bit in range(isa.OPCODE_BITS)}
    for place in PLACEMENTS[opcode].values():
        bits = {(place.word, place.shift + bit) for bit in range(place.field.bits)}
        assert not bits & taken and max(bit for _, bit in bits) < isa.WORD_BITS
        taken |= bits


def test_decode_failures():
    assert isa.decode([], 0) is Status.PROGRAM_ADDRESS
    assert isa.decode([0], 0) is Status.ILLEGAL_INSTRUCTION
    assert isa.decode([int(Opcode.MATRIX)] * 4, 0) is Status.PROGRAM_ADDRESS


def test_refused_fields():
    with pytest.raises(ValueError, match=r"MARK\.layer must be 0 \.\. 65535, not 65536"):
        isa.instruction(Opcode.MARK, layer=65536)
    with pytest.raises(ValueError, match="MARK has the fields"):
        isa.instruction(Opcode.MARK, level=1)


def random_lane(rng: random.Random, config: AcceleratorConfig) -> Lane:
    """Numbers from the ends of their ranges and between; no basis where there is no place for one."""

    def number(low: int, high: int) -> int:
        return rng.choice((low, high, rng.randint(low, high)))

    multiplier = number(0, (1 << config.requantise.multiplier_bits) - 1)
    found = Lane(number(-(1 << 31), (1 << 31) - 1), multiplier, number(0, 63))
    if not config.has_basis:
        return found
    return replace(found, basis=(number(-128, 127), number(-128, 127), number(-128, 127)))


@pytest.mark.parametrize(
    "config",
    [*map(load_config, ("tiny", "icebreaker", "a16")), SHIFT_ONLY, REBUILD, EVERYTHING],
    ids=["tiny", "icebreaker", "a16", "shift only", "rebuild", "everything"],
)
def test_parameters_survive_packing(config):
    rng = random.Random(SEED)
    for _ in range(50):
        lanes = [random_lane(rng, config) for _ in range(config.post_lanes)]
        data = isa.pack_parameter(config, lanes)
        assert len(data) == config.parameter_word_bytes and isa.unpack_parameter(config, data) == lanes


def test_a_basis_has_a_place_only_with_shift_pes():
    lane, bare = Lane(-1, 1, 1, (1, -2, -128)), Lane(-1, 1, 1)
    for config, survives in ((NARROW, False), (REBUILD, False), (SHIFT_ONLY, True)):
        assert (isa.pack_parameter(config, [lane]) == isa.pack_parameter(config, [bare])) is not survives
        found = isa.unpack_parameter(config, isa.pack_parameter(config, [lane]))
        assert found == [lane if survives else bare]


def test_coefficient_codes():
    levels = [0, *(sign << power for power in range(7) for sign in (1, -1))]
    assert len(set(levels)) == 15
    codes = [numerics.coefficient_code(level) for level in levels]
    assert sorted(codes) == [*range(8), *range(9, 16)]  # 8 is negative zero
    assert [numerics.coefficient_of(code) for code in codes] == levels
    assert numerics.coefficient_of(8) == 0
    assert [numerics.coefficient_code(level) for level in (1, -1, 64, -64)] == [1, 9, 7, 15]
    assert numerics.coefficient_code(np.array(levels)).tolist() == codes
    assert numerics.coefficient_of(np.arange(16)).tolist() == [numerics.coefficient_of(c) for c in range(16)]


@pytest.mark.parametrize(
    ("config", "kinds", "sources"),
    [
        (NARROW, {Kind.DENSE}, set(Source) - {Source.BASIS}),
        (REBUILD, {Kind.DENSE, Kind.REBUILD}, set(Source) - {Source.BASIS}),
        (SHIFT_ONLY, {Kind.SHIFT}, set(Source)),
        (BINARY, {Kind.XNOR}, set(Source) - {Source.BASIS}),
        (EVERYTHING, set(Kind), set(Source)),
    ],
    ids=["int8", "rebuild", "shift only", "xnor only", "everything"],
)
def test_kinds_and_sources_that_are_not_built_are_illegal(config, kinds, sources):
    rng = random.Random(SEED)
    matrix, post = (random_instruction(rng, opcode).fields for opcode in (Opcode.MATRIX, Opcode.POST))
    for kind in range(16):
        item = isa.instruction(Opcode.MATRIX, **{**matrix, "kind": kind})
        assert isa.illegal_fields(item, config) is (kind not in kinds)
    for source in range(4):
        item = isa.instruction(Opcode.POST, **{**post, "period": 1, "source": source, "packed": 0})
        assert isa.illegal_fields(item, config) is (source not in sources)


def test_every_status_has_a_meaning():
    assert all(status.meaning for status in Status)
