"""Cocotb tests of the matrix unit: MATRIX instructions, accumulators against PyTorch."""

from collections import deque
from itertools import groupby

import cocotb
import numpy as np
from case_files import load_cases
from cocotb.triggers import ClockCycles, FallingEdge
from cocotb_bench import bench_parameters
from matrix_words import plain_words
from stream_drivers import start_clock
from unit_driver import UnitDriver, unpacked

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Kind, Opcode
from popshift.hw.matrix.accumulators import Accumulators

_FIELDS = tuple(isa.PLACEMENTS[Opcode.MATRIX])
_EXTREMES = {
    Kind.DENSE: ((-128, 128 * 128), (127, -127 * 128)),
    Kind.SHIFT: ((-64, 64 * 128), (64, -64 * 128)),
    Kind.XNOR: ((0x80, 16), (0x7F, 0)),
}
"""Weights, and what one of them adds for an activation of -128."""
_INPUTS = (
    *("release", "drain_address", "drain_chunk", "drain_half", "write_mask", "write_address", "write_data"),
    *("weight_write", "weight_write_address", "weight_write_data"),
)


class MatrixDriver(UnitDriver):
    """Loads the memories beside the unit and drains its accumulators."""

    def __init__(self, dut) -> None:
        self.config = AcceleratorConfig.from_dict(bench_parameters()["config"])
        super().__init__(dut, "matrix", _INPUTS)
        self.half = 0

    def next_half(self) -> None:
        """All of one has been drained."""
        self.half = (self.half + 1) % self.config.accumulator_halves

    async def load_image(self, image: np.ndarray) -> None:
        """`image`: int8 (rows, words)."""
        lanes = self.config.post_lanes
        for group in range(self.config.bank_groups):
            self.set("write_mask", (1 << lanes) - 1 << group * lanes)
            for word in range(image.shape[1]):
                self.set("write_address", word)
                data = image[group * lanes : (group + 1) * lanes, word].tobytes()
                self.set("write_data", int.from_bytes(data, "little"))
                await self.step()
        self.set("write_mask", 0)

    async def load_weights(self, first: int, words: np.ndarray) -> None:
        """Words as the link carries them, uint8 (words, bytes of a word)."""
        self.set("weight_write", 1)
        for index, word in enumerate(words):
            self.set("weight_write_address", first + index)
            self.set("weight_write_data", int.from_bytes(word.tobytes(), "little"))
            await self.step()
        self.set("weight_write", 0)

    async def load_everywhere(self, weight: int) -> Kind:
        """The same weight and offset 0 in every word; gives the kind of instruction that they are for."""
        shape = (self.config.weight_depth, self.config.cols)
        offsets, weights = np.zeros(shape[0], np.int64), np.full(shape, weight)
        await self.load_weights(0, plain_words(self.config, self.plain_kind, offsets, weights))
        return self.plain_kind

    @property
    def plain_kind(self) -> Kind:
        """Weights of one number, or one byte, each."""
        return next(kind for kind in isa.kinds(self.config) if kind in _EXTREMES)

    def _hand_over(self, cases):
        """A step at a time: each instruction as soon as the unit is free, as the sequencer does it."""
        for case in cases:
            while self.get("idle") == 0:
                yield
            item = isa.instruction(Opcode.MATRIX, **{name: case[name] for name in _FIELDS if name in case})
            self.set("command_write", 1)
            for index, word in enumerate(isa.encode(item)):
                self.set("command_index", index)
                self.set("command_word", word)
                yield
            self.set("command_write", 0)
            self.set("go", 1)
            yield
            self.set("go", 0)
            yield

    async def run(self, cases) -> list[np.ndarray]:
        """Execute instructions without a pause; gives each one's sums, (column tiles, pixels, cols)."""
        config = self.config
        halves = [(case, n) for case in cases for n in range(case["n_tiles"])]
        lanes, found = (
            config.post_lanes,
            [np.zeros((pixels(case), config.cols), np.int64) for case, _ in halves],
        )
        ready, full, drained, delay = 0, 0, 0, 0
        todo: deque[tuple[int, int, int]] = deque()
        arriving: deque[tuple[int, int, int] | None] = deque([None] * Accumulators.DRAIN_LATENCY)
        hand_over = self._hand_over(cases)
        for _ in range(sum(200 + longest(config, case) for case in cases)):
            next(hand_over, None)
            arrived = arriving.popleft()
            if arrived is not None:
                value = unpacked(self.get("drained"), config.accumulator_width, lanes)
                number, chunk, pixel = arrived
                found[number][pixel, chunk * lanes : (chunk + 1) * lanes] = value
            self.set("release", 0)
            if ready > drained and not todo and delay >= 0:
                case, n = halves[drained]
                if delay < case["delays"][n]:
                    delay += 1
                else:
                    delay = -1
                    todo.extend(
                        (drained, c, pixel) for c in range(config.chunks) for pixel in range(pixels(case))
                    )
            issued = None
            if todo:
                issued = number, chunk, pixel = todo.popleft()
                self.set("drain_chunk", chunk)
                self.set("drain_address", pixel)
                self.set("drain_half", self.half)
                if not todo:  # the post unit gives a half free with the last address
                    self.set("release", 1)
                    drained, delay = drained + 1, 0
                    self.next_half()
            arriving.append(issued)
            await self.step()
            # The post unit counts a half a cycle behind the strobe.
            ready, full = full, full + self.get("full")
            if drained == len(halves) and not any(arriving):
                break
        assert drained == len(halves), f"{full} halves were filled, {len(halves)} are due"
        assert full == len(halves) and self.get("idle") == 1 and self.get("busy_halves") == 0
        ends = np.cumsum([case["n_tiles"] for case in cases])[:-1]
        return [np.stack(found[start:stop]) for start, stop in zip([0, *ends], [*ends, None], strict=True)]


