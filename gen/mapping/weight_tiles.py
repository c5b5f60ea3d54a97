"""From weights to column tiles: what the weight memory holds, and how the matrix unit walks over it.

A column tile is what one accumulator half gets: all passes for as many output channels as it has room for.
Every scheme here gives a function that makes the column tiles of a range of output channels.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.bits import pack_signs
from popshift.firmware_py.layout import TensorLayout
from popshift.firmware_py.weight_words import (
    basis_words,
    binary_words,
    coefficient_words,
    dense_words,
    shift_words,
)
from popshift.gen.graph import Convolution, Factors
from popshift.gen.mapping import tiling
from popshift.gen.mapping.digits import digits
from popshift.gen.mapping.windows import WindowWalk
from popshift.hw.config import PAIR, AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import Kind, Lane
from popshift.hw.numerics import BASIS_SIZE

Basis = NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class ColumnTile:
    """A column tile.

    Attributes
    ----------
    words: for the weight memory, uint8 (words, bytes of a word).
    fields: of the MATRIX that works on it.
    used: rows of all its passes that hold a weight. needed: how many would, if no row of Ce were zero.
    basis: of each channel for the post unit, int8 (channels, 3, 3); none for ``mul`` PEs.
    sums: largest sum of magnitudes of the coefficients of a column of Ce; 0 for ``mul`` PEs.
    """

    words: NDArray[np.uint8]
    fields: dict[str, int]
    used: int
    needed: int = 0
    basis: Basis | None = None
    sums: int = 0


Tiles = Callable[[int, int], list[ColumnTile]]


def runs(tiles: Sequence[ColumnTile]) -> list[tuple[int, int]]:
    """(first, number) of consecutive column tiles that one instruction can serve."""
    found: list[tuple[int, int]] = []
    for index, tile in enumerate(tiles):
        if found and tiles[found[-1][0]].fields == tile.fields:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((index, 1))
    return found


def tap_offsets(layer: Convolution, source: TensorLayout, taps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Address of each tap (its number in row-major order; any below 0 count as 0) from the window's first."""
    kernel, dilation = layer.window.kernel, layer.window.dilation
    channel, tap = np.divmod(np.maximum(taps, 0), kernel[0] * kernel[1])
    ky, kx = np.divmod(tap, kernel[1])
    plane = channel // source.period * source.plane_step
    return plane + ky * dilation[0] * source.row_pitch + kx * dilation[1]


