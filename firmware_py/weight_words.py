"""Words of the weight memory as arrays of bytes: what the compiler writes, the executor reads.

A word is an address offset (two bytes, little endian) and a payload, which `popshift.hw.isa.Kind` explains.
Every array has the words in front: uint8 (…, `AcceleratorConfig.weight_word_bytes`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popshift.hw import isa, numerics
from popshift.hw.config import ADDRESS_BITS, BINARY_OFFSET_BITS, OFFSET_BITS, PAIR, AcceleratorConfig
from popshift.hw.numerics import BASIS_SIZE, CODE_BITS

_HEAD = ADDRESS_BITS // 8
_ROW_BITS = CODE_BITS * BASIS_SIZE


def dense_words(
    config: AcceleratorConfig, offsets: NDArray[np.int64], weights: NDArray[np.int8]
) -> NDArray[np.uint8]:
    """Rows of int8 weights (…, cols) at `offsets` (…)."""
    words = _empty(config, offsets)
    words[..., _HEAD : _HEAD + config.cols] = weights.view(np.uint8)
    return words


def coefficient_words(
    config: AcceleratorConfig,
    offsets: NDArray[np.int64],
    columns: NDArray[np.int64],
    coefficients: NDArray[np.int8],
) -> NDArray[np.uint8]:
    """Rows of coefficients (…, cols, `BASIS_SIZE`), each for the basis column in `columns` (…)."""
    words = _empty(config, offsets + (columns << OFFSET_BITS))
    codes = numerics.coefficient_code(coefficients.astype(np.int64))
    return _fill(words, _bits(codes, CODE_BITS))


def shift_words(
    config: AcceleratorConfig, offsets: NDArray[np.int64], coefficients: NDArray[np.int8]
) -> NDArray[np.uint8]:
    """Rows with one coefficient a column (…, cols), at `offsets` (…)."""
    codes = numerics.coefficient_code(coefficients.astype(np.int64))
    return _fill(_empty(config, offsets), _bits(codes, CODE_BITS)[..., None])


def basis_words(config: AcceleratorConfig, basis: NDArray[np.int8]) -> NDArray[np.uint8]:
    """The words of the bases (cols, `BASIS_SIZE`, `BASIS_SIZE`) of one slice."""
    bits = _bits(basis.astype(np.uint8).reshape(config.cols, -1), numerics.BASIS_BITS)
    missing = isa.BASIS_WORDS * _ROW_BITS - bits.shape[1]
    bits = np.pad(bits, ((0, 0), (0, missing))).reshape(config.cols, isa.BASIS_WORDS, _ROW_BITS)
    return _fill(_empty(config, np.zeros(isa.BASIS_WORDS, np.int64)), bits.swapaxes(0, 1))


def binary_words(
    config: AcceleratorConfig, offsets: NDArray[np.int64], on: NDArray[np.bool_], lanes: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Rows of binary weights, a byte of `numerics.LANE_CHANNELS` for each column (…, cols), at `offsets` (…);
    rows that are not `on` (…) add nothing.
    """
    words = _empty(config, np.where(on, offsets, 1 << BINARY_OFFSET_BITS))
    words[..., _HEAD : _HEAD + config.cols] = lanes
    return words


@dataclass(frozen=True, slots=True)
class Tile:
    """What one pass does: address offsets int64 (rows,), weights int16 (rows, cols), shift of all pixels.

    Binary weights: ±1 for each channel of a byte, or 0 in rows that are off; int16 (rows, 8, cols).
    """

    offsets: NDArray[np.int64]
    weights: NDArray[np.int16]
    shift: int = 0


def half_words(item: isa.Instruction, config: AcceleratorConfig) -> int:
    """Words that a MATRIX instruction reads for each column tile."""
    tiles, slices = tiles_and_slices(item)
    return tiles * config.rows + slices * isa.BASIS_WORDS


