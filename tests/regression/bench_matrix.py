"""Cocotb tests of the matrix unit: MATRIX instructions, accumulators against PyTorch."""

from collections import deque

import cocotb
import numpy as np
from case_files import load_cases
from cocotb.triggers import ClockCycles, FallingEdge
from cocotb_bench import bench_parameters
from matrix_cases import plain_words
from stream_drivers import start_clock
from unit_driver import UnitDriver, unpacked

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import Kind, Opcode
from popshift.hw.matrix.accumulators import Accumulators

_FIELDS = tuple(isa.PLACEMENTS[Opcode.MATRIX])
_EXTREMES = {Kind.DENSE: (-128, 127), Kind.SHIFT: (-64, 64)}
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
        offsets, weights = np.zeros(shape[0], np.int64), np.full(shape, weight, np.int8)
        await self.load_weights(0, plain_words(self.config, self.plain_kind, offsets, weights))
        return self.plain_kind

    @property
    def plain_kind(self) -> Kind:
        """Weights of one number each."""
        return Kind.DENSE if "mul" in self.config.pe_kinds else Kind.SHIFT

    async def run(self, case) -> np.ndarray:
        """Execute an instruction; gives the accumulators, (column tiles, pixels, cols)."""
        config, pixels = self.config, case["x_count"] * case["y_count"]
        item = isa.instruction(Opcode.MATRIX, **{name: case[name] for name in _FIELDS})
        await self.command(item)
        addresses = [(chunk, pixel) for chunk in range(config.chunks) for pixel in range(pixels)]
        lanes, half_count = config.post_lanes, case["n_tiles"]
        sums = np.zeros((half_count, pixels, config.cols), np.int64)
        ready, full, drained, delay = 0, 0, 0, 0
        todo: deque[tuple[int, int]] = deque()
        arriving: deque[tuple[int, int, int] | None] = deque([None] * Accumulators.DRAIN_LATENCY)
        watchdog = 200 + half_count * (sum(case["delays"]) + case["k_tiles"] * (pixels + 40) + len(addresses))
        for _ in range(int(watchdog)):
            arrived = arriving.popleft()
            if arrived is not None:
                value = unpacked(self.get("drained"), config.accumulator_width, lanes)
                n, chunk, pixel = arrived
                sums[n, pixel, chunk * lanes : (chunk + 1) * lanes] = value
            self.set("release", 0)
            if ready > drained and not todo and delay >= 0:
                if delay < case["delays"][drained]:
                    delay += 1
                else:
                    todo, delay = deque(addresses), -1
            issued = None
            if todo:
                chunk, pixel = todo.popleft()
                self.set("drain_chunk", chunk)
                self.set("drain_address", pixel)
                self.set("drain_half", self.half)
                issued = (drained, chunk, pixel)
                if not todo:  # the post unit gives a half free with the last address
                    self.set("release", 1)
                    drained, delay, self.half = drained + 1, 0, self.half ^ 1
            arriving.append(issued)
            await self.step()
            ready, full = (
                full,
                full + self.get("full"),
            )  # the post unit counts a half a cycle behind the strobe
            if drained == half_count and not any(arriving):
                break
        assert drained == half_count, f"{full} halves were filled, {half_count} are due"
        assert full == half_count and self.get("idle") == 1 and self.get("busy_halves") == 0
        return sums


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
        await driver.load_weights(case["weight_base"], case["words"])
        found = await driver.run(case)
        wrong = np.argwhere(found != case["sums"])
        told = {name: value for name, value in case.items() if np.ndim(value) == 0}
        assert not len(wrong), f"{len(wrong)} sums differ, first (tile, pixel, column) {wrong[0]}; {told}"
        assert driver.get("errors") == 0, told


@cocotb.test(timeout_time=50, timeout_unit="ms")
async def accumulators_take_many_passes(dut):
    """More passes than the memory has weights, which all are the same: sums up to the accumulators' limit."""
    await start_clock(dut)
    driver = MatrixDriver(dut)
    config, most = driver.config, bench_parameters()["passes"]
    await driver.load_image(np.full((config.rows, 4), -128, np.int8))
    least, largest = _EXTREMES[driver.plain_kind]
    for weight, passes in ((least, most), (largest, most // 8)):
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
        sums = passes * config.rows * -128 * weight
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
        driver.half ^= 1
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
        for _ in range(30):
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
    fields = dict.fromkeys(_FIELDS, 1) | {"weight_base": 0}
    for kind in range(16):
        if kind in isa.kinds(driver.config):
            continue
        await driver.command(isa.instruction(Opcode.MATRIX, **(fields | {"kind": kind})))
        assert driver.get("illegal") == 1, kind
        for _ in range(30):
            await driver.step()
            assert driver.get("idle") == 1 and driver.get("busy_halves") == 0 and driver.get("illegal") == 0
