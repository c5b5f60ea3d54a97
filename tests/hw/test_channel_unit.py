"""The channel unit in Amaranth's simulator against NumPy: windows, order, spacing, refused instructions."""

import itertools

import numpy as np
import pytest
from amaranth.sim import Simulator

from popshift.hw import isa
from popshift.hw.channel.unit import READ_LATENCY, VALUES_LATENCY, ChannelUnit, fold_latency
from popshift.hw.config import load_config
from popshift.hw.isa import ChannelOperation, Opcode
from popshift.hw.tech.portable import Portable

SEED = 9
HEIGHT, WIDTH = 7, 8


def run_channel(config, fields: dict[str, int], memory: np.ndarray, *, stalls: int = 0):
    """Windows in order, each as (cycle, values of all banks); and the addresses read."""
    unit = ChannelUnit(config=config, technology=Portable())
    windows: list[tuple[int, list[int]]] = []
    addresses: list[int] = []
    rng = np.random.default_rng(SEED)

    async def bench(ctx):
        for index, word in enumerate(isa.encode(isa.instruction(Opcode.CHANNEL, **fields))):
            ctx.set(unit.command_write, 1)
            ctx.set(unit.command_index, index)
            ctx.set(unit.command_word, word)
            await ctx.tick()
        ctx.set(unit.command_write, 0)
        ctx.set(unit.go, 1)
        await ctx.tick()
        ctx.set(unit.go, 0)
        assert ctx.get(unit.illegal) == 0
        bytes_due = [np.zeros(config.rows, int)] * (READ_LATENCY - 1)
        was_reading = 0
        pending: list[tuple[int, list[int]]] = []  # groups still to be asked for
        asked: list[list[int] | None] = [None] * (VALUES_LATENCY - 1)  # where the values that follow belong
        idle_cycles = 0
        for cycle in range(20_000):
            ctx.set(unit.active, int(not stalls or rng.integers(stalls) != 0))
            for bank, byte in enumerate(bytes_due.pop(0)):
                ctx.set(unit.activations[bank], int(byte))
            if pending:
                group, values = pending.pop(0)
                ctx.set(unit.group, group)
                asked.append(values)
            else:
                asked.append(None)
            due, was_reading = was_reading, ctx.get(unit.reading)
            window = ctx.get(unit.window)
            assert ctx.get(unit.outside) == 0
            await ctx.tick()
            assert ctx.get(unit.addressing) == due
            if due:
                addresses.append(ctx.get(unit.address))
                bytes_due.append(memory[:, addresses[-1]])
            else:
                bytes_due.append(rng.integers(-128, 128, config.rows))
            if (values := asked.pop(0)) is not None:
                values += [ctx.get(unit.values[lane]) for lane in range(config.post_lanes)]
            if window:
                assert not pending, "a window ended before the one before it was taken"
                windows.append((cycle, []))
                pending = [(group, windows[-1][1]) for group in range(fields["period"])]
            idle_cycles = idle_cycles + 1 if ctx.get(unit.idle) else 0
            if idle_cycles > READ_LATENCY + fold_latency(config) + fields["period"] + 4:
                return
        raise AssertionError("the unit never became idle")

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return windows, addresses


def pooling(config, kernel: int, stride: int, operation: ChannelOperation, planes: int = 2) -> dict[str, int]:
    size_y, size_x = (HEIGHT - kernel) // stride + 1, (WIDTH - kernel) // stride + 1
    back = (kernel - 1) * WIDTH + kernel - 1  # what the taps of a window moved
    return {
        "operation": operation,
        "x_count": size_x,
        "y_count": size_y,
        "kx_count": kernel,
        "ky_count": kernel,
        "planes": planes,
        "period": config.bank_groups,
        "base": 3,
        "kx_step": 1,
        "ky_step": WIDTH - (kernel - 1),
        "x_step": stride - back,
        "y_step": stride * WIDTH - (size_x - 1) * stride - back,
        "plane_step": HEIGHT * WIDTH - (size_y - 1) * stride * WIDTH - (size_x - 1) * stride - back,
    }