def tiles_and_slices(item: isa.Instruction) -> tuple[int, int]:
    """Weight tiles of a column tile, and slices that begin in it (none without bases)."""
    if item["kind"] != isa.Kind.REBUILD:
        return item["k_tiles"], 0
    tiles = -(-item["k_tiles"] // item["replays"])
    return tiles, -(-tiles // item["slice_tiles"])


def passes(item: isa.Instruction, config: AcceleratorConfig, words: NDArray[np.uint8]) -> list[Tile]:
    """The passes of one column tile, from its `half_words` words."""
    offset_mask = (1 << config.offset_bits) - 1
    heads = np.ascontiguousarray(words[:, :_HEAD]).view("<u2").ravel().astype(np.int64)
    if item["kind"] != isa.Kind.REBUILD:
        if item["kind"] == isa.Kind.XNOR:
            lanes = words[:, _HEAD : _HEAD + config.cols]
            on = (heads >> BINARY_OFFSET_BITS & 1) == 0
            signs = np.unpackbits(lanes[:, None], axis=1, bitorder="little").astype(np.int16) * 2 - 1
            weights = signs * on[:, None, None]
        elif item["kind"] == isa.Kind.SHIFT:
            weights = numerics.coefficient_of(_values(_payload(config, words, CODE_BITS), CODE_BITS)[..., 0])
        else:
            weights = words[:, _HEAD : _HEAD + config.cols].view(np.int8)
        weights = weights.astype(np.int16)
        offsets = (heads & offset_mask).reshape(-1, config.rows)
        if config.paired_banks:
            offsets = np.repeat(offsets[:, ::PAIR], PAIR, axis=1)
        weights = weights.reshape(*offsets.shape, *weights.shape[1:])
        return [Tile(*tile) for tile in zip(offsets, weights, strict=True)]
    found: list[Tile] = []
    place, tile = 0, 0
    basis = np.zeros((config.cols, BASIS_SIZE, BASIS_SIZE), np.int16)
    while len(found) < item["k_tiles"]:
        if tile % item["slice_tiles"] == 0:
            basis = _basis(config, words[place : place + isa.BASIS_WORDS])
            place += isa.BASIS_WORDS
        rows = slice(place, place + config.rows)
        codes = _values(_payload(config, words[rows]), CODE_BITS)
        coefficients = numerics.coefficient_of(codes)
        for replay in range(min(item["replays"], item["k_tiles"] - len(found))):
            column = (heads[rows] >> OFFSET_BITS) + replay
            chosen = basis[:, :, np.minimum(column, BASIS_SIZE - 1)] * (column < BASIS_SIZE)
            weights = np.einsum("rcj,cjr->rc", coefficients, chosen)
            shift = replay * item["again_step"]
            found.append(Tile(heads[rows] & offset_mask, weights.astype(np.int16), shift))
        place, tile = place + config.rows, tile + 1
    return found


def _empty(config: AcceleratorConfig, heads: NDArray[np.int64]) -> NDArray[np.uint8]:
    words = np.zeros((*heads.shape, config.weight_word_bytes), np.uint8)
    words[..., :_HEAD] = heads.astype("<u2")[..., None].view(np.uint8)
    return words


def _fill(words: NDArray[np.uint8], bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`words` with payloads of `bits` (…, cols, bits of a column), from bit 0 on."""
    packed = np.packbits(bits.reshape(*bits.shape[:-2], -1), axis=-1, bitorder="little")
    words[..., _HEAD : _HEAD + packed.shape[-1]] = packed
    return words


def _payload(config: AcceleratorConfig, words: NDArray[np.uint8], bits: int = _ROW_BITS) -> NDArray[np.uint8]:
    """The bits of the columns, (words, cols, `bits`)."""
    found = np.unpackbits(words[:, _HEAD:], axis=1, bitorder="little")[:, : config.cols * bits]
    return found.reshape(len(words), config.cols, bits)


def _basis(config: AcceleratorConfig, words: NDArray[np.uint8]) -> NDArray[np.int16]:
    bits = _payload(config, words).swapaxes(0, 1).reshape(config.cols, -1)
    values = _values(bits[:, : numerics.BASIS_BITS * BASIS_SIZE**2], numerics.BASIS_BITS)
    signed = values.astype(np.uint8).view(np.int8).astype(np.int16)
    return signed.reshape(config.cols, BASIS_SIZE, BASIS_SIZE)


def _bits(values: NDArray[np.integer], width: int) -> NDArray[np.uint8]:
    """(…, n) numbers as (…, n * width) bits, least significant first."""
    bits = values[..., None] >> np.arange(width) & 1
    return bits.reshape(*values.shape[:-1], -1).astype(np.uint8)


def _values(bits: NDArray[np.uint8], width: int) -> NDArray[np.int64]:
    """The inverse of `_bits`."""
    grouped = bits.reshape(*bits.shape[:-1], -1, width).astype(np.int64)
    return (grouped << np.arange(width)).sum(axis=-1)