def pixels(case) -> int:
    """Of an instruction's rectangle."""
    return case["x_count"] * case["y_count"]


def longest(config: AcceleratorConfig, case) -> int:
    """Cycles that an instruction may take at most."""
    a_half = case["k_tiles"] * (pixels(case) + 40) + config.chunks * pixels(case)
    return case["n_tiles"] * a_half + int(sum(case["delays"])) * case["n_tiles"]


def told(case) -> dict:
    """What a message says of a case."""
    return {name: value for name, value in case.items() if np.ndim(value) == 0}


async def check(driver: MatrixDriver, cases) -> None:
    """Run `cases` without a pause; their weights are loaded before."""
    for case in cases:
        await driver.load_weights(case["weight_base"], case["words"])
    for case, found in zip(cases, await driver.run(cases), strict=True):
        wrong = np.argwhere(found != case["sums"])
        where = f"{len(wrong)} sums differ, first (tile, pixel, column) {wrong[0]}" if len(wrong) else ""
        assert not len(wrong), f"{where}; {told(case)}"
    assert driver.get("errors") == 0, [told(case) for case in cases]


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def accumulators_equal_pytorch(dut):
    await start_clock(dut)
    driver = MatrixDriver(dut)
    (images,) = load_cases(bench_parameters()["images"])
    loaded = ""
    for case in load_cases(bench_parameters()["matrix"]):
        if case["image"] != loaded:
            loaded = case["image"]
            await driver.load_image(images[loaded])
        await check(driver, [case])


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def kinds_change_from_one_instruction_to_the_next(dut):
    await start_clock(dut)
    driver = MatrixDriver(dut)
    (images,) = load_cases(bench_parameters()["images"])
    cases = load_cases(bench_parameters()["sequences"])
    for _, members in groupby(cases, key=lambda case: case["sequence"]):
        members = list(members)
        await driver.load_image(images[members[0]["image"]])
        await check(driver, members)


