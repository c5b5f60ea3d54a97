"""The core in Amaranth's simulator against the instruction executor: same memory, same counts of work."""

import random

import numpy as np
import pytest

from popshift.gen.mapping import map_graph
from popshift.hw import isa
from popshift.hw.config import load_config
from popshift.hw.isa import Counter, Opcode, Source, Status
from popshift.hw.packet import Space
from popshift.sim.cycles import predict
from popshift.sim.executor import Machine
from popshift.sim.run import load_segment
from tests import random_programs
from tests.hw.core_bench import run_core
from tests.networks import small_network

SEED = 7


def decode_all(words) -> list[isa.Instruction]:
    words, found, pc = [int(word) for word in words], [], 0
    while pc < len(words):
        item = isa.decode(words, pc)
        assert isinstance(item, isa.Instruction)
        found.append(item)
        pc += isa.LENGTHS[item.opcode]
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tile_rows": 1, "tile_cols": 1},
        {"tile_rows": 4, "tile_cols": 1, "requantise": "compact"},
        {"rows": 8, "cols": 2, "tile_rows": 8, "tile_cols": 1, "multiplier_stages": 2},
        {"rows": 4, "cols": 2, "tile_rows": 2, "post_lanes": 1, "residual": False, "paired_banks": True},
        {
            "rows": 2,
            "cols": 6,
            "tile_rows": 1,
            "tile_cols": 3,
            "post_lanes": 1,
            "requantise": "compact",
            "accumulator_width": 24,
        },
    ],
    ids=lambda changes: "-".join(f"{k}{v}" for k, v in changes.items()) or "tiny",
)
def test_core_equals_executor(changes):
    config = load_config("tiny").replace(**changes)
    rng = np.random.default_rng(SEED)
    program = map_graph(small_network(config, rng), config)
    (segment,) = program.segments
    machine = Machine(config, check_hazards=True)
    used = 256 if config.rows > 2 else 512
    memory = rng.integers(-128, 128, (config.rows, used)).astype(np.int8)
    for bank in range(config.rows):
        mask = (1 << bank).to_bytes(config.bank_mask_bytes, "little")
        machine.write(Space.ACTIVATION, 0, mask + memory[bank].tobytes())
    load_segment(machine, segment)
    assert machine.run() is Status.DONE
    assert not machine.activations[0, :, used:].any(), "the network needs more words than the test compares"
    outcome = run_core(
        config,
        words=[int(word) for word in segment.instructions],
        weights=segment.weights,
        parameters=segment.parameters,
        activations=memory,
    )
    assert outcome.status is Status.DONE, (outcome, program.layers)
    np.testing.assert_array_equal(outcome.memory, machine.activations[0, :, :used])
    for counter in (
        Counter.MATRIX,
        Counter.CHANNEL,
        Counter.WEIGHT_WORDS,
        Counter.ACTIVATION_READS,
        Counter.ACTIVATION_WRITES,
    ):
        assert outcome.counters[counter] == machine.counters[counter], counter
    assert outcome.counters[Counter.CYCLES] == sum(predict(decode_all(segment.instructions), config))
    causes = [outcome.counters[c] for c in Counter if Counter.MATRIX <= c <= Counter.CONTROL]
    assert sum(causes) == outcome.counters[Counter.CYCLES]


@pytest.mark.parametrize(
    "changes",
    [
        {"cols": 12, "tile_cols": 3, "post_lanes": 2, "pe_kinds": ["mul", "shift"], "rebuild": True},
        {"rows": 2, "cols": 3, "tile_rows": 2, "tile_cols": 1, "rebuild": True, "multiplier_stages": 4},
        {"rows": 1, "cols": 7, "tile_rows": 1, "tile_cols": 1, "pe_kinds": ["shift"]},
        {"rows": 8, "cols": 8, "tile_rows": 2, "post_lanes": 2, "pe_kinds": ["xnor"]},
        {"rows": 8, "cols": 16, "tile_cols": 2, "post_lanes": 8, "pe_kinds": ["xnor", "mul"]},
        {
            **{"rows": 4, "cols": 16, "tile_cols": 4, "post_lanes": 4, "pe_kinds": ["mul", "shift", "xnor"]},
            **{"rebuild": True, "multiplier_stages": 4, "requantise": "compact"},
        },
        {"rows": 12, "cols": 12, "tile_rows": 4, "tile_cols": 2, "post_lanes": 2, "window_depth": 32},
        {"rows": 8, "cols": 4, "tile_rows": 8, "tile_cols": 4, "post_lanes": 2, "window_depth": 64},
        {
            **{"rows": 4, "cols": 8, "tile_rows": 2, "tile_cols": 1, "pe_kinds": ["xnor", "mul"]},
            **{"rebuild": True, "window_depth": 32},
        },
        {"rows": 4, "cols": 4, "tile_rows": 2, "depthwise": True, "post_lanes": 2, "window_depth": 32},
        {"rows": 4, "cols": 4, "depthwise": True, "requantise": "compact", "multiplier_stages": 2},
        {
            **{"rows": 8, "cols": 8, "tile_rows": 2, "post_lanes": 4, "pe_kinds": ["xnor", "mul"]},
            **{"depthwise": True, "multiplier_stages": 4},
        },
    ],
    ids=[
        *("everything", "rebuild", "shift", "xnor", "xnor, a byte at once", "xnor and all others"),
        *("windows", "windows of two lines", "windows of one line and others"),
        *("depthwise", "depthwise, compact", "depthwise and xnor"),
    ],
)
def test_core_equals_executor_on_random_programs(changes):
    """Instructions of every kind and source; the activation memory is small enough to be compared whole."""
    small = {"activation_depth": 512, "weight_depth": 512, "parameter_depth": 48, "accumulator_depth": 48}
    config = load_config("tiny").replace(**{"post_lanes": 1, **small, **changes})
    rng = random.Random(SEED)
    memories = random_programs.random_memories(rng, config, wild=False)
    program = random_programs.random_program(rng, config, pairs=16)
    assert any(item.opcode is Opcode.ADD for item in program)
    used = {item["kind"] for item in program if item.opcode is Opcode.MATRIX}
    drained = {item["source"] for item in program if item.opcode is Opcode.POST}
    assert used == set(isa.kinds(config)) and (Source.BASIS in drained) == config.has_basis
    windows = {item["windows"] for item in program if item.opcode is Opcode.MATRIX}
    assert windows == ({0, 1} if config.window_depth else {0})
    packed = {isa.packs(item, config) for item in program if item.opcode is Opcode.POST}
    assert packed == ({False, True} if config.has_packing else {False})
    assert any(item.opcode is Opcode.DEPTHWISE for item in program) == config.depthwise
    machine = Machine(config, check_hazards=True)
    memories.load(machine)
    words = isa.encode_all(program)
    machine.write(Space.PROGRAM, 0, np.array(words, "<u4").tobytes())
    assert machine.run() is Status.DONE
    outcome = run_core(
        config,
        words=words,
        weights=memories.weights,
        parameters=memories.parameters,
        activations=memories.activations,
    )
    assert outcome.status is Status.DONE
    np.testing.assert_array_equal(outcome.memory, machine.activations[0])
    for counter in (
        Counter.MATRIX,
        Counter.WEIGHT_WORDS,
        Counter.ACTIVATION_READS,
        Counter.ACTIVATION_WRITES,
    ):
        assert outcome.counters[counter] == machine.counters[counter], counter
    assert outcome.counters[Counter.CYCLES] == sum(predict(program, config))
