"""Instructions survive encoding; fields do not overlap; bad ones are refused."""

import random

import pytest

from popshift.hw import isa
from popshift.hw.config import load_config
from popshift.hw.isa import LENGTHS, PLACEMENTS, Opcode, Status

SEED = 5


def random_instruction(rng: random.Random, opcode: Opcode) -> isa.Instruction:
    fields = {}
    for name, place in PLACEMENTS[opcode].items():
        signed = name in ("zero_point", "low", "high")
        low, high = (-128, 127) if signed else (place.field.low, place.field.high)
        fields[name] = rng.choice((low, high, rng.randint(low, high)))
    return isa.instruction(opcode, **fields)


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


@pytest.mark.parametrize("name", ["tiny", "icebreaker", "a16"])
def test_parameters_survive_packing(name):
    config, rng = load_config(name), random.Random(SEED)
    bits = config.requantise.multiplier_bits
    for _ in range(50):
        lanes = [
            (rng.randrange(-(1 << 31), 1 << 31), rng.randrange(1 << bits), rng.randrange(64))
            for _ in range(config.post_lanes)
        ]
        data = isa.pack_parameter(config, lanes)
        assert len(data) == config.parameter_word_bytes and isa.unpack_parameter(config, data) == lanes


def test_every_status_has_a_meaning():
    assert all(status.meaning for status in Status)
