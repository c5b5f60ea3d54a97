"""Words of the parameter memory: what the post unit needs of each channel, and depthwise weights, packed from
bit 0 on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from popshift.hw import numerics
from popshift.hw.codes import WINDOW
from popshift.hw.config import AcceleratorConfig

TAPS = WINDOW * WINDOW
"""Weights of a channel of a depthwise layer in the channel unit."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What the parameter memory holds for one channel; ``basis`` is one row of it."""

    bias: int = 0
    multiplier: int = 0
    shift: int = 0
    basis: tuple[int, ...] = (0,) * numerics.BASIS_SIZE


def _lane_layout(config: AcceleratorConfig) -> list[tuple[str, int, bool]]:
    """(name, bits, signed) of a lane's numbers from bit 0 on; the basis comes last, where there is one."""
    return [
        ("bias", numerics.BIAS_BITS, True),
        ("multiplier", config.requantise.multiplier_bits, False),
        ("shift", numerics.SHIFT_BITS, False),
    ]


def pack_parameter(config: AcceleratorConfig, lanes: Sequence[Lane]) -> bytes:
    """One word of the parameter memory."""
    assert len(lanes) == config.post_lanes
    word = 0
    for number, lane in enumerate(lanes):
        numbers = [(getattr(lane, name), bits, signed) for name, bits, signed in _lane_layout(config)]
        if config.has_basis:
            numbers += [(value, numerics.BASIS_BITS, True) for value in lane.basis]
        place = number * config.parameter_bits
        for value, bits, signed in numbers:
            low = -(1 << (bits - 1)) if signed else 0
            assert low <= value < low + (1 << bits)
            word |= (value & ((1 << bits) - 1)) << place
            place += bits
    return word.to_bytes(config.parameter_word_bytes, "little")


def unpack_parameter(config: AcceleratorConfig, data: bytes) -> list[Lane]:
    """The inverse of `pack_parameter`."""
    word, lanes = int.from_bytes(data, "little"), []

    def take(bits: int, signed: bool) -> int:
        nonlocal word
        value, word = word & ((1 << bits) - 1), word >> bits
        return numerics.wrap(value, bits) if signed else value

    for _ in range(config.post_lanes):
        numbers = {name: take(bits, signed) for name, bits, signed in _lane_layout(config)}
        rows = numerics.BASIS_SIZE if config.has_basis else 0
        basis = tuple(take(numerics.BASIS_BITS, True) for _ in range(rows))
        lanes.append(Lane(**numbers, basis=basis or Lane().basis))
    return lanes


def tap_words(config: AcceleratorConfig) -> int:
    """Words that hold the weights of a group of channels of a depthwise layer."""
    return -(-TAPS // (config.parameter_bits // numerics.WEIGHT_BITS))


def taps_of_word(config: AcceleratorConfig) -> int:
    """Weights of a channel in each of those words, from bit 0 of its lane on; in the last some may be
    missing.
    """
    return -(-TAPS // tap_words(config))


def pack_taps(config: AcceleratorConfig, taps: Sequence[Sequence[int]]) -> list[bytes]:
    """The `tap_words` words of the depthwise weights of a group of channels: of each `TAPS`, row by row."""
    assert len(taps) == config.post_lanes
    each, byte = taps_of_word(config), (1 << numerics.WEIGHT_BITS) - 1
    words = [0] * tap_words(config)
    for lane, weights in enumerate(taps):
        for number, weight in enumerate(weights):
            index, place = divmod(number, each)
            words[index] |= (weight & byte) << lane * config.parameter_bits + place * numerics.WEIGHT_BITS
    return [word.to_bytes(config.parameter_word_bytes, "little") for word in words]


def unpack_taps(config: AcceleratorConfig, data: Sequence[bytes]) -> list[list[int]]:
    """The inverse of `pack_taps`."""
    words = [int.from_bytes(word, "little") for word in data]
    places = [divmod(number, taps_of_word(config)) for number in range(TAPS)]
    return [
        [
            numerics.wrap(
                words[index] >> lane * config.parameter_bits + place * numerics.WEIGHT_BITS,
                numerics.WEIGHT_BITS,
            )
            for index, place in places
        ]
        for lane in range(config.post_lanes)
    ]