@cocotb.test(timeout_time=50, timeout_unit="ms")
async def accumulators_take_many_passes(dut):
    """More passes than the memory has weights, which all are the same: sums up to the accumulators' limit."""
    await start_clock(dut)
    driver = MatrixDriver(dut)
    config, most = driver.config, bench_parameters()["passes"]
    await driver.load_image(np.full((config.rows, 4), -128, np.int8))
    for (weight, adds), passes in zip(_EXTREMES[driver.plain_kind], (most, most // 8), strict=True):
        kind = await driver.load_everywhere(weight)
        item = isa.instruction(
            Opcode.MATRIX,
            **{"kind": kind, "x_count": 2, "y_count": 1, "k_tiles": passes, "n_tiles": 1},
            **{"weight_base": 0, "base": 0, "x_step": 1, "y_step": 0},
        )
        await driver.command(item)
        while driver.get("idle") == 0:
            await ClockCycles(dut.clk, 500)
            await FallingEdge(dut.clk)
        sums = passes * config.rows * adds
        limit = 1 << (config.accumulator_width - 1)
        assert -limit <= sums < limit
        driver.set("drain_half", driver.half)
        for chunk in range(config.chunks):
            for pixel in range(2):
                driver.set("drain_chunk", chunk)
                driver.set("drain_address", pixel)
                for _ in range(Accumulators.DRAIN_LATENCY):
                    await driver.step()
                width = config.accumulator_width
                assert set(unpacked(driver.get("drained"), width, config.post_lanes)) == {sums}
        driver.next_half()
        driver.set("release", 1)
        await driver.step()
        driver.set("release", 0)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def bad_addresses_are_told(dut):
    await start_clock(dut)
    driver = MatrixDriver(dut)
    config = driver.config
    kind = await driver.load_everywhere(1)
    last = config.activation_depth - 1
    good = {"kind": kind, "x_count": 2, "y_count": 1, "k_tiles": 1, "n_tiles": 1}
    good |= {"weight_base": 0, "base": last - 1, "x_step": 1, "y_step": 0}
    changes = [
        ({}, 0),
        ({"base": last}, 1),
        ({"x_step": 2}, 1),
        ({"weight_base": config.weight_depth - config.rows}, 0),
        ({"weight_base": config.weight_depth - config.rows + 1}, 2),
        ({"x_count": config.accumulator_depth, "x_step": 0}, 0),
        ({"x_count": config.accumulator_depth + 1, "x_step": 0}, 4),
    ]
    if config.rebuild:
        rebuild = {"kind": Kind.REBUILD, "k_tiles": 3, "replays": 3, "again_step": -1}
        words = config.rows + isa.BASIS_WORDS
        changes += [
            (rebuild, 0),
            (rebuild | {"again_step": 1}, 1),
            (rebuild | {"again_step": -last}, 1),
            (rebuild | {"weight_base": config.weight_depth - words}, 0),
            (rebuild | {"weight_base": config.weight_depth - words + 1}, 2),
            (rebuild | {"weight_base": config.weight_depth - isa.BASIS_WORDS + 1}, 2),
        ]
    for change, errors in changes:
        await driver.command(isa.instruction(Opcode.MATRIX, **(good | change)))
        while driver.get("idle") == 0 or driver.get("busy_halves") == 0:
            await driver.step()
        for _ in range(30 + config.accumulator_depth):  # the unit is idle when the last pass has begun
            await driver.step()
        assert driver.get("errors") == errors, (change, driver.get("errors"))
        for name in ("release", "clear_errors"):
            driver.set(name, 1)
        await driver.step()
        for name in ("release", "clear_errors"):
            driver.set(name, 0)
        await driver.step()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def kinds_that_are_not_built_are_illegal(dut):
    await start_clock(dut)
    driver = MatrixDriver(dut)
    await driver.load_everywhere(1)
    fields = dict.fromkeys(_FIELDS, 1) | {"weight_base": 0, "windows": 0}
    for kind in range(16):
        if kind in isa.kinds(driver.config):
            continue
        await driver.command(isa.instruction(Opcode.MATRIX, **(fields | {"kind": kind})))
        assert driver.get("illegal") == 1, kind
        for _ in range(30):
            await driver.step()
            assert driver.get("idle") == 1 and driver.get("busy_halves") == 0 and driver.get("illegal") == 0
