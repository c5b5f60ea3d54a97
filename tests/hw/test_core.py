"""The core in Amaranth's simulator against the instruction executor: same memory, same counts of work."""

import numpy as np
import pytest

from popshift.gen.graph import Convolution, Graph, Pool, Pooling, Requantisation, Tensor, Window
from popshift.gen.mapping import map_graph
from popshift.hw import isa, numerics
from popshift.hw.config import load_config
from popshift.hw.isa import Counter, Status
from popshift.hw.packet import Space
from popshift.sim.cycles import predict
from popshift.sim.executor import Machine
from popshift.sim.run import load_segment
from tests.hw.core_bench import run_core

SEED = 7


def decode_all(words) -> list[isa.Instruction]:
    words, found, pc = [int(word) for word in words], [], 0
    while pc < len(words):
        item = isa.decode(words, pc)
        assert isinstance(item, isa.Instruction)
        found.append(item)
        pc += isa.LENGTHS[item.opcode]
    return found


def requantisation(rng, channels: int, mode) -> Requantisation:
    pairs = [numerics.quantise_multiplier(float(f), mode) for f in rng.uniform(0.0005, 0.02, channels)]
    multiplier, shift = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    return Requantisation(multiplier=multiplier, shift=shift, low=-128, high=127)


def two_layers(config, rng, *, channels=3, size=6, middle=5, outputs=4) -> Graph:
    """Convolution with padding, max pool, and a fully connected layer."""
    graph = Graph(mode=config.requantise, inputs=["x"], outputs=["z"])
    graph.tensors = {
        "x": Tensor("x", (channels, size, size), 0.1, 3),
        "a": Tensor("a", (middle, size, size), 0.1, -7),
        "p": Tensor("p", (middle, size // 2, size // 2), 0.1, -7),
        "z": Tensor("z", (outputs, 1, 1), 0.1, 5),
    }

    def weight(*shape):
        return rng.integers(-128, 128, shape).astype(np.int8)

    identity = np.array([numerics.identity_multiplier(config.requantise)] * middle, dtype=np.int64)
    graph.operators = [
        Convolution(
            name="conv",
            input="x",
            output="a",
            window=Window((3, 3), padding=(1, 1, 1, 1)),
            weight=weight(middle, channels, 3, 3),
            bias=rng.integers(-1000, 1000, middle),
            requantisation=requantisation(rng, middle, config.requantise),
        ),
        Pool(
            name="pool",
            input="a",
            output="p",
            window=Window((2, 2), stride=(2, 2)),
            operation=Pooling.MAX,
            requantisation=Requantisation(multiplier=identity[:, 0], shift=identity[:, 1], low=-128, high=127),
        ),
        Convolution(
            name="fc",
            input="p",
            output="z",
            window=Window((size // 2, size // 2)),
            weight=weight(outputs, middle, size // 2, size // 2),
            bias=rng.integers(-1000, 1000, outputs),
            requantisation=requantisation(rng, outputs, config.requantise),
        ),
    ]
    return graph


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tile_rows": 1, "tile_cols": 1},
        {"tile_rows": 4, "tile_cols": 1, "requantise": "compact"},
        {"rows": 8, "cols": 2, "tile_rows": 8, "tile_cols": 1, "multiplier_stages": 2},
        {"rows": 2, "cols": 6, "tile_rows": 1, "tile_cols": 3, "post_lanes": 1, "requantise": "compact"},
    ],
    ids=lambda changes: "-".join(f"{k}{v}" for k, v in changes.items()) or "tiny",
)
def test_core_equals_executor(changes):
    config = load_config("tiny").replace(**changes)
    rng = np.random.default_rng(SEED)
    program = map_graph(two_layers(config, rng), config)
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
    for counter in (Counter.MATRIX, Counter.CHANNEL, Counter.WEIGHT_WORDS, Counter.ACTIVATION_READS, Counter.ACTIVATION_WRITES):
        assert outcome.counters[counter] == machine.counters[counter], counter
    assert outcome.counters[Counter.CYCLES] == sum(predict(decode_all(segment.instructions), config))
    causes = [outcome.counters[c] for c in Counter if Counter.MATRIX <= c <= Counter.CONTROL]
    assert sum(causes) == outcome.counters[Counter.CYCLES]
