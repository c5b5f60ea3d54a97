"""Runs encoded programs on the core in Amaranth's simulator."""

from dataclasses import dataclass

import numpy as np
from amaranth.sim import Simulator

from popshift.hw.config import AcceleratorConfig
from popshift.hw.core import HOST_READ_LATENCY, Core
from popshift.hw.isa import Counter, Status
from popshift.hw.tech import TECHNOLOGIES


@dataclass
class Outcome:
    """What a run left behind: status, counters and the words asked for (bank, address) -> byte."""

    status: Status
    pc: int
    counters: dict[Counter, int]
    memory: np.ndarray


def run_core(
    config: AcceleratorConfig,
    *,
    words: list[int],
    weights: np.ndarray,
    parameters: np.ndarray,
    activations: np.ndarray,
    technology: str = "simulated",
    most_cycles: int = 200_000,
    trace: str | None = None,
) -> Outcome:
    """Load everything, run from word 0, read all of the activation memory that `activations` (rows, words)
    covers.
    """
    core = Core(config=config, technology=TECHNOLOGIES[technology]())
    outcome = Outcome(Status.RUNNING, 0, {}, np.zeros_like(activations))

    async def write_words(ctx, space: int, rows: list[bytes]) -> None:
        ctx.set(core.word_write_space, 1 << space)
        for address, row in enumerate(rows):
            ctx.set(core.word_write_address, address)
            ctx.set(core.word_write_data, int.from_bytes(row, "little"))
            await ctx.tick()
        ctx.set(core.word_write_space, 0)

    async def bench(ctx):
        await write_words(ctx, 0, [bytes(row) for row in weights])
        await write_words(ctx, 1, [bytes(row) for row in parameters])
        await write_words(ctx, 2, [int(word).to_bytes(4, "little") for word in words])
        ctx.set(core.activation_write_valid, 1)
        for bank in range(activations.shape[0]):
            ctx.set(core.activation_write_mask, 1 << bank)
            for address in range(activations.shape[1]):
                ctx.set(core.activation_write_address, address)
                ctx.set(core.activation_write_data, int(activations[bank, address]) & 0xFF)
                await ctx.tick()
        ctx.set(core.activation_write_valid, 0)
        ctx.set(core.start, 1)
        await ctx.tick()
        ctx.set(core.start, 0)
        for _ in range(most_cycles):
            await ctx.tick()
            if ctx.get(core.status) != Status.RUNNING.value:
                break
        await ctx.tick().repeat(2)  # the counters register their events
        outcome.status, outcome.pc = Status(ctx.get(core.status)), ctx.get(core.pc)
        outcome.counters = {counter: ctx.get(core.counters[counter]) for counter in Counter}
        for bank in range(activations.shape[0]):
            ctx.set(core.read_bank, bank)
            for address in range(activations.shape[1] + HOST_READ_LATENCY):
                ctx.set(core.read_address, min(address, activations.shape[1] - 1))
                if address >= HOST_READ_LATENCY:
                    byte = ctx.get(core.read_data)
                    outcome.memory[bank, address - HOST_READ_LATENCY] = byte - ((byte & 0x80) << 1)
                await ctx.tick()

    simulator = Simulator(core)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    if trace:
        with simulator.write_vcd(trace):
            simulator.run()
    else:
        simulator.run()
    return outcome
