"""Random instruction streams on the Verilated machine: it always stops with a status, and works again after a
reset; with SmartDeal weights it does what the executor does.
"""

import random
import time

import numpy as np
import pytest
from tests import random_programs
from tests.networks import small_network

from popshift.firmware_py.session import Accelerator
from popshift.gen.mapping import map_graph
from popshift.hw import isa, packet
from popshift.hw.config import load_config
from popshift.hw.isa import LENGTHS, PLACEMENTS, Counter, Kind, Opcode, Source, Status
from popshift.hw.packet import Space, Type
from popshift.sim.board import open_board
from popshift.sim.cycles import predict
from popshift.sim.executor import WORK, Machine
from popshift.sim.hazards import HazardError
from popshift.sim.run import run_program

SEED = 11
CYCLE_LIMIT = 60_000
_SMALL = load_config("tiny").replace(
    activation_depth=512, weight_depth=512, parameter_depth=48, program_depth=128, accumulator_depth=48
)
DEVICES = {
    "everything": _SMALL.replace(cols=6, tile_cols=3, post_lanes=1, pe_kinds=["mul", "shift"], rebuild=True),
    "rebuild, one row": _SMALL.replace(rows=1, cols=2, tile_rows=1, tile_cols=1, post_lanes=1, rebuild=True),
    "shift only": _SMALL.replace(
        rows=3,
        cols=8,
        tile_rows=1,
        tile_cols=1,
        post_lanes=1,
        pe_kinds=["shift"],
        accumulator_width=24,
        requantise="compact",
    ),
    "xnor": _SMALL.replace(rows=8, cols=8, tile_rows=2, tile_cols=2, post_lanes=8, pe_kinds=["xnor"]),
    "xnor and all others": _SMALL.replace(
        rows=8, cols=16, tile_cols=4, post_lanes=2, pe_kinds=["mul", "shift", "xnor"], rebuild=True
    ),
    "pairs of banks": _SMALL.replace(
        rows=4, cols=2, tile_rows=2, tile_cols=1, post_lanes=1, residual=False, paired_banks=True
    ),
    "windows": _SMALL.replace(
        rows=9, cols=9, tile_rows=3, tile_cols=3, post_lanes=3, window_depth=32, requantise="compact"
    ),
    "depthwise": _SMALL.replace(rows=4, cols=4, post_lanes=2, depthwise=True, requantise="compact"),
}


@pytest.fixture(scope="module")
def board():
    with open_board(load_config("tiny")) as opened:
        yield opened


def random_bytes(rng: random.Random, words: int) -> list[int]:
    return [rng.getrandbits(32) for _ in range(words)]


def random_fields(rng: random.Random, opcode: Opcode) -> dict[str, int]:
    """Legal fields, mostly small, addresses anywhere."""
    found = {}
    for name, place in PLACEMENTS[opcode].items():
        bits = place.field.bits
        if name.endswith("base"):
            found[name] = rng.getrandbits(rng.choice((4, 8, 10, bits)))
        elif name in ("zero_point", "low", "high"):
            found[name] = rng.randrange(-128, 128)
        else:
            found[name] = place.field.low + rng.getrandbits(min(bits, rng.choice((0, 1, 2, 4, 10))))
    return found


def random_instructions(rng: random.Random, words: int) -> list[int]:
    """What a broken compiler might write: pairs that belong together, addresses and counts that do not."""
    found: list[int] = []
    while len(found) < words:
        kind = rng.choice(("matrix", "channel", "fill", "any", "end"))
        if kind == "any":
            opcode = rng.choice(list(LENGTHS))
            found += [
                opcode | rng.getrandbits(28) << isa.OPCODE_BITS,
                *random_bytes(rng, LENGTHS[opcode] - 1),
            ]
            continue
        if kind == "end":
            found += isa.encode(isa.instruction(Opcode.END))
            continue
        post = random_fields(rng, Opcode.POST) | {
            "source": Source[kind.upper()],
            "period": rng.choice((1, 2)),
        }
        if kind != "fill":
            opcode = Opcode[kind.upper()]
            front = random_fields(rng, opcode) | {"x_count": post["x_count"], "y_count": post["y_count"]}
            if opcode is Opcode.MATRIX:
                front |= {"kind": 0, "k_tiles": 1 + rng.getrandbits(rng.choice((1, 2, 10)))}
                post["chunks"] = 2 * front["n_tiles"]
            else:
                front |= {"operation": rng.choice((0, 1)), "planes": post["chunks"], "period": post["period"]}
                front["planes"] = post["chunks"] = min(post["chunks"], 8)
            found += isa.encode(isa.instruction(opcode, **front))
        found += isa.encode(isa.instruction(Opcode.POST, **post))
    return found[:words]


