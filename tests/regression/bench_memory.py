"""Cocotb tests of the memories: latency, masks, lanes, odd sizes; random traffic against a Python model."""

import random
from collections import deque

import cocotb
from cocotb_bench import bench_parameters
from stream_drivers import start_clock
from unit_benches import RAM_SHAPES
from unit_driver import UnitDriver

from popshift.hw.config import PAIR, AcceleratorConfig
from popshift.hw.memory.activations import ActivationMemory
from popshift.hw.memory.ram import Ram

CYCLES = 400
WRITE_REGISTER = 1
"""Cycles by which the activation memory delays a write."""


class MemoryModel:
    """Words and when they were written; a read in the cycle of the write may give either value."""

    def __init__(self, depth: int) -> None:
        self.words: list[int | None] = [None] * depth
        self._pending: deque[tuple[int, int] | None] = deque()

    def cycle(self, write: tuple[int, int] | None, read: int, delay: int) -> int | None:
        """What the read must give; None if anything."""
        self._pending.append(write)
        now = self._pending.popleft() if len(self._pending) > delay else None
        value = self.words[read]
        if now is not None:
            self.words[now[0]] = now[1]
            if now[0] == read:
                return None
        return value


def _address(depth: int) -> int:
    """Both ends and the beginning of the upper part often, few others."""
    upper = 1 << ((depth - 1).bit_length() - 1)
    near = random.randrange(min(depth, 8))
    return random.choice([0, depth - 1, random.randrange(depth), near, min(upper + near, depth - 1)])


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def rams_hold_what_was_written(dut):
    await start_clock(dut)
    inputs = ("read_address", "write_enable", "write_address", "write_data")
    drivers = {(w, d): UnitDriver(dut, f"ram_{w}_{d}", inputs, commands=False) for w, d in RAM_SHAPES}
    models = {shape: MemoryModel(shape[1]) for shape in RAM_SHAPES}
    due: dict[tuple[int, int], deque[int | None]] = {
        shape: deque([None] * Ram.LATENCY) for shape in RAM_SHAPES
    }
    checked = 0
    for _ in range(CYCLES):
        for (width, depth), driver in drivers.items():
            wanted = due[width, depth].popleft()
            if wanted is not None:
                assert driver.get("read_data") == wanted, (width, depth)
                checked += 1
            write = (_address(depth), random.getrandbits(width)) if random.random() < 0.5 else None
            read = _address(depth)
            driver.set("read_address", read)
            driver.set("write_enable", int(write is not None))
            driver.set("write_address", write[0] if write else _address(depth))
            driver.set("write_data", write[1] if write else random.getrandbits(width))
            due[width, depth].append(models[width, depth].cycle(write, read, 0))
        await next(iter(drivers.values())).step()
    assert checked > CYCLES


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def every_bank_has_its_own_address_and_mask(dut):
    await start_clock(dut)
    config = AcceleratorConfig.from_dict(bench_parameters()["config"])
    names = ("read_address", "write_mask", "write_address", "write_data")
    driver = UnitDriver(dut, "banks", names, commands=False)
    bits = (config.activation_depth - 1).bit_length()
    models = [MemoryModel(config.activation_depth) for _ in range(config.rows)]
    due: deque[list[int | None]] = deque([[None] * config.rows] * ActivationMemory.LATENCY)
    checked = written = 0
    for _ in range(CYCLES):
        data = driver.get("read_data")
        for bank, wanted in enumerate(due.popleft()):
            if wanted is not None:
                assert data >> 8 * bank & 0xFF == wanted, bank
                checked += 1
        mask = random.getrandbits(config.rows) if random.random() < 0.7 else 0
        address, lanes = _address(config.activation_depth), random.getrandbits(8 * config.post_lanes)
        reads = [_address(config.activation_depth) for _ in range(config.rows)]
        driver.set("write_mask", mask)
        driver.set("write_address", address)
        driver.set("write_data", lanes)
        driver.set("read_address", sum(read << bits * bank for bank, read in enumerate(reads)))
        if config.paired_banks:
            reads = [reads[bank // PAIR * PAIR] for bank in range(config.rows)]
        expected = []
        for bank, (model, read) in enumerate(zip(models, reads, strict=True)):
            byte = lanes >> 8 * (bank % config.post_lanes) & 0xFF
            write = (address, byte) if mask >> bank & 1 else None
            byte = model.cycle(write, read, WRITE_REGISTER)
            taken = config.paired_banks and written >> bank // PAIR * PAIR & (1 << PAIR) - 1
            expected.append(None if taken else byte)
        written = mask
        due.append(expected)
        await driver.step()
    assert checked > CYCLES
