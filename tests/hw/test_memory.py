"""Memories in Amaranth's simulator: latency, masks, lanes, refused parameters."""

import gc
import random

import pytest
from amaranth.sim import Simulator

from popshift.hw.config import load_config
from popshift.hw.memory.activations import ActivationMemory
from popshift.hw.memory.ram import Ram
from popshift.hw.tech import TECHNOLOGIES

SEED = 3


def simulate(component, bench) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize(("width", "depth"), [(1, 2), (8, 16), (33, 100), (7, 3)])
def test_ram_reads_what_was_written_after_its_latency(width, depth):
    ram = Ram(width=width, depth=depth)
    rng = random.Random(SEED)
    words = [rng.getrandbits(width) for _ in range(depth)]
    order = [rng.randrange(depth) for _ in range(4 * depth)]
    found = []

    async def bench(ctx):
        ctx.set(ram.write_enable, 1)
        for address, word in enumerate(words):
            ctx.set(ram.write_address, address)
            ctx.set(ram.write_data, word)
            await ctx.tick()
        ctx.set(ram.write_enable, 0)
        ctx.set(ram.write_data, ~words[0] & ((1 << width) - 1))  # not enabled: must not matter
        for index in range(len(order) + Ram.LATENCY):
            if index >= Ram.LATENCY:
                found.append(ctx.get(ram.read_data))
            ctx.set(ram.read_address, order[min(index, len(order) - 1)])
            await ctx.tick()

    simulate(ram, bench)
    assert found == [words[address] for address in order]


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize(
    ("width", "depth", "message"),
    [
        (0, 16, "width must be a positive number of bits, not 0"),
        (8, 1, "depth must be at least 2 words, not 1"),
    ],
)
@pytest.mark.parametrize("technology", ["simulated", "portable"])
def test_ram_refuses(technology, width, depth, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        TECHNOLOGIES[technology]().ram(width=width, depth=depth)
    gc.collect()  # what was refused was never used, which Amaranth warns of when it goes


@pytest.mark.parametrize(("rows", "lanes"), [(4, 1), (4, 2), (6, 3)])
def test_activation_memory_writes_masked_banks_with_their_lane(rows, lanes):
    config = load_config("tiny").replace(
        rows=rows, cols=rows, tile_rows=1, tile_cols=1, post_lanes=lanes, activation_depth=24
    )
    memory = ActivationMemory(config=config, technology=TECHNOLOGIES["simulated"]())
    rng = random.Random(SEED)
    model = [[0] * config.activation_depth for _ in range(rows)]

    async def bench(ctx):
        for address in (*range(config.activation_depth), *(rng.randrange(24) for _ in range(60))):
            mask = (1 << rows) - 1 if address < 24 and not model[0][address] else rng.getrandbits(rows)
            data = [rng.randrange(1, 256) for _ in range(lanes)]
            ctx.set(memory.write_mask, mask)
            ctx.set(memory.write_address, address)
            for lane, byte in enumerate(data):
                ctx.set(memory.write_data[lane], byte)
            for bank in range(rows):
                if mask >> bank & 1:
                    model[bank][address] = data[bank % lanes]
            await ctx.tick()
        ctx.set(memory.write_mask, 0)
        await ctx.tick()  # a write is visible to reads that start two cycles later
        orders = [rng.sample(range(24), 24) for _ in range(rows)]
        for index in range(24 + ActivationMemory.LATENCY):
            for bank, order in enumerate(orders):
                if index >= ActivationMemory.LATENCY:
                    wanted = model[bank][order[index - ActivationMemory.LATENCY]]
                    assert ctx.get(memory.read_data[bank]) == wanted, (bank, index)
                ctx.set(memory.read_address[bank], order[min(index, 23)])
            await ctx.tick()

    simulate(memory, bench)