def run_until_stopped(device: Accelerator, words: list[int]) -> packet.State:
    link = device.link
    data = b"".join(word.to_bytes(4, "little") for word in words)
    for start in range(0, len(data), packet.MAX_PAYLOAD):
        address = packet.write_address(Space.PROGRAM, start // 4)
        link.request(Type.WRITE, address, data[start : start + packet.MAX_PAYLOAD])
    link.request(Type.RUN, 0, packet.RUN.pack(0, 0, CYCLE_LIMIT))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        state = device.state()
        if state.status != Status.RUNNING:
            return state
    raise AssertionError(f"still running after {CYCLE_LIMIT} cycles were allowed: {device.state()}")


def test_random_programs_never_hang(board):
    config = load_config("tiny")
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    device = Accelerator(board)
    device.identify()
    program = map_graph(small_network(config, np.random.default_rng(SEED)), config)
    images = np.random.default_rng(SEED).integers(-128, 128, (2, 3, 6, 6)).astype(np.int8)
    expected = run_program(program, images)
    seen: set[Status] = set()
    for trial in range(120):
        make = random_bytes if trial % 3 == 0 else random_instructions
        state = run_until_stopped(device, make(rng, config.program_depth))
        assert state.cycles <= CYCLE_LIMIT + 4, state
        seen.add(Status(state.status))
        if trial % 20 == 19:  # whatever happened before: after a reset a good program gives the right result
            device.reset()
            device.load(program)
            np.testing.assert_array_equal(device.run(images)["z"], expected["z"])
        device.reset()
        assert device.state().status == Status.IDLE
    errors = {status for status in seen if status.is_error}
    assert len(errors) >= 5, f"the programs reached only {sorted(seen)}"


@pytest.mark.parametrize(
    ("items", "status"),
    [
        ([], Status.ILLEGAL_INSTRUCTION),
        ([isa.instruction(Opcode.END)], Status.DONE),
        (
            [
                isa.instruction(
                    Opcode.MATRIX,
                    kind=0,
                    x_count=1,
                    y_count=1,
                    k_tiles=1,
                    n_tiles=1,
                    weight_base=0,
                    base=0,
                    x_step=0,
                    y_step=0,
                ),
                isa.instruction(Opcode.END),
            ],
            Status.NO_PROGRESS,
        ),
    ],
    ids=["empty program", "only the end", "nobody drains"],
)
def test_status(board, items, status):
    device = Accelerator(board)
    device.identify()
    device.reset()
    device.link.request(Type.WRITE, packet.write_address(Space.WEIGHT, 0), bytes(6 * 4))
    state = run_until_stopped(device, [*isa.encode_all(items), *[0] * 8])
    assert state.status == status
    device.reset()


@pytest.fixture(scope="module", params=DEVICES.values(), ids=DEVICES.keys())
def device_of_kind(request):
    with open_board(request.param, seed=SEED) as opened:
        device = Accelerator(opened)
        device.identify()
        yield device, request.param


def write_memories(device: Accelerator, memories: random_programs.Memories) -> None:
    writes = []
    for space, words in ((Space.WEIGHT, memories.weights), (Space.PARAMETER, memories.parameters)):
        step = packet.MAX_PAYLOAD // words.shape[1]
        for first in range(0, len(words), step):
            data = words[first : first + step].tobytes()
            writes.append((Type.WRITE, packet.write_address(space, first), data))
    for bank, values in enumerate(memories.activations):
        mask = (1 << bank).to_bytes(-(-len(memories.activations) // 8), "little")
        writes.append((Type.WRITE, packet.write_address(Space.ACTIVATION, 0), mask + values.tobytes()))
    device.link.submit_many(writes)


def read_activations(device: Accelerator, shape: tuple[int, int]) -> np.ndarray:
    banks, words = shape
    length = words.to_bytes(2, "little")
    requests = [(Type.READ, packet.read_address(bank, 0), length) for bank in range(banks)]
    return np.stack([np.frombuffer(data, np.int8) for data in device.link.submit_many(requests)])


def test_random_programs_do_what_the_executor_does(device_of_kind):
    """Same status; and if that is DONE, same memory, same counts of work, and the cycles predicted."""
    device, config = device_of_kind
    seen: list[Status] = []
    for trial in range(72):
        rng = random.Random(1000 * SEED + trial)
        memories = random_programs.random_memories(rng, config, wild=trial % 4 == 1)
        spoilt = trial // 4 % random_programs.WAYS_TO_SPOIL if trial % 4 == 3 else None
        program = random_programs.random_program(rng, config, pairs=3, spoilt=spoilt)
        told = f"seed {1000 * SEED + trial}:\n" + "\n".join(map(str, program))
        words = isa.encode_all(program)
        machine = Machine(config, check_hazards=True)
        memories.load(machine)
        machine.write(Space.PROGRAM, 0, np.array(words, "<u4").tobytes())
        try:
            status = machine.run()
        except HazardError:  # a hostile program may read what it writes: then nothing is certain
            assert spoilt is not None, told
            continue
        assert status.is_error <= (trial % 2 == 1), told
        device.reset()
        write_memories(device, memories)
        state = run_until_stopped(device, words)
        assert state.status == status, told
        seen.append(status)
        if status is not Status.DONE:
            continue
        found = read_activations(device, memories.activations.shape)
        np.testing.assert_array_equal(found, machine.activations[0], err_msg=told)
        counters = device.counters()
        alone = {Counter.CHANNEL} if config.depthwise else set()  # counts where no row enters the array
        for counter in {*WORK, Counter.ACTIVATION_READS} - alone:
            assert counters[counter] == machine.counters[counter], (counter.name, told)
        assert counters[Counter.CYCLES] == sum(predict(program, config)), told
    errors = {status for status in seen if status.is_error}
    assert seen.count(Status.DONE) >= 40 and len(errors) >= 4, seen
    device.reset()


def test_kinds_and_sources_that_are_not_built_are_illegal(device_of_kind):
    device, config = device_of_kind
    matrix = {name: place.field.low for name, place in PLACEMENTS[Opcode.MATRIX].items()}
    post = {name: place.field.low for name, place in PLACEMENTS[Opcode.POST].items()}
    bad = [isa.instruction(Opcode.MATRIX, **(matrix | {"kind": kind})) for kind in {*Kind, 4, 15}]
    bad += [isa.instruction(Opcode.POST, **(post | {"source": source})) for source in Source]
    for source in (Source.MATRIX, Source.CHANNEL, Source.BASIS):
        packed = post | {"packed": 1, "source": source}
        bad += [isa.instruction(Opcode.POST, **packed | {"period": period}) for period in (1, 4, 8, 9)]
    channel = {name: place.field.low for name, place in PLACEMENTS[Opcode.CHANNEL].items()}
    bad += [isa.instruction(Opcode.CHANNEL, **(channel | {"operation": operation})) for operation in range(4)]
    columns = {name: place.field.low for name, place in PLACEMENTS[Opcode.DEPTHWISE].items()}
    for more in ({}, {"kx_count": 2}, {"ky_count": 4}, {"planes": 2}, {"period": config.bank_groups + 1}):
        bad.append(isa.instruction(Opcode.DEPTHWISE, **(columns | more)))
    bad = [item for item in bad if isa.illegal_fields(item, config)]
    assert len(bad) >= 2
    for item in bad:
        device.reset()
        words = isa.encode_all([isa.instruction(Opcode.MARK, layer=5), item, isa.instruction(Opcode.END)])
        state = run_until_stopped(device, words)
        machine = Machine(config)
        machine.write(Space.PROGRAM, 0, np.array(words, "<u4").tobytes())
        assert state.status == machine.run() == Status.ILLEGAL_INSTRUCTION, item
    device.reset()
