"""Signs packed to bytes and parameters of edges: the post unit and its loop nest in Amaranth's simulator,
against their definition in `popshift.hw.isa`.
"""

import itertools
import random
from collections import deque

import numpy as np
import pytest
from amaranth.hdl import Cat
from amaranth.sim import Simulator

from popshift.hw import isa, numerics
from popshift.hw.channel.unit import VALUES_LATENCY
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.isa import EDGE_CLASSES, Edge, Instruction, Lane, Opcode, Source
from popshift.hw.matrix.accumulators import Accumulators
from popshift.hw.memory.ram import Ram
from popshift.hw.post.control import LATE, PostControl
from popshift.hw.post.unit import PostUnit
from popshift.hw.tech import TECHNOLOGIES

SEED = 31
LANES = pytest.mark.parametrize("lanes", [1, 2, 4, 8])
FACTOR_ONE = numerics.identity_multiplier(load_config("tiny").requantise)
MOST_CYCLES = 4_000

Write = tuple[int, dict[int, int]]
"""An address, and the byte of each bank that is written there."""


def xnor_config(lanes: int, **changes) -> AcceleratorConfig:
    changes = {"rows": 16, "cols": 16, "pe_kinds": ["xnor"], **changes}
    return load_config("tiny").replace(post_lanes=lanes, **changes)


def post(source: Source, **fields: int) -> Instruction:
    """A POST of everything to the first bank; fields that are not given change nothing."""
    common = dict.fromkeys(("uniform", "zero_point", "parameter_base", "base", "plane_step"), 0)
    common |= {"period": 1, "chunks": 1, "mask": 1, "low": -128, "high": 127, "x_count": 1, "y_count": 1}
    common |= {"x_step": 1, "y_step": 1}
    return isa.instruction(Opcode.POST, source=int(source), **(common | fields))


async def hand_over(ctx, unit, item: Instruction) -> None:
    """As the sequencer does it."""
    ctx.set(unit.command_write, 1)
    for index, word in enumerate(isa.encode(item)):
        ctx.set(unit.command_index, index)
        ctx.set(unit.command_word, word)
        await ctx.tick()
    ctx.set(unit.command_write, 0)
    ctx.set(unit.go, 1)
    await ctx.tick()
    ctx.set(unit.go, 0)


def simulate(unit, bench) -> None:
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def classes_behind(item: Instruction) -> np.ndarray:
    """Of each pixel (y_count, x_count): how many times `class_words` its parameters lie behind the others."""
    found = np.zeros((item["y_count"], item["x_count"]), int)
    places = {Edge.LEFT: np.s_[:, 0], Edge.RIGHT: np.s_[:, -1], Edge.TOP: np.s_[0], Edge.BOTTOM: np.s_[-1]}
    for edge, place in places.items():
        found[place] += EDGE_CLASSES[edge] * (item["edges"] >> edge & 1)
    return found


# ---- the loop nest alone -----------------------------------------------------------------------------------


def elements(item: Instruction, config: AcceleratorConfig) -> list[tuple[int, int, int, int]]:
    """Half, group of columns within it, pixel and parameter word, in the order of their issue."""
    groups = config.groups_of_byte if item["packed"] else 1
    behind = classes_behind(item).ravel() * item["class_words"]
    found = []
    for chunk in range(item["chunks"]):
        for pixel, more in enumerate(behind.tolist()):
            for number in range(chunk * groups, (chunk + 1) * groups):
                half, column = divmod(number, config.chunks)
                word = item["parameter_base"] + (0 if item["uniform"] else number) + more
                found.append((half % 2, column, pixel, word))
    return found


