"""Sliding sums of depthwise windows in Amaranth's simulator against NumPy; their weights in memory."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from popshift.hw import isa
from popshift.hw.channel.columns import CHOICE_LATENCY, Columns
from popshift.hw.config import load_config
from popshift.hw.isa import WINDOW
from popshift.hw.parameter_word import TAPS
from popshift.hw.tech.portable import Portable

SEED = 4
_PLAIN = load_config("tiny").replace(rows=4, cols=4, depthwise=True)
CONFIGS = {
    "a word a group": _PLAIN.replace(post_lanes=2),
    "two words a group": _PLAIN.replace(post_lanes=1, requantise="compact", multiplier_stages=2),
    "with a basis": _PLAIN.replace(cols=12, post_lanes=4, pe_kinds=["shift"], multiplier_stages=4),
}


def windows_of(memory: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums (lines, columns, banks) of bytes (banks, lines, columns, rows), 0 in front of lines."""
    banks, lines, columns, height = memory.shape
    padded = np.pad(memory, ((0, 0), (0, 0), (WINDOW - 1, 0), (0, 0)))
    found = np.zeros((lines, columns, banks), int)
    for line, column, bank in np.ndindex(found.shape):
        window = padded[bank, line, column : column + WINDOW].T
        found[line, column, bank] = (window * weights[bank, :height]).sum()
    return found


@pytest.mark.parametrize("height", [1, 2, 3])
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_sums_equal_numpy(config, extreme, height):
    rng = np.random.default_rng(SEED)
    memory = rng.integers(-128, 128, (config.rows, 2, 5, height))
    weights = rng.integers(-128, 128, (config.rows, WINDOW, WINDOW))
    if extreme:
        memory[:], weights[:] = -128, -128
    unit = Columns(config=config, technology=Portable())
    lanes = weights.reshape(-1, config.post_lanes, TAPS).tolist()
    words = [word for group in lanes for word in isa.pack_taps(config, group)]
    items = [(line, column, row) for line in range(2) for column in range(5) for row in range(height)]
    found: list[list[int]] = []

    async def bench(ctx):
        ctx.set(unit.load, 1)
        for word in words:
            ctx.set(unit.word, int.from_bytes(word, "little"))
            await ctx.tick()
        ctx.set(unit.load, 0)
        ctx.set(unit.word, -1)
        behind = CHOICE_LATENCY + config.multiplier_stages
        for cycle in range(len(items) + behind + 1):
            ctx.set(unit.valid, 0)
            if cycle < len(items):
                ctx.set(unit.row, items[cycle][2])
            if 0 <= cycle - CHOICE_LATENCY < len(items):
                line, column, row = items[cycle - CHOICE_LATENCY]
                for bank in range(config.rows):
                    ctx.set(unit.activations[bank], int(memory[bank, line, column, row]))
            if 0 <= cycle - behind < len(items):
                line, column, row = items[cycle - behind]
                ctx.set(unit.valid, 1)
                ctx.set(unit.first, int(row == 0))
                ctx.set(unit.begins, int(column == 0))
            await ctx.tick()
            if 0 <= cycle - behind < len(items) and items[cycle - behind][2] == height - 1:
                found.append([ctx.get(unit.sums[bank]) for bank in range(config.rows)])

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    np.testing.assert_array_equal(np.array(found).reshape(2, 5, -1), windows_of(memory, weights))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_weights_in_words_and_back(config):
    taps = np.random.default_rng(SEED).integers(-128, 128, (config.post_lanes, TAPS)).tolist()
    words = isa.pack_taps(config, taps)
    assert len(words) == isa.tap_words(config)
    assert {len(word) for word in words} == {config.parameter_word_bytes}
    assert isa.unpack_taps(config, words) == taps