def _banks(layer: Convolution, source: TensorLayout, taps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bank of each tap, as `tap_offsets`."""
    kernel = layer.window.kernel
    return np.maximum(taps, 0) // (kernel[0] * kernel[1]) % source.period


# ---- dense -------------------------------------------------------------------------------------------------


def dense(layer: Convolution, source: TensorLayout, config: AcceleratorConfig) -> Tiles:
    """Int8 weights. Empty rows hold offset 0 and weights 0. Of a layer in groups, a column tile reads only
    the input channels that its output channels have.
    """
    inputs, outputs = layer.weight.shape[1], len(layer.weight) // layer.groups  # of a group
    kernel_taps = layer.weight[0, 0].size

    @functools.cache
    def assigned(channels: int, first: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        taps = tiling.assign_taps(
            channels, layer.window.kernel, source.period, source.copies, config.rows, first
        )
        return taps, tap_offsets(layer, source, taps)

    def tile(start: int, stop: int) -> ColumnTile:
        first_group, behind = start // outputs, (stop - 1) // outputs + 1
        if config.paired_banks and first_group * inputs % PAIR:  # begin with the first of a pair
            first_group -= 1
        first = first_group * inputs
        taps, offsets = assigned((behind - first_group) * inputs, first)
        weight = layer.weight[start:stop]
        if layer.groups > 1:
            weight = spread(weight, np.arange(start, stop) // outputs - first_group, behind - first_group)
        local = np.where(taps >= 0, taps - first * kernel_taps, -1)
        weight = _with_zero_tap(weight, config.cols)[:, local].transpose(1, 2, 0).astype(np.int8)
        if config.paired_banks:
            offsets = _of_pairs(offsets, taps)
        words = dense_words(config, offsets, weight).reshape(-1, config.weight_word_bytes)
        return ColumnTile(words, {"kind": Kind.DENSE, "k_tiles": len(taps)}, int((taps >= 0).sum()))

    return partial(_each, tile, config.cols)


def _of_pairs(offsets: NDArray[np.int64], taps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of pairs of rows the offset that both have, or the one that has a tap (row tiles, rows)."""
    pairs, used = (array.reshape(len(array), -1, PAIR) for array in (offsets, taps >= 0))
    assert (pairs[..., 0] == pairs[..., 1])[used.all(-1)].all(), "a pair of rows reads at one address"
    return np.repeat(np.where(used[..., 0], pairs[..., 0], pairs[..., 1]), PAIR, axis=1)


def spread(weight: NDArray[np.integer], group: NDArray[np.integer], groups: int) -> NDArray[np.integer]:
    """Filters (out, in of a group, …) of the groups `group` (out,) with zeros for all channels of others."""
    out, inputs, *kernel = weight.shape
    wide = np.zeros((out, groups, inputs, *kernel), weight.dtype)
    wide[np.arange(out), group] = weight
    return wide.reshape(out, groups * inputs, *kernel)


def _with_zero_tap(weight: NDArray[np.integer], channels: int) -> NDArray[np.integer]:
    """(channels, taps + 1) of one column tile; tap -1 is a column of zeros, missing channels are zeros."""
    padded = np.zeros((channels, weight[0].size + 1), weight.dtype)
    padded[: len(weight), :-1] = weight.reshape(len(weight), -1)
    return padded


def _each(tile: Callable[[int, int], ColumnTile], channels: int, start: int, stop: int) -> list[ColumnTile]:
    return [tile(first, min(first + channels, stop)) for first in range(start, stop, channels)]


def side_by_side(
    layer: Convolution, source: TensorLayout, config: AcceleratorConfig, pixels: int, channels: int
) -> Tiles:
    """Int8 weights of all filters, `channels` columns for each of `pixels` neighbours: the filters of each
    lie a stride further right in the window of all.
    """
    outputs, inputs, tall, wide = layer.weight.shape
    right = layer.window.stride[1]
    weight = np.zeros((pixels, channels, inputs, tall, wide + (pixels - 1) * right), layer.weight.dtype)
    for pixel in range(pixels):
        weight[pixel, :outputs, :, :, pixel * right : pixel * right + wide] = layer.weight
    weight = weight.reshape(pixels * channels, *weight.shape[2:])
    window = dataclasses.replace(layer.window, kernel=weight.shape[2:])
    tiles = dense(dataclasses.replace(layer, weight=weight, window=window), source, config)
    return lambda start, stop: tiles(0, len(weight))


def windows(layer: Convolution, source: TensorLayout, config: AcceleratorConfig, walk: WindowWalk) -> Tiles:
    """Int8 weights of a depthwise layer, a column for every channel of a plane."""
    fields = {"kind": Kind.DENSE, "k_tiles": len(walk.passes())}
    used = layer.weight[0, 0].size

    def tile(start: int, stop: int) -> ColumnTile:
        plane, before = divmod(start, source.period)
        if before:  # only if the parameters of a plane do not fit their memory
            raise ModelError("its channels cannot be cut within a plane", where=f"layer {layer.name}")
        words = dense_words(config, walk.offsets(source, plane), walk.weights(layer.weight[start:stop]))
        return ColumnTile(words.reshape(-1, config.weight_word_bytes), fields, used)

    return partial(_each, tile, config.cols)


# ---- binary ------------------------------------------------------------------------------------------------


def binary(layer: Convolution, source: TensorLayout, config: AcceleratorConfig) -> Tiles:
    """Weights of 1 and -1, eight channels to a byte. Empty rows are off."""
    taps = tiling.assign_taps(source.shape[0], layer.window.kernel, source.period, source.copies, config.rows)
    offsets = tap_offsets(layer, source, taps)
    lanes = pack_signs(layer.weight, axis=1).view(np.uint8)
    fields = {"kind": Kind.XNOR, "k_tiles": len(taps)}

    def tile(start: int, stop: int) -> ColumnTile:
        bits = _with_zero_tap(lanes[start:stop], config.cols).astype(np.uint8)
        words = binary_words(config, offsets, taps >= 0, bits[:, taps].transpose(1, 2, 0))
        return ColumnTile(words.reshape(-1, config.weight_word_bytes), fields, int((taps >= 0).sum()))

    return partial(_each, tile, config.cols)


# ---- SmartDeal ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """How the rows of Ce meet the array.

    If the taps of every row lie in one bank, at addresses evenly `step` apart, a row of coefficients serves
    `replays` passes, one for each column of the basis. Else every tap has a row of its own.

    Attributes
    ----------
    units: rows of Ce (slice, row), or single taps (slice, row, column of the basis); int64 (units, 2 or 3).
    bank, offset: place of each unit's first tap, int64 (units,).
    length: passes that each unit needs, int64 (units,).
    """

    replays: int
    step: int
    units: NDArray[np.int64]
    bank: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]

    @property
    def whole(self) -> bool:
        """Whether every row of Ce has a tap for each column of the basis."""
        return self.replays == BASIS_SIZE and bool((self.length == BASIS_SIZE).all())

    @classmethod
    def of(cls, layer: Convolution, factors: Factors, source: TensorLayout) -> "Walk":
        """The walk over the rows of `factors` when the layer's input lies as `source` says."""
        taps = factors.taps
        used = taps >= 0
        bank = _banks(layer, source, taps)
        offset = tap_offsets(layer, source, taps)
        inside = used[..., 1:] & used[..., :-1]
        steps = np.unique(np.diff(offset, axis=-1)[inside])
        regular = (np.diff(bank, axis=-1)[inside] == 0).all() and len(steps) <= 1
        # A row that lacks its first taps begins with a later column of the basis, and has zeros at the end.
        if regular and not (used[..., :-1] & ~used[..., 1:]).any():
            units = np.argwhere(used.any(-1))
            place = tuple(units.T)
            length = used[place].sum(-1)
            first = (*place, BASIS_SIZE - length)
            step = int(steps[0]) if len(steps) else 0
            return cls(BASIS_SIZE, step, units, bank[first], offset[first], length)
        return cls.by_tap(layer, factors, source)

    @classmethod
    def by_tap(cls, layer: Convolution, factors: Factors, source: TensorLayout) -> "Walk":
        """The walk that gives every tap a row of its own."""
        taps = factors.taps
        units = np.argwhere(taps >= 0)
        place = tuple(units.T)
        bank = _banks(layer, source, taps[place])
        return cls(1, 0, units, bank, tap_offsets(layer, source, taps[place]), np.ones(len(units), np.int64))

    def chosen(self, factors: Factors, channels: slice) -> NDArray[np.int64]:
        """The units of `channels`: rows of Ce that are zero in all of them cost neither words nor passes."""
        nonzero = (factors.coefficients[channels] != 0).any(axis=(0, 3))
        return np.flatnonzero(nonzero[self.units[:, 0], self.units[:, 1]])

    def assigned(
        self,
        units: NDArray[np.int64],
        source: TensorLayout,
        config: AcceleratorConfig,
        *,
        short: bool = False,
    ) -> "Assignment":
        """`units` in the rows of as few passes as possible.

        If `short`, a last tile may serve fewer passes than the others: because its units are shorter, or
        because there are copies of the input, and each takes some of a unit's columns.
        """
        units = units[np.argsort(-self.length[units], kind="stable")]
        by_bank = [units[self.bank[units] == bank] for bank in range(source.period)]
        fewest, passes, last = self._fewest_passes(by_bank, source.copies, short)
        full = fewest * source.copies
        unit = np.full((fewest + (last > 0), config.rows), -1, np.int64)
        start = np.zeros_like(unit)
        for bank, mine in enumerate(by_bank):
            tile, copy = np.divmod(np.arange(len(mine[:full])), source.copies)
            unit[tile, bank + copy * source.period] = mine[:full]
            row = bank
            for number in mine[full:]:
                for first in range(0, int(self.length[number]), last):
                    unit[-1, row], start[-1, row] = number, first
                    row += source.period
        return Assignment(unit, start, passes)

    def _fewest_passes(
        self, by_bank: Sequence[NDArray[np.int64]], copies: int, short: bool
    ) -> tuple[int, int, int]:
        """Number of full tiles, passes of all, and passes of a shorter last tile or 0."""
        lengths = [self.length[units] for units in by_bank]
        tiles = max(1, max(-(-len(own) // copies) for own in lengths))
        if not short:
            return tiles, tiles * self.replays, 0
        for last in range(1, self.replays):
            left = [own[(tiles - 1) * copies :] for own in lengths]
            if all((-(-own // last)).sum() <= copies for own in left):
                return tiles - 1, (tiles - 1) * self.replays + last, last
        return tiles, tiles * self.replays, 0

    def placed(self, rows: "Assignment") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Offset and first column of the basis of every row."""
        unit, empty = np.maximum(rows.unit, 0), rows.unit < 0
        column = self.units[unit, 2] if self.units.shape[1] == 3 else BASIS_SIZE - self.length[unit]
        offset = self.offset[unit] + rows.start * self.step
        return np.where(empty, 0, offset), np.where(empty, 0, column + rows.start)

    def coefficients(self, coefficients: NDArray[np.int8], rows: "Assignment") -> NDArray[np.int8]:
        """(tiles, rows, channels, 3) from (channels, slices, rows, 3)."""
        place = self.units[np.maximum(rows.unit, 0)]
        found = coefficients[:, place[..., 0], place[..., 1]].transpose(1, 2, 0, 3)
        return np.where((rows.unit < 0)[..., None, None], np.int8(0), found)


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """What the rows of the array hold.

    Attributes
    ----------
    unit: number of the unit in every row of every tile, int64 (tiles, rows); -1 for an empty row.
    start: which of the unit's columns the row begins with, of the same shape.
    passes: that all tiles serve.
    """

    unit: NDArray[np.int64]
    start: NDArray[np.int64]
    passes: int

    def padded(self, tiles: int, replays: int) -> "Assignment":
        """With empty tiles behind."""
        missing = ((0, tiles - len(self.unit)), (0, 0))
        unit = np.pad(self.unit, missing, constant_values=-1)
        return Assignment(unit, np.pad(self.start, missing), tiles * replays)


def rebuilt(factors: Factors, walk: Walk, source: TensorLayout, config: AcceleratorConfig) -> Tiles:
    """Coefficients and bases; the feeder makes the weights."""

    def tile(start: int, stop: int) -> ColumnTile:
        channels = slice(start, stop)
        needed = walk.chosen(factors, channels)
        # The half must be cleared even if there is nothing to add.
        slices = np.unique(walk.units[needed, 0]).tolist() or [0]
        parts = [
            walk.assigned(needed[walk.units[needed, 0] == number], source, config, short=number == slices[-1])
            for number in slices
        ]
        longest = max(len(part.unit) for part in parts)
        parts[:-1] = [part.padded(longest, walk.replays) for part in parts[:-1]]
        coefficients = _padded(factors.coefficients[channels], config.cols)
        basis = _padded(factors.basis[channels], config.cols)
        words = []
        for number, rows in zip(slices, parts, strict=True):
            words.append(basis_words(config, basis[:, number]))
            found = coefficient_words(config, *walk.placed(rows), walk.coefficients(coefficients, rows))
            words.append(found.reshape(-1, config.weight_word_bytes))
        fields = {
            "kind": Kind.REBUILD,
            "k_tiles": sum(part.passes for part in parts),
            "slice_tiles": longest,
            "replays": walk.replays,
            "again_step": walk.step,
        }
        return ColumnTile(
            np.concatenate(words), fields, int(walk.length[needed].sum()), int(walk.length.sum())
        )

    return partial(_each, tile, config.cols)


def factored(
    factors: Factors, walk: Walk, source: TensorLayout, config: AcceleratorConfig, channels: int
) -> Tiles:
    """One coefficient a column, for a layer with a single slice: columns 3 q + j of Ce, a group of post lanes
    each.
    """

    def tile(start: int, stop: int) -> ColumnTile:
        needed = walk.chosen(factors, slice(start, stop))
        rows = walk.assigned(needed, source, config)
        coefficients = _padded(factors.coefficients[start:stop], channels)
        offsets, _ = walk.placed(rows)
        used = int(walk.length[needed].sum()) // BASIS_SIZE
        basis = factors.basis[start:stop, 0]
        all_used = int(walk.length.sum()) // BASIS_SIZE
        return _shift_tile(config, offsets, walk.coefficients(coefficients, rows), (used, all_used), basis)

    return partial(_each, tile, channels)


def as_digits(layer: Convolution, source: TensorLayout, config: AcceleratorConfig, channels: int) -> Tiles:
    """Any weights, written as coefficients times one basis for all: one row or three for every tap."""
    taps = tiling.assign_taps(source.shape[0], layer.window.kernel, source.period, source.copies, config.rows)
    offsets = tap_offsets(layer, source, taps)
    written, row = digits(_with_zero_tap(layer.weight, len(layer.weight)))
    basis = np.zeros((BASIS_SIZE, BASIS_SIZE), np.int8)
    basis[:, -1] = row  # the column that counts alone

    def tile(start: int, stop: int) -> ColumnTile:
        found = _padded(written[start:stop], channels)[:, taps]  # (channels, tiles, rows, rows of a tap, 3)
        repeated = np.repeat(offsets[:, None], found.shape[3], axis=1)
        coefficients = found.transpose(1, 3, 2, 0, 4).reshape(-1, config.rows, channels, BASIS_SIZE)
        bases = np.broadcast_to(basis, (stop - start, *basis.shape))
        used = int((taps >= 0).sum()) * found.shape[3]
        return _shift_tile(config, repeated.reshape(-1, config.rows), coefficients, (used, used), bases)

    return partial(_each, tile, channels)


def _shift_tile(
    config: AcceleratorConfig,
    offsets: NDArray[np.int64],
    coefficients: NDArray[np.int8],
    used: tuple[int, int],
    basis: Basis,
) -> ColumnTile:
    """`offsets`: (tiles, rows); `coefficients`: (tiles, rows, channels, 3); `used`: rows used and needed."""
    lanes = config.post_lanes
    grouped = coefficients.reshape(*offsets.shape, -1, lanes, BASIS_SIZE).swapaxes(-1, -2)
    columns = np.zeros((*offsets.shape, config.cols), np.int8)
    columns[..., : coefficients.shape[2] * BASIS_SIZE] = grouped.reshape(*offsets.shape, -1)
    words = shift_words(config, offsets, columns).reshape(-1, config.weight_word_bytes)
    sums = int(np.abs(columns.astype(np.int64)).sum(axis=(0, 1)).max())
    return ColumnTile(words, {"kind": Kind.SHIFT, "k_tiles": len(offsets)}, *used, basis, sums)


def _padded(array: NDArray[np.int8], channels: int) -> NDArray[np.int8]:
    """With zeros for channels that are missing."""
    return np.pad(array, [(0, channels - len(array)), *[(0, 0)] * (array.ndim - 1)])


def basis_lanes(lanes: Sequence[Lane], basis: Basis, config: AcceleratorConfig) -> list[Lane]:
    """The parameter lanes of channels that the post unit combines: three words for each group of channels."""
    found: list[Lane] = []
    for first in range(0, len(lanes), config.post_lanes):
        group = range(first, first + config.post_lanes)
        for j in range(BASIS_SIZE):
            for channel in group:
                if channel >= len(lanes):
                    found.append(Lane())
                    continue
                row = tuple(basis[channel, j].tolist())
                whole = lanes[channel] if j == BASIS_SIZE - 1 else Lane()
                found.append(Lane(whole.bias, whole.multiplier, whole.shift, row))
    return found