def issued(
    config: AcceleratorConfig, items: list[Instruction]
) -> list[tuple[list[tuple[int, int, int, int]], list[bool]]]:
    """For each instruction from MATRIX what `elements` says, and which of them are told to lie outside.

    All take the halves from half 0 on: an odd number is followed by an instruction that takes one more.
    """
    control = PostControl(config=config)
    signals = (control.half, control.chunk, control.address, control.late_parameter_address, control.outside)

    async def run(ctx, item: Instruction) -> list[tuple[int, ...]]:
        """Whether an element was issued, and `signals`, of every cycle until `LATE` behind the last."""
        await hand_over(ctx, control, item)
        due, handed, released = -(-item["chunks"] // isa.groups_per_half(item, config)), 0, 0
        seen: list[tuple[int, ...]] = []
        idle = 0
        while idle <= LATE:
            idle = idle + 1 if ctx.get(control.idle) else 0
            released += ctx.get(control.release)
            give = handed < due and handed - released < 2
            ctx.set(control.full, give)
            handed += give
            seen.append((ctx.get(control.issuing), *(ctx.get(signal) for signal in signals)))
            assert len(seen) < MOST_CYCLES
            await ctx.tick()
        assert released == handed == due
        return seen

    results = []

    async def bench(ctx):
        ctx.set(control.drained, 1)
        for item in items:
            seen = await run(ctx, item)
            if -(-item["chunks"] // isa.groups_per_half(item, config)) % 2:
                await run(ctx, post(Source.MATRIX))
            at = [cycle for cycle, (issuing, *_) in enumerate(seen) if issuing]
            late = [seen[cycle + LATE][4:] for cycle in at]
            found = [(*seen[cycle][1:4], word) for cycle, (word, _) in zip(at, late, strict=True)]
            results.append((found, [bool(outside) for _, outside in late]))

    simulate(control, bench)
    return results


SIZES = [(1, 1), (1, 4), (4, 1), (2, 1), (1, 2), (2, 2), (3, 3), (5, 2)]


@LANES
@pytest.mark.parametrize("packed", [0, 1])
def test_parameters_of_edges(lanes, packed):
    """All combinations of sides; a rectangle one pixel wide or high has a pixel on both sides at once."""
    config = xnor_config(lanes, parameter_depth=128)
    items = [
        post(
            Source.MATRIX,
            **{"packed": packed, "x_count": x, "y_count": y, "edges": edges, "chunks": 2},
            **{"class_words": 5, "parameter_base": 3, "uniform": (x + edges) % 2},
        )
        for (x, y), edges in itertools.product(SIZES, range(1 << len(Edge)))
    ]
    for item, (found, outside) in zip(items, issued(config, items), strict=True):
        assert found == elements(item, config), item
        assert not any(outside), item


def test_corners_and_thin_rectangles_in_numbers():
    """What the test above takes from a formula, written down."""
    all_sides = post(Source.MATRIX, x_count=3, y_count=3, edges=15)
    assert classes_behind(all_sides).tolist() == [[4, 3, 5], [1, 0, 2], [7, 6, 8]]
    wide = post(Source.MATRIX, x_count=3, y_count=1, edges=15)
    assert classes_behind(wide).tolist() == [[10, 9, 11]]
    high = post(Source.MATRIX, x_count=1, y_count=3, edges=15)
    assert classes_behind(high).ravel().tolist() == [6, 3, 9]
    assert classes_behind(post(Source.MATRIX, edges=15)).tolist() == [[12]]
    config = xnor_config(8)
    item = post(Source.MATRIX, x_count=3, y_count=3, edges=15, class_words=7, parameter_base=2)
    ((found, _),) = issued(config, [item])
    assert [word for *_, word in found] == [30, 23, 37, 9, 2, 16, 51, 44, 58]


@LANES
def test_bytes_of_several_halves(lanes):
    """Whole bytes of a half, the last one cut short; groups of a byte in turn before the next pixel."""
    config = xnor_config(lanes)
    items = [
        post(
            Source.MATRIX,
            **{"packed": packed, "x_count": 3, "y_count": 2, "chunks": chunks, "uniform": uniform},
            **{"edges": 9, "class_words": 1},
        )
        for packed, chunks, uniform in itertools.product((1, 0), (1, 2, 3, 5), (0, 1))
    ]
    for item, (found, _) in zip(items, issued(config, items), strict=True):
        assert found == elements(item, config), item


@LANES
@pytest.mark.parametrize("packed", [0, 1])
def test_a_class_beyond_the_parameters_is_told(lanes, packed):
    """Of the pixels of that class alone, and not if the side has no class of its own."""
    config = xnor_config(lanes)
    words = config.groups_of_byte if packed else 1
    for edge, size in itertools.product(Edge, [(1, 1), (3, 2)]):
        class_words = 4
        last = config.parameter_depth - words - EDGE_CLASSES[edge] * class_words
        fields = {"packed": packed, "x_count": size[0], "y_count": size[1], "class_words": class_words}
        items = [
            post(Source.MATRIX, **fields, edges=edges, parameter_base=base)
            for edges, base in itertools.product((1 << edge, 0), (last, last + 1))
        ]
        for item, (found, outside) in zip(items, issued(config, items), strict=True):
            words_wanted = [word for *_, word in elements(item, config)]
            told = [word >= config.parameter_depth for word in words_wanted]
            assert outside == told, (edge, item)
            assert any(told) == bool(item["edges"] and item["parameter_base"] > last)
            inside = [index for index, beyond in enumerate(told) if not beyond]
            assert [found[index][3] for index in inside] == [words_wanted[index] for index in inside]


def test_a_class_far_beyond_does_not_come_round():
    """Whatever the sum's low bits, also with every side at once."""
    config = xnor_config(8, parameter_depth=128)
    items = [
        post(Source.MATRIX, edges=edges, class_words=class_words, parameter_base=3)
        for edges, class_words in itertools.product((*(1 << edge for edge in Edge), 15), (128, 4096, 8191))
    ]
    assert [outside for _, outside in issued(config, items)] == [[True]] * len(items)


CONFIGS = {
    "a byte at once": xnor_config(8),
    "8 groups": xnor_config(1, rows=8, cols=8),
    "too few banks for windows": xnor_config(2, rows=4, cols=8),
    "with a basis": xnor_config(2, rows=8, pe_kinds=["mul", "shift", "xnor"]),
    "no packing": load_config("tiny"),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_illegal_combinations(config):
    """All periods from every source, packed or not; what is refused does not start."""
    control = PostControl(config=config)
    items = [
        post(source, packed=packed, period=period)
        for source, packed, period in itertools.product(Source, (0, 1), range(1, 65))
    ]
    items.sort(key=lambda item: not isa.illegal_fields(item, config))  # what is refused first
    refused = [item for item in items if isa.illegal_fields(item, config)]

    async def bench(ctx):
        ctx.set(control.drained, 1)
        for index, item in enumerate(items):
            await hand_over(ctx, control, item)
            assert ctx.get(control.illegal) == (index < len(refused)), item
            await ctx.tick()
            assert index >= len(refused) or (ctx.get(control.idle) and not ctx.get(control.issuing)), item

    simulate(control, bench)

    def legal(source: Source, packed: int) -> list[int]:
        chosen = [item for item in items[len(refused) :] if item["source"] == source]
        return [item["period"] for item in chosen if item["packed"] == packed]

    groups = list(range(1, config.bank_groups + 1))
    assert legal(Source.MATRIX, 0) == legal(Source.CHANNEL, 0) == legal(Source.FILL, 1) == groups
    if config.has_packing:
        assert legal(Source.MATRIX, 1) == list(range(1, config.rows + 1))
        assert legal(Source.CHANNEL, 1) == groups[config.groups_of_byte - 1 :: config.groups_of_byte]
        assert legal(Source.BASIS, 1) == [] and legal(Source.BASIS, 0) == groups * config.has_basis
    else:
        assert legal(Source.MATRIX, 1) == legal(Source.CHANNEL, 1) == groups


# ---- the whole unit ----------------------------------------------------------------------------------------


def halves(ctx, unit: PostUnit, item: Instruction, values: np.ndarray):
    """Plays the accumulators for values (groups, pixels, lanes), a step at a time."""
    config = unit._config
    due = -(-item["chunks"] // isa.groups_per_half(item, config))
    handed, released = 0, 0
    answers = deque([None] * Accumulators.DRAIN_LATENCY)
    while True:
        answer = answers.popleft()
        for lane in range(config.post_lanes):
            ctx.set(unit.drained[lane], 0 if answer is None else int(answer[lane]))
        released += ctx.get(unit.release)
        group = released * config.chunks + ctx.get(unit.drain_chunk)
        pixel = ctx.get(unit.drain_address)
        known = group < len(values) and pixel < values.shape[1]
        answers.append(values[group, pixel] if known else None)
        give = handed < due and handed - released < 2
        ctx.set(unit.full, give)
        handed += give
        yield


def windows(ctx, unit: PostUnit, item: Instruction, values: np.ndarray):
    """Plays the channel unit for values (planes * period, pixels, lanes)."""
    config, period = unit._config, item["period"]
    planes = values.reshape(item["chunks"], period, -1, config.post_lanes)
    in_order = planes.transpose(0, 2, 1, 3).reshape(-1, period, config.post_lanes)
    held, wait = -1, 6
    asked = deque([None] * VALUES_LATENCY)
    while True:
        answer = asked.popleft()
        for lane in range(config.post_lanes):
            ctx.set(unit.window_values[lane], 0 if answer is None else int(answer[lane]))
        group = ctx.get(unit.window_group)
        asked.append(in_order[held, group] if held >= 0 and group < period else None)
        give = bool(ctx.get(unit.channel_active)) and wait == 0 and held + 1 < len(in_order)
        ctx.set(unit.window, give)
        held, wait = (held + 1, period - 1) if give else (held, max(0, wait - 1))
        yield


def written(
    config: AcceleratorConfig, jobs: list[tuple[Instruction, np.ndarray]], biases: np.ndarray
) -> list[list[Write]]:
    """What the unit writes for instructions one after the other, each with the values that it takes.

    `biases` (words, lanes): the parameter memory; all factors are one.
    """
    unit = PostUnit(config=config, technology=TECHNOLOGIES["simulated"]())
    words = [
        int.from_bytes(isa.pack_parameter(config, [Lane(int(b), *FACTOR_ONE) for b in row]), "little")
        for row in biases
    ]
    results: list[list[Write]] = []

    errors = Cat(unit.outside_parameters, unit.outside_activations, unit.overfull, unit.illegal)

    def take(ctx) -> None:
        assert not ctx.get(errors)
        mask = ctx.get(unit.write_mask)
        if not mask:
            return
        chosen = ctx.get(unit.write_lanes)
        banks = [
            bank
            for bank in range(config.rows)
            if mask >> bank // config.post_lanes & 1 and chosen >> bank % config.post_lanes & 1
        ]
        data = [ctx.get(unit.write_data[lane]) for lane in range(config.post_lanes)]
        found = {bank: numerics.wrap(data[bank % config.post_lanes], 8) for bank in banks}
        results[-1].append((ctx.get(unit.write_address), found))

    async def bench(ctx):
        for item, values in jobs:
            results.append([])
            await hand_over(ctx, unit, item)
            play = {Source.MATRIX: halves, Source.CHANNEL: windows}.get(item["source"])
            peer = itertools.repeat(None) if play is None else play(ctx, unit, item, values)
            read = deque([0] * Ram.LATENCY)
            for _ in range(MOST_CYCLES):
                next(peer)
                ctx.set(unit.parameter_data, unit.parameter_data.shape().from_bits(read.popleft()))
                read.append(words[ctx.get(unit.parameter_address)])
                await ctx.tick()
                take(ctx)
                if ctx.get(unit.idle):
                    break
            assert ctx.get(unit.idle)
            ctx.set(unit.full, 0)
            ctx.set(unit.window, 0)

    simulate(unit, bench)
    return results


def wanted(
    item: Instruction, config: AcceleratorConfig, values: np.ndarray, biases: np.ndarray
) -> list[Write]:
    """The same from the definition; `values` (groups, pixels, lanes)."""
    behind = np.zeros(values.shape[1], int)
    if item["source"] == Source.MATRIX:
        behind = classes_behind(item).ravel() * item["class_words"]
    groups = np.arange(len(values)) * (not item["uniform"])
    bias = biases[item["parameter_base"] + groups[:, None] + behind]
    results = np.clip(values + bias + item["zero_point"], item["low"], item["high"])
    lanes, pixels = config.post_lanes, values.shape[1]
    unit, period = 1, item["period"]
    if item["packed"]:
        signs = (results >= 0).transpose(1, 0, 2).reshape(pixels, -1, 8)
        results = (signs << np.arange(8)).sum(axis=2).astype(np.uint8).view(np.int8).T[:, :, None]
        unit = config.groups_of_byte
    order = [(group, pixel) for group in range(len(results)) for pixel in range(pixels)]
    if item["source"] == Source.CHANNEL:
        period //= unit
        order.sort(key=lambda place: (place[0] // period, place[1], place[0]))
    found = []
    for number, pixel in order:
        plane, index = divmod(number, period)
        address = item["base"] + plane * item["plane_step"] + pixel
        first = item["first_bank"] % lanes + index if item["packed"] else index * lanes
        bytes_of = results[number, pixel].tolist()
        targets = [copy * lanes + first for copy in range(config.bank_groups) if item["mask"] >> copy & 1]
        banks = {bank + lane: byte for bank in targets for lane, byte in enumerate(bytes_of)}
        banks = {bank: byte for bank, byte in banks.items() if bank < config.rows}
        if banks:
            found.append((address, banks))
    return found


def random_job(
    rng: np.random.Generator, config: AcceleratorConfig, source: Source, **fields: int
) -> tuple[Instruction, np.ndarray]:
    """Values that are as often negative as not, whatever the bias."""
    item = post(source, base=5, plane_step=9, **fields)
    units = item["chunks"] * (config.groups_of_byte if item["packed"] else 1)
    groups = item["chunks"] * item["period"] if source is Source.CHANNEL else units
    pixels = item["x_count"] * item["y_count"]
    return item, rng.integers(-40, 40, (groups, pixels, config.post_lanes))


def compare(config: AcceleratorConfig, jobs: list[tuple[Instruction, np.ndarray]]) -> None:
    biases = np.random.default_rng(SEED).integers(-20, 20, (config.parameter_depth, config.post_lanes))
    for (item, values), found in zip(jobs, written(config, jobs, biases), strict=True):
        assert found == wanted(item, config, values, biases), item


@LANES
def test_the_first_channel_is_the_lowest_bit(lanes):
    """One channel of 16 is not negative: one bit of one byte is 1."""
    config = xnor_config(lanes)
    item = post(Source.MATRIX, packed=1, chunks=2, period=2)
    jobs = [(item, np.where(np.arange(16) == channel, 0, -1).reshape(-1, 1, lanes)) for channel in range(16)]
    biases = np.zeros((config.parameter_depth, lanes), int)
    for channel, found in enumerate(written(config, jobs, biases)):
        mine = numerics.wrap(1 << channel % 8, 8)
        assert found == [(0, {0: 0 if channel >= 8 else mine}), (0, {1: mine if channel >= 8 else 0})]


@LANES
def test_bytes_go_to_the_banks_behind_the_first(lanes):
    """Every first bank, on into the next groups; copies; more bytes than a period; none behind the last."""
    config, rng = xnor_config(lanes), np.random.default_rng(SEED)
    print(f"seed {SEED}")
    starts = sorted({*range(lanes), 7})  # only its remainder counts
    masks = sorted({1, 1 << config.bank_groups - 1, 5 & (1 << config.bank_groups) - 1})
    jobs = [
        random_job(
            rng,
            config,
            Source.MATRIX,
            **{"packed": 1, "first_bank": first, "period": period, "mask": mask},
            **{"chunks": 5, "x_count": 2},
        )
        for first, period, mask in itertools.product(starts, (1, 3, 16), masks)
    ]
    compare(config, jobs)


@LANES
def test_signs_of_windows(lanes):
    """Every group of a window in turn; edges mean nothing here."""
    config, rng = xnor_config(lanes), np.random.default_rng(SEED)
    periods = range(config.groups_of_byte, config.bank_groups + 1, config.groups_of_byte)
    jobs = [
        random_job(
            rng,
            config,
            Source.CHANNEL,
            **{"packed": 1, "first_bank": first, "period": period, "chunks": 2, "uniform": uniform},
            **{"x_count": 3, "edges": 15, "class_words": 1},
        )
        for first, period, uniform in itertools.product((0, 3, 7), periods, (0, 1))
    ]
    compare(config, jobs)


@LANES
def test_instructions_in_turn(lanes):
    """Nothing is left of a packed instruction in the next one, nor of the edges: all sources, any fields."""
    config, rng, draw = (
        xnor_config(lanes, parameter_depth=128),
        np.random.default_rng(SEED),
        random.Random(SEED),
    )
    print(f"seed {SEED}")
    jobs = []
    for _ in range(40):
        source, packed = draw.choice((Source.MATRIX, Source.MATRIX, Source.CHANNEL)), draw.getrandbits(1)
        unit = config.groups_of_byte if packed and source is Source.CHANNEL else 1
        longest = config.rows if packed and source is Source.MATRIX else config.bank_groups
        fields = {
            **{"packed": packed, "period": unit * draw.randint(1, longest // unit)},
            **{"x_count": draw.randint(1, 3), "y_count": draw.randint(1, 3), "chunks": draw.randint(1, 3)},
            **{"mask": draw.randint(1, (1 << config.bank_groups) - 1), "first_bank": draw.randrange(8)},
            **{"edges": draw.randrange(16), "class_words": draw.randrange(6), "uniform": draw.getrandbits(1)},
            **{"zero_point": draw.randint(-9, 9), "low": draw.choice((-128, -3, 0)), "parameter_base": 2},
        }
        jobs.append(random_job(rng, config, source, **fields))
    compare(config, jobs)


def test_filling_knows_no_signs():
    """FILL writes its value into all banks of the groups, packed or not."""
    config = xnor_config(4)
    item = post(
        Source.FILL, packed=1, first_bank=3, zero_point=-77, mask=9, x_count=2, edges=15, class_words=900
    )
    (found,) = written(config, [(item, np.zeros((1, 2, 4), int))], np.zeros((config.parameter_depth, 4), int))
    banks = dict.fromkeys([*range(4), *range(12, 16)], -77)
    assert found == [(0, banks), (1, banks)]
