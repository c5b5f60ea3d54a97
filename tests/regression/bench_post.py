"""Cocotb tests of the post unit: what it writes, in order, for values from Python models of its sources."""

import random
from collections import deque

import cocotb
import numpy as np
from case_files import load_cases
from cocotb_bench import bench_parameters
from stream_drivers import start_clock
from unit_driver import UnitDriver, packed

from popshift.hw import isa
from popshift.hw.channel.unit import VALUES_LATENCY
from popshift.hw.config import AcceleratorConfig
from popshift.hw.isa import EDGE_CLASSES, Edge, Opcode, Source
from popshift.hw.matrix.accumulators import Accumulators

_INPUTS = (
    *("full", "drained", "window", "window_values"),
    *("parameter_write", "parameter_write_address", "parameter_write_data"),
)
_AFTER_ACTIVE = 6
"""Cycles from `channel_active` to the first window, at least."""


class PostDriver(UnitDriver):
    """Plays the matrix unit's accumulators and the channel unit, and records what is written."""

    def __init__(self, dut) -> None:
        self.config = AcceleratorConfig.from_dict(bench_parameters()["config"])
        super().__init__(dut, "post", _INPUTS)
        self.half = 0

    async def load_parameters(self, first: int, words: np.ndarray) -> None:
        self.set("parameter_write", 1)
        for index, word in enumerate(words):
            self.set("parameter_write_address", first + index)
            self.set("parameter_write_data", int.from_bytes(word.tobytes(), "little"))
            await self.step()
        self.set("parameter_write", 0)

    async def run(self, case) -> list[list[int]]:
        """Execute an instruction; gives its writes: mask, lanes, address, and the byte of each lane."""
        names = isa.PLACEMENTS[Opcode.POST]
        item = isa.instruction(Opcode.POST, **{name: case[name] for name in names})
        await self.command(item)
        source = Source(case["source"])
        play = {Source.CHANNEL: self._windows, Source.FILL: self._nothing}.get(source, self._halves)
        peer = play(case, item)
        writes, lanes = [], self.config.post_lanes
        watchdog = 200 + 4 * (8 + case["pauses"]) * case["values"].shape[0] * case["values"].shape[1]
        for _ in range(watchdog):
            next(peer)
            await self.step()
            mask = self.get("write_mask")
            if mask:
                chosen = self.get("write_lanes")
                data = np.frombuffer(self.get("write_data").to_bytes(lanes, "little"), np.int8)
                data = [byte if chosen >> lane & 1 else 0 for lane, byte in enumerate(data.tolist())]
                writes.append([mask, chosen, self.get("write_address"), *data])
            if self.get("idle") == 1:
                break
        else:
            raise AssertionError(f"the unit is not idle after {watchdog} cycles")
        for name in ("full", "window"):
            self.set(name, 0)
        for _ in range(3):
            await self.step()
            assert self.get("write_mask") == 0, "it wrote after it was idle"
        return writes

    def _nothing(self, case, item):
        while True:
            yield

    def _halves(self, case, item):
        """Hand over halves, at most two ahead; answer every address `DRAIN_LATENCY` cycles later."""
        chunks, halves = self.config.chunks, self.config.accumulator_halves
        due = case["strips"] * -(-case["chunks"] // isa.groups_per_half(item, self.config))
        pause = random.Random(case["seed"])
        handed, released, wait = 0, 0, 0
        answers: deque[int] = deque([0] * Accumulators.DRAIN_LATENCY)
        while True:
            self.set("drained", answers.popleft())
            if self.get("release"):  # with the first address of the next half
                released, self.half = released + 1, (self.half + 1) % halves
            half = self.get("drain_half")
            group = released * chunks + self.get("drain_chunk")
            pixel = self.get("drain_address")
            known = group < len(case["values"]) and pixel < case["values"].shape[1] and half == self.half
            width = self.config.accumulator_width
            answers.append(
                packed(case["values"][group, pixel], width) if known else random.getrandbits(width)
            )
            ready = handed < due and handed - released < halves and wait == 0
            self.set("full", int(ready))
            if ready:
                handed, wait = handed + 1, pause.randint(0, 4 * case["pauses"])
            elif wait:
                wait -= 1
            yield

    def _windows(self, case, item):
        """Windows at least `period` cycles apart, while they are wanted; values behind the group."""
        pause, period = random.Random(case["seed"]), case["period"]
        groups = (
            case["values"]
            .reshape(case["strips"] * case["chunks"], period, -1, self.config.post_lanes)
            .transpose(0, 2, 1, 3)
        )
        windows = groups.reshape(-1, period, self.config.post_lanes)
        strobed, wait = -1, _AFTER_ACTIVE
        asked: deque[int] = deque([0] * VALUES_LATENCY)
        while True:
            self.set("window_values", asked.popleft())
            group, held = self.get("window_group"), strobed
            known = 0 <= held < len(windows) and group < period
            bits = self.config.window_bits
            asked.append(packed(windows[held, group], bits) if known else random.getrandbits(bits))
            active = self.get("channel_active") == 1
            give = active and wait == 0 and strobed + 1 < len(windows)
            self.set("window", int(give))
            if give:
                strobed, wait = strobed + 1, period - 1 + pause.randint(0, case["pauses"])
            elif wait and active:
                wait -= 1
            yield


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def writes_are_what_the_definitions_say(dut):
    await start_clock(dut)
    driver = PostDriver(dut)
    for case in load_cases(bench_parameters()["post"]):
        await driver.load_parameters(case["parameter_base"], case["parameters"])
        told = {name: value for name, value in case.items() if np.ndim(value) == 0}
        found, wanted = await driver.run(case), case["writes"].tolist()
        for index, (got, want) in enumerate(zip(found, wanted, strict=False)):
            assert got == want, (
                f"write {index} (mask, lanes, address, bytes): {got} instead of {want}; {told}"
            )
        assert len(found) == len(wanted), told
        assert driver.get("errors") == 0, told


def whole(config: AcceleratorConfig) -> dict:
    """A FILL of the last two words, with all that `PostDriver.run` takes."""
    values = np.zeros((1, config.accumulator_depth + 1, config.post_lanes))
    zeros = ("uniform", "parameter_base", "y_step", "plane_step", "single", "packed", "edges", "class_words")
    return {
        **dict.fromkeys((*zeros, "first_bank", "pauses"), 0),
        **dict.fromkeys(("period", "chunks", "mask", "y_count", "strips", "x_step", "stride", "seed"), 1),
        **{"source": Source.FILL, "zero_point": 5, "low": -128, "high": 127, "x_count": 2},
        **{"base": config.activation_depth - 2, "values": values},
    }


def outside(config: AcceleratorConfig) -> list[tuple[dict, int, int]]:
    """Changes of `whole`, the errors that they lead to, and how many words are written all the same."""
    last, parameters, pixels = config.activation_depth - 1, config.parameter_depth, config.accumulator_depth
    matrix = {"source": Source.MATRIX, "base": 0, "x_step": 0}
    found = [
        ({}, 0, 2),
        ({"base": last}, 2, 1),
        ({"chunks": 2, "plane_step": 1}, 2, 3),
        ({"strips": 2}, 2, 3),
        (matrix | {"parameter_base": parameters - 1}, 0, 2),
        (matrix | {"parameter_base": parameters}, 1, 2),
        (matrix | {"x_count": pixels}, 0, pixels),
        (matrix | {"x_count": pixels + 1}, 4, pixels + 1),
    ]
    if config.has_basis:
        basis = matrix | {"source": Source.BASIS, "x_count": 1}
        found += [
            (basis | {"parameter_base": parameters - 3}, 0, 1),
            (basis | {"parameter_base": parameters - 2}, 1, 1),
            (basis | {"x_count": pixels - 2}, 0, pixels - 2),
            (basis | {"x_count": pixels - 1}, 4, pixels - 1),
            (basis | {"x_count": pixels, "single": 1}, 0, pixels),
            (basis | {"x_count": pixels // 2 + 1, "single": 1, "stride": 2}, 4, pixels // 2 + 1),
        ]
    if config.has_packing:
        packed = matrix | {"packed": 1}
        top = matrix | {"y_count": 2, "edges": 1 << Edge.TOP, "class_words": 5}
        of_top = parameters - 1 - 5 * EDGE_CLASSES[Edge.TOP]
        found += [
            (packed | {"parameter_base": parameters - config.groups_of_byte}, 0, 2),
            (packed | {"parameter_base": parameters - config.groups_of_byte + 1}, 1, 2),
            (packed | {"base": last, "x_step": 1}, 2, 1),
            (packed | {"x_count": pixels}, 0, pixels),
            (packed | {"x_count": pixels + 1}, 4, pixels + 1),
            (top | {"parameter_base": of_top}, 0, 4),
            (top | {"parameter_base": of_top + 1}, 1, 4),
        ]
    return found


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def bad_addresses_are_told_and_not_written(dut):
    await start_clock(dut)
    driver = PostDriver(dut)
    good = whole(driver.config)
    for change, errors, count in outside(driver.config):
        writes = await driver.run(good | change)
        assert (driver.get("errors"), len(writes)) == (errors, count), change
        driver.set("clear_errors", 1)
        await driver.step()
        driver.set("clear_errors", 0)


def illegal(config: AcceleratorConfig) -> list[dict[str, int]]:
    """Sources that are not built; too long a period; signs of windows that fill no bytes; signs of BASIS."""
    long = config.bank_groups + 1
    found = [{"source": source} for source in Source if source not in isa.sources(config)]
    found += [{"source": source, "period": long, "packed": 0} for source in isa.sources(config)]
    found.append({"source": Source.FILL, "period": long, "packed": 1})
    if config.has_packing:
        groups = config.groups_of_byte
        found.append({"source": Source.MATRIX, "period": config.rows + 1, "packed": 1})
        found += [
            {"source": Source.CHANNEL, "period": period, "packed": 1}
            for period in range(1, 2 * config.bank_groups + 1)
            if period % groups or period >= long
        ]
        if config.has_basis:
            found.append({"source": Source.BASIS, "period": 1, "packed": 1})
    return found


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def impossible_fields_are_illegal(dut):
    await start_clock(dut)
    driver = PostDriver(dut)
    fields = dict.fromkeys(isa.PLACEMENTS[Opcode.POST], 1)
    for wrong in illegal(driver.config):
        item = isa.instruction(Opcode.POST, **(fields | wrong))
        assert isa.illegal_fields(item, driver.config), wrong
        await driver.command(item)
        assert driver.get("illegal") == 1, wrong
        for _ in range(30):
            await driver.step()
            assert driver.get("idle") == 1 and driver.get("write_mask") == 0 and driver.get("illegal") == 0
