"""The executor's three units: what the matrix, channel and post unit do to the memories, without their
timing.

Each unit takes an instruction and returns a generator that yields ``True`` after a piece of work and
``False`` while it waits for another unit (an accumulator half, a window). `popshift.sim.executor` steps them
side by side.

Every memory holds a batch of images in its last axis; one instruction is executed for all of them at once.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py import weight_words
from popshift.firmware_py.bits import pack_signs
from popshift.hw import isa, numerics
from popshift.hw.config import ADDRESS_BITS, AcceleratorConfig
from popshift.hw.isa import (
    EDGE_CLASSES,
    Counter,
    Edge,
    Instruction,
    Opcode,
    Source,
    Status,
)
from popshift.hw.numerics import BASIS_SIZE
from popshift.sim import windows
from popshift.sim.array import BLOCK_ELEMENTS, Array
from popshift.sim.hazards import HazardChecker

ADDRESS_MASK = (1 << ADDRESS_BITS) - 1
BLOCK_ADDRESSES = 1 << 16

Job = Iterator[bool]


class HaltError(Exception):
    """A unit stops the machine with an error status."""

    def __init__(self, status: Status) -> None:
        self.status = status
        super().__init__(status.meaning)


def strides(counts: Sequence[int], steps: Sequence[int]) -> list[int]:
    """Address distance from one turn to the next of each loop of a nest, given outermost first, modulo 2**16.

    A step is added when its loop advances, after every loop inside it has finished, so the distance is the
    step plus all that the inner loops moved.
    """
    found, moved = [], 0
    for count, step in zip(reversed(counts), reversed(steps), strict=True):
        found.append((moved + step) & ADDRESS_MASK)
        moved += (count - 1) * found[-1]
    return found[::-1]


def rectangle(
    item: Instruction, y_start: int = 0, y_stop: int | None = None, *, prefix: str = ""
) -> NDArray[np.int64]:
    """Addresses of an instruction's x/y loops relative to its base, rows ``y_start .. y_stop - 1``; `prefix`:
    of the name of the step from row to row.
    """
    steps = item[f"{prefix}y_step"], item["x_step"]
    y_stride, x_stride = strides((item["y_count"], item["x_count"]), steps)
    y = np.arange(y_start, item["y_count"] if y_stop is None else y_stop, dtype=np.int64)
    return (y[:, None] * y_stride + np.arange(item["x_count"], dtype=np.int64) * x_stride).ravel()


class Units:
    """The memories and what the units do to them.

    Attributes
    ----------
    activations: int8 (banks, words, images).
    weights, parameters: uint8 (words, bytes of a word).
    counters: what the instructions executed so far amount to; see `isa.Counter`.
    last_strip: whether the POST executed last has begun its last strip.
    takes_windows: whether a POST that takes windows is at work.
    """

    def __init__(self, config: AcceleratorConfig, images: int, hazards: HazardChecker | None) -> None:
        self.config = config
        self.images = images
        self.hazards = hazards
        self._address_mask = self._mask("base")
        self._array = Array(config, images, partial(self._gather, Opcode.MATRIX))
        self.activations = np.zeros((config.rows, config.activation_depth, images), np.int8)
        self.weights = np.zeros((config.weight_depth, config.weight_word_bytes), np.uint8)
        self.parameters = np.zeros((config.parameter_depth, config.parameter_word_bytes), np.uint8)
        self.accumulators = np.zeros((2, config.cols, config.accumulator_depth, images), np.int32)
        self.clear()

    def clear(self) -> None:
        """Empty the accumulator halves and the way from channel to post unit, and zero the counters."""
        self.full, self.last_strip, self.takes_windows = [False, False], False, False
        self._filled = self._drained = 0
        self.filling = self.draining = 0
        self.windows: deque[NDArray[np.int32]] = deque()
        self.counters = dict.fromkeys(Counter, 0)

    # ---- activation memory ---------------------------------------------------------------------------------

    def _gather(self, unit: Opcode, banks: NDArray[np.int64], words: NDArray[np.int64]) -> NDArray[np.int8]:
        """Bytes for a unit at (banks, words), broadcast together, with the images as a last axis."""
        depth = self.config.activation_depth
        if words.max(initial=0) >= depth:
            raise HaltError(Status.ACTIVATION_ADDRESS)
        if self.hazards:
            self.hazards.reads(unit, banks, words)
        return np.take(self.activations.reshape(-1, self.images), banks * depth + words, axis=0)

    def _write(
        self,
        group: int,
        mask: int,
        words: NDArray[np.int64],
        values: NDArray[np.int8],
        of_group: slice = slice(None),
    ) -> None:
        """Write ``values`` (banks, words, images) to banks `of_group` of the groups of ``mask`` moved up by
        ``group``.
        """
        words = words & self._address_mask
        if words.max(initial=0) >= self.config.activation_depth:
            raise HaltError(Status.ACTIVATION_ADDRESS)
        lanes = self.config.post_lanes
        for target in range(self.config.bank_groups):
            if mask << group >> target & 1:
                banks = range(target * lanes, (target + 1) * lanes)[of_group]
                banks = slice(banks.start, banks.stop)
                self.activations[banks, words] = values
                if self.hazards:
                    self.hazards.writes(banks, words)
        self.counters[Counter.ACTIVATION_WRITES] += len(words)

    def _write_byte(
        self, item: Instruction, number: int, words: NDArray[np.int64], values: NDArray[np.int8]
    ) -> None:
        """Write the byte ``values`` (1, words, images) to the bank `number` behind a POST's first one."""
        lanes = self.config.post_lanes
        group, lane = divmod(item["first_bank"] % lanes + number, lanes)
        self._write(group, item["mask"], words, values, slice(lane, lane + 1))

    # ---- matrix unit ---------------------------------------------------------------------------------------

    def _mask(self, field: str) -> int:
        return (1 << isa.heeded_bits(field, self.config)) - 1

    def matrix(self, item: Instruction) -> Job:
        """MATRIX: fill one accumulator half for each column tile."""
        pixels = rectangle(item) + item["base"] & self._address_mask
        number = math.prod(isa.accumulated(item))
        if number > self.config.accumulator_depth:
            raise HaltError(Status.ACCUMULATOR_ADDRESS)
        if pixels.max() >= self.config.activation_depth:
            raise HaltError(Status.ACTIVATION_ADDRESS)
        self._filled += item["n_tiles"]
        if self.hazards:
            self.hazards.begin(Opcode.MATRIX, until=self._filled)
        tile = 0
        while tile < item["n_tiles"]:
            while self.full[self.filling]:
                yield False
            sums = self._column_tiles(item, pixels, tile)
            for half in sums:
                while self.full[self.filling]:
                    yield False
                self.accumulators[self.filling, :, :number] = half
                self.full[self.filling] = True
                self.filling ^= 1
                yield True
            tile += len(sums)

    def _column_tiles(self, item: Instruction, pixels: NDArray[np.int64], first: int) -> NDArray[np.int32]:
        """Accumulators (tiles, cols, pixels, images) of the next column tiles that share offsets."""
        rows, cols = self.config.rows, self.config.cols
        tile_words = weight_words.half_words(item, self.config)
        start = (item["weight_base"] & self._mask("weight_base")) + first * tile_words
        if start + tile_words > self.config.weight_depth:
            raise HaltError(Status.WEIGHT_ADDRESS)
        values = cols * len(pixels) * self.images
        count = min(item["n_tiles"] - first, (self.config.weight_depth - start) // tile_words)
        count = min(count, max(1, BLOCK_ELEMENTS // values))
        words = self.weights[start : start + count * tile_words].reshape(count, tile_words, -1)
        tiles = [weight_words.passes(item, self.config, words[0])]
        offsets = np.concatenate([step.offsets for step in tiles[0]])
        for more in words[1:]:
            found = weight_words.passes(item, self.config, more)
            if not np.array_equal(np.concatenate([step.offsets for step in found]), offsets):
                break
            tiles.append(found)
        taps = np.stack([np.concatenate([step.weights for step in steps]) for steps in tiles])
        taps = np.moveaxis(taps, -1, 1).reshape(len(tiles) * cols, *taps.shape[1:-1])
        shifts = np.repeat([step.shift for step in tiles[0]], rows)
        addresses = pixels + shifts[:, None] & self._address_mask
        if addresses.max() >= self.config.activation_depth:
            raise HaltError(Status.ACTIVATION_ADDRESS)
        passes = item["k_tiles"] * len(tiles)
        self.counters[Counter.WEIGHT_WORDS] += tile_words * len(tiles)
        self.counters[Counter.MATRIX] += passes * len(pixels)
        self.counters[Counter.ACTIVATION_READS] += passes * len(pixels)
        banks = np.tile(np.arange(rows), item["k_tiles"])
        addresses += offsets[:, None]
        if first == 0 and self.hazards and isa.last_pass_waits(item, self.config):
            early = rows * (item["k_tiles"] - 1)
            self.hazards.reads(Opcode.MATRIX, banks[:early, None], addresses[:early])
            self.hazards.last_pass()
        sums = (
            self._array.windows(item, taps, addresses)
            if item["windows"]
            else self._array.products(taps, banks, addresses)
        )
        return sums.reshape(len(tiles), cols, -1, self.images)

    # ---- channel unit --------------------------------------------------------------------------------------

    def channel(self, item: Instruction) -> Job:
        """CHANNEL, DEPTHWISE: deliver every window of every plane, as `period` groups of lanes, to the post
        unit.
        """
        if self.hazards:
            self.hazards.begin(Opcode.CHANNEL)
        while not self.takes_windows:
            yield False
        weights = self._taps(item) if item.opcode is Opcode.DEPTHWISE else None
        loops = ("plane", "y", "x", "ky", "kx")
        counts = [item["planes" if loop == "plane" else f"{loop}_count"] for loop in loops]
        distances = strides(counts, [item[f"{loop}_step"] for loop in loops])
        distance: dict[str, int] = dict(zip(loops, distances, strict=True))
        taps = windows.taps_of(distance, item)
        at_once = max(1, BLOCK_ELEMENTS // (item["x_count"] * len(taps) * self.config.rows * self.images))
        banks = np.arange(item["period"] * self.config.post_lanes)
        for pixels in windows.lines(distance, item, at_once):
            words = item["base"] + pixels[:, :, None] + taps & self._address_mask
            gathered = self._gather(Opcode.CHANNEL, banks, words[..., None])
            self.counters[Counter.CHANNEL] += words.size
            self.counters[Counter.ACTIVATION_READS] += words.size
            if weights is None:
                found = windows.folded(item, gathered)
            else:
                found = windows.multiplied(item, gathered, weights[banks])
            if found.size:
                self.windows.append(found.reshape(-1, self.config.post_lanes, self.images))
            yield True
            while self.windows:
                yield False
        if self.hazards:
            self.hazards.done(Opcode.CHANNEL)

    def _taps(self, item: Instruction) -> NDArray[np.int8]:
        """The weights of a DEPTHWISE: (banks, rows, columns)."""
        config, each = self.config, isa.tap_words(self.config)
        first = item["parameter_base"] & self._mask("parameter_base")
        last = first + config.bank_groups * each
        if last > config.parameter_depth:
            raise HaltError(Status.PARAMETER_ADDRESS)
        lanes: list[list[int]] = []
        for at in range(first, last, each):
            words = [word.tobytes() for word in self.parameters[at : at + each]]
            lanes += isa.unpack_taps(config, words)
        return np.array(lanes, np.int8).reshape(config.rows, isa.WINDOW, isa.WINDOW)

    # ---- post unit -----------------------------------------------------------------------------------------

    def post(self, item: Instruction) -> Job:
        """POST, ADD: requantise and write what the source delivers."""
        take = {
            Source.MATRIX: self._post_matrix,
            Source.BASIS: self._post_basis,
            Source.CHANNEL: self._post_channel,
            Source.FILL: self._post_fill,
        }[Source(item["source"])]
        if self.hazards:
            self.hazards.begin(Opcode.POST, drained=self._drained, until=0)
        self.takes_windows = item["source"] == Source.CHANNEL
        if self.takes_windows:
            yield True
        for strip in range(item["strips"]):
            self.last_strip = strip == item["strips"] - 1
            if self.last_strip and self.hazards:
                self.hazards.begin_last_strip()
            yield from take(replace(item, fields={**item.fields, **isa.strip_bases(item, strip)}))
        self.takes_windows = False

    def _lane_parameters(self, item: Instruction, numbers: NDArray[np.int64]) -> list[list[isa.Lane]]:
        """The lanes of the parameter words `numbers`, counted from the instruction's first."""
        words = (item["parameter_base"] & self._mask("parameter_base")) + numbers
        if words.max() >= self.config.parameter_depth:
            raise HaltError(Status.PARAMETER_ADDRESS)
        unique, back = np.unique(words, return_inverse=True)
        lanes = [isa.unpack_parameter(self.config, self.parameters[word].tobytes()) for word in unique]
        return [lanes[index] for index in back]

    def _requantise(
        self, item: Instruction, values: NDArray[np.int32], numbers: NDArray[np.int64], behind: int = 0
    ) -> NDArray[np.int8]:
        """``values`` (groups, lanes, …, images) to activations; group i uses the parameters ``numbers[i] +
        behind``. In front of a sum they are clamped as `inner_low` and so on say.
        """
        uniform = item["uniform"] and item["source"] != Source.BASIS
        words = self._lane_parameters(item, (numbers * 0 if uniform else numbers) + behind)
        inner = "inner_" if item.opcode is Opcode.ADD else ""
        return self._clamped(item, *self._factors(words, values), inner)

    def _factors(
        self, words: list[list[isa.Lane]], values: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """``values`` (groups, lanes, …) with the bias added, the multiplier and the shift of `words`."""
        shape = (*values.shape[:2], *(1,) * (values.ndim - 2))
        bias, multiplier, shift = (
            np.array([[getattr(lane, name) for lane in lanes] for lanes in words], np.int64).reshape(shape)
            for name in ("bias", "multiplier", "shift")
        )
        return numerics.wrap(values + bias, self.config.post_bits), multiplier, shift

    def _clamped(self, item: Instruction, biased, multiplier, shift, prefix: str = "") -> NDArray[np.int8]:
        limits = {name: item[prefix + name] for name in ("zero_point", "low", "high")}
        mode = self.config.requantise
        return numerics.requantise(biased, multiplier, shift, mode=mode, **limits).astype(np.int8)

    def _added(
        self, item: Instruction, group: int, words: NDArray[np.int64], results: NDArray[np.int8]
    ) -> NDArray[np.int8]:
        """Results (lanes, pixels, images) of an ADD plus the tensor's bytes in a group at ``words``."""
        config, first = self.config, item["addend_group"] + group
        addend = np.zeros_like(results)
        if first < config.bank_groups:
            banks = np.arange(first * config.post_lanes, (first + 1) * config.post_lanes)
            addend = self._gather(Opcode.POST, banks[:, None], (words & self._address_mask)[None])
        elif (words & self._address_mask).max() >= config.activation_depth:
            raise HaltError(Status.ACTIVATION_ADDRESS)
        mode = config.requantise
        of_scaled, of_sum = self._lane_parameters(item, np.arange(-isa.ADDEND_WORDS, 0))
        terms = [values[None].astype(np.int64) for values in (addend, results)]
        other, one = terms if item["scale_result"] else reversed(terms)
        scaled = numerics.scale(*self._factors([of_scaled], numerics.raised(one, 0, mode)), mode)
        total = numerics.wrap(scaled, config.post_bits) + numerics.halved(other, mode)
        total = numerics.wrap(total, config.post_bits)
        return self._clamped(item, *self._factors([of_sum], total))[0]

    def _post_matrix(self, item: Instruction) -> Job:
        pixels = rectangle(item)
        if len(pixels) > self.config.accumulator_depth:
            raise HaltError(Status.ACCUMULATOR_ADDRESS)
        lanes = self.config.post_lanes
        packed = isa.packs(item, self.config)
        per_chunk = self.config.groups_of_byte if packed else 1
        per_half = isa.groups_per_half(item, self.config)
        behind = self._words_behind(item)
        for first in range(0, item["chunks"], per_half):
            while not self.full[self.draining]:
                yield False
            numbers = np.arange(first * per_chunk, min(first + per_half, item["chunks"]) * per_chunk)
            half = self.accumulators[self.draining, : len(numbers) * lanes, : len(pixels)]
            half = numerics.wrap(half.astype(np.int64), self.config.accumulator_width)
            groups = half.reshape(len(numbers), lanes, len(pixels), self.images)
            results = np.empty(groups.shape, np.int8)
            for words in np.unique(behind):
                chosen = behind == words
                results[:, :, chosen] = self._requantise(item, groups[:, :, chosen], numbers, int(words))
            if packed:
                results = pack_signs(results.reshape(-1, len(pixels), self.images))[:, None]
            for index in range(len(results)):
                number, values = first + index, results[index]
                plane, group = divmod(number, item["period"])
                words = item["base"] + plane * item["plane_step"] + pixels
                if item.opcode is Opcode.ADD:
                    start = item["addend_base"] + plane * item["addend_plane_step"]
                    values = self._added(item, group, start + rectangle(item, prefix="addend_"), values)
                if packed:
                    self._write_byte(item, group, words, values)
                else:
                    self._write(group, item["mask"], words, values)
            self._release()
            yield True

    def _release(self) -> None:
        """The half has been drained."""
        self.full[self.draining] = False
        self.draining ^= 1
        self._drained += 1

    def _words_behind(self, item: Instruction) -> NDArray[np.int64]:
        """By how many words each pixel's parameters lie behind those of pixels inside, int64 (pixels,)."""
        height, width = item["y_count"], item["x_count"]
        found = np.zeros((height, width), np.int64)
        if self.config.has_packing:
            sides = {
                Edge.LEFT: np.s_[:, 0],
                Edge.RIGHT: np.s_[:, -1],
                Edge.TOP: np.s_[0],
                Edge.BOTTOM: np.s_[-1],
            }
            for edge, pixels in sides.items():
                if item["edges"] >> edge & 1:
                    found[pixels] += EDGE_CLASSES[edge] * item["class_words"]
        return found.ravel()

    def _post_basis(self, item: Instruction) -> Job:
        pixels, inputs = rectangle(item), isa.basis_inputs(item)
        if item["y_count"] * inputs > self.config.accumulator_depth:
            raise HaltError(Status.ACCUMULATOR_ADDRESS)
        lanes, per_half = self.config.post_lanes, isa.basis_groups(self.config)
        starts = np.arange(item["x_count"]) * item["stride"]
        for first in range(0, item["chunks"], per_half):
            while not self.full[self.draining]:
                yield False
            for number in range(first, min(first + per_half, item["chunks"])):
                columns = slice(
                    (number - first) * BASIS_SIZE * lanes, (number - first + 1) * BASIS_SIZE * lanes
                )
                half = self.accumulators[self.draining, columns, : item["y_count"] * inputs]
                sums = numerics.wrap(half.astype(np.int64), numerics.FACTORED_BITS)
                sums = sums.reshape(BASIS_SIZE, lanes, item["y_count"], inputs, self.images)
                rows = self._lane_parameters(item, np.arange(BASIS_SIZE) + number * BASIS_SIZE)
                basis = np.array([[lane.basis for lane in row] for row in rows], np.int64)
                window = [(BASIS_SIZE - 1, 0)] if item["single"] else [(s, s) for s in range(BASIS_SIZE)]
                combined = sum(
                    np.einsum("jlyxi,jl->lyxi", sums[:, :, :, starts + place], basis[:, :, s])
                    for s, place in window
                )
                values = numerics.wrap(combined, numerics.COMBINED_BITS).reshape(1, lanes, -1, self.images)
                last_word = np.array([number * BASIS_SIZE + BASIS_SIZE - 1])
                activations = self._requantise(item, values, last_word)[0]
                plane, group = divmod(number, item["period"])
                self._write(
                    group, item["mask"], item["base"] + plane * item["plane_step"] + pixels, activations
                )
            self._release()
            yield True

    def _post_channel(self, item: Instruction) -> Job:
        pixels = rectangle(item)
        period = item["period"]
        done, total = 0, item["chunks"] * len(pixels) * period
        while done < total:
            while not self.windows:
                yield False
            block = self.windows.popleft()
            if done + len(block) > total:  # the rest is for the next instruction
                self.windows.appendleft(block[total - done :])
                block = block[: total - done]
            element = np.arange(done, done + len(block))
            group = element % period
            plane, pixel = np.divmod(element // period, len(pixels))
            words = item["base"] + plane * item["plane_step"] + pixels[pixel]
            values = self._requantise(item, block, plane * period + group)
            if isa.packs(item, self.config):
                per_byte = self.config.groups_of_byte
                signs = pack_signs(values.reshape(-1, per_byte * self.config.post_lanes, self.images), 1)
                for byte in range(period // per_byte):
                    chosen = group[::per_byte] == byte * per_byte
                    self._write_byte(item, byte, words[::per_byte][chosen], signs[chosen].transpose(1, 0, 2))
                done += len(block)
                yield True
                continue
            for g in range(period):
                chosen = group == g
                if chosen.any():
                    self._write(g, item["mask"], words[chosen], values[chosen].transpose(1, 0, 2))
            done += len(block)
            yield True

    def _post_fill(self, item: Instruction) -> Job:
        rows = max(1, BLOCK_ADDRESSES // item["x_count"])
        value = np.full((1, 1, 1), item["zero_point"], np.int8)
        for plane in range(item["chunks"]):
            base = item["base"] + plane * item["plane_step"]
            for y in range(0, item["y_count"], rows):
                words = base + rectangle(item, y, min(y + rows, item["y_count"]))
                self._write(0, item["mask"], words, value)
                yield True