@pytest.mark.parametrize("operation", list(ChannelOperation))
@pytest.mark.parametrize(("kernel", "stride", "stalls"), [(2, 2, 0), (3, 1, 4), (1, 1, 0), (3, 2, 0)])
@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_windows_equal_numpy(operation, kernel, stride, stalls, lanes):
    config = load_config("tiny").replace(post_lanes=lanes)
    if operation is ChannelOperation.OR:
        config = config.replace(cols=8, pe_kinds=["xnor"])
    memory = np.random.default_rng(SEED).choice([-128, 127, 5, -1], (config.rows, 128))
    fields = pooling(config, kernel, stride, operation)
    windows, _ = run_channel(config, fields, memory, stalls=stalls)
    found = [values for _, values in windows]
    planes = memory[:, 3 : 3 + 2 * HEIGHT * WIDTH].reshape(config.rows, 2, HEIGHT, WIDTH)
    views = np.lib.stride_tricks.sliding_window_view(planes, (kernel, kernel), axis=(2, 3))[
        :, :, ::stride, ::stride
    ]
    fold = {
        ChannelOperation.MAX: np.maximum,
        ChannelOperation.SUM: np.add,
        ChannelOperation.OR: np.bitwise_or,
    }
    folded = fold[operation].reduce(views, axis=(-1, -2))
    assert found == folded.reshape(config.rows, -1).T.tolist()


def test_one_word_is_read_every_cycle_and_windows_keep_their_distance():
    config = load_config("tiny").replace(post_lanes=1)  # four groups to a window
    memory = np.zeros((config.rows, 128), int)
    for kernel, wanted in ((3, 9), (1, config.bank_groups)):
        windows, _ = run_channel(config, pooling(config, kernel, 1, ChannelOperation.MAX), memory)
        cycles = [cycle for cycle, _ in windows]
        assert {after - before for before, after in itertools.pairwise(cycles)} == {wanted}


def test_largest_window_sums_to_its_end():
    config = load_config("tiny")
    memory = np.full((config.rows, 16), -128)
    fields = pooling(config, 1, 1, ChannelOperation.SUM, planes=1)
    fields |= {"x_count": 1, "y_count": 1, "kx_count": 64, "ky_count": 64, "base": 0}
    fields |= {name: 0 for name in fields if name.endswith("_step")}
    ((_, values),), addresses = run_channel(config, fields, memory)
    assert len(addresses) == 4096
    assert values == [-128 * 4096] * config.rows


@pytest.mark.parametrize(
    ("change", "illegal", "kinds"),
    [
        ({"operation": 2}, 1, ["mul"]),
        ({"operation": 2}, 0, ["xnor"]),
        ({"operation": 3}, 1, ["xnor"]),
        ({"period": 3}, 1, ["mul"]),
        ({"period": 2}, 0, ["mul"]),
    ],
)
def test_impossible_instructions_are_told(change, illegal, kinds):
    config = load_config("tiny").replace(cols=8, pe_kinds=kinds)  # two bank groups
    unit = ChannelUnit(config=config, technology=Portable())
    item = isa.instruction(Opcode.CHANNEL, **(pooling(config, 2, 2, ChannelOperation.MAX) | change))
    assert isa.illegal_fields(item, config) == bool(illegal)

    async def bench(ctx):
        ctx.set(unit.command_write, 1)
        for index, word in enumerate(isa.encode(item)):
            ctx.set(unit.command_index, index)
            ctx.set(unit.command_word, word)
            await ctx.tick()
        ctx.set(unit.command_write, 0)
        assert ctx.get(unit.illegal) == 0
        ctx.set(unit.go, 1)
        await ctx.tick()
        ctx.set(unit.go, 0)
        assert ctx.get(unit.illegal) == illegal
        assert ctx.get(unit.idle) == illegal
        await ctx.tick()
        assert ctx.get(unit.illegal) == 0
        assert ctx.get(unit.idle) == illegal

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
