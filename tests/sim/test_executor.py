"""The executor on hand-written programs: what every instruction does, and every way to stop."""

import numpy as np
import pytest

from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.isa import ChannelOperation, Counter, Kind, Lane, Opcode, Source, Status, instruction
from popshift.hw.numerics import Requantise, identity_multiplier
from popshift.hw.packet import Space, bank_mask
from popshift.sim.executor import Machine
from popshift.sim.hazards import HazardError

CONFIG = load_config("tiny")  # 4 x 4, two lanes, halves of 64
BEYOND = CONFIG.activation_depth
AFTER_MATRIX = isa.LENGTHS[Opcode.MATRIX]
END = instruction(Opcode.END)


def mark(layer: int) -> isa.Instruction:
    return instruction(Opcode.MARK, layer=layer)


def matrix(**changes: int) -> isa.Instruction:
    fields = dict.fromkeys(("kind", "weight_base", "base", "x_step", "y_step"), 0)
    counts = dict.fromkeys(("x_count", "y_count", "k_tiles", "n_tiles"), 1)
    return instruction(Opcode.MATRIX, **{**fields, **counts, **changes})


def post(source: int = Source.MATRIX, **changes: int) -> isa.Instruction:
    steps = ("x_step", "y_step", "plane_step")
    fields = dict.fromkeys((*steps, "uniform", "zero_point", "parameter_base", "base"), 0)
    counts = dict.fromkeys(("period", "chunks", "x_count", "y_count", "mask"), 1)
    limits = {"source": source, "low": -128, "high": 127}
    return instruction(Opcode.POST, **{**fields, **counts, **limits, **changes})


def channel(**changes: int) -> isa.Instruction:
    steps = ("base", "x_step", "y_step", "kx_step", "ky_step", "plane_step")
    counts = ("x_count", "y_count", "kx_count", "ky_count", "planes", "period")
    fields = {"operation": ChannelOperation.MAX, **dict.fromkeys(steps, 0), **dict.fromkeys(counts, 1)}
    return instruction(Opcode.CHANNEL, **{**fields, **changes})


def load(target: Machine, *items: isa.Instruction) -> None:
    target.write(Space.PROGRAM, 0, np.array(isa.encode_all(items), "<u4").tobytes())


def machine(*items: isa.Instruction, config: AcceleratorConfig = CONFIG, **options) -> Machine:
    """A machine with the program, a weight tile of the identity, and parameters of factor one and bias
    ``10 * word + lane`` (0 from word 8 on).
    """
    found = Machine(config, **options)
    load(found, *items)
    rows = np.zeros((config.rows, config.weight_word_bytes), np.uint8)
    rows[:, 2:] = np.eye(config.rows, config.cols, dtype=np.uint8)
    found.write(Space.WEIGHT, 0, rows.tobytes())
    one = identity_multiplier(config.requantise)
    for word in range(config.parameter_depth):
        lanes = [Lane(10 * word + lane if word < 8 else 0, *one) for lane in range(config.post_lanes)]
        found.write(Space.PARAMETER, word, isa.pack_parameter(config, lanes))
    return found


def put(target: Machine, bank: int, word: int, *values: int) -> None:
    mask = bank_mask(target.config, [bank])
    target.write(Space.ACTIVATION, word, mask + np.array(values, np.int8).tobytes())


def got(target: Machine, bank: int, word: int, count: int = 1) -> list[int]:
    return np.frombuffer(target.read(bank, word, count), np.int8).tolist()


# ---- what instructions do ----------------------------------------------------------------------------------


def test_matrix_and_post_move_pixels_through_the_identity():
    size = {"x_count": 2, "y_count": 2, "x_step": 1}
    m = machine(
        matrix(**size, y_step=9), post(**size, y_step=3, base=100, period=2, chunks=2, uniform=1), END
    )
    for bank in range(4):
        put(m, bank, 0, bank, bank + 10)
        put(m, bank, 10, bank + 20, bank + 30)
    assert m.run() is Status.DONE
    for bank in range(4):
        found = got(m, bank, 100, 2) + got(m, bank, 104, 2)
        assert found == [bank + 10 * pixel + bank % 2 for pixel in range(4)]
    assert m.counters[Counter.WEIGHT_WORDS] == 4
    assert m.counters[Counter.ACTIVATION_READS] == m.counters[Counter.MATRIX] == 4
    assert m.counters[Counter.ACTIVATION_WRITES] == 8


def test_rows_are_gathered_at_their_own_offsets():
    m = machine(matrix(base=5), post(chunks=2, period=2, base=50, uniform=1), END)
    words = np.zeros((4, 6), np.uint8)
    words[:, 0] = [0, 1, 2, 3]
    words[:, 2:] = np.eye(4, dtype=np.uint8) * 255  # -1
    m.write(Space.WEIGHT, 0, words.tobytes())
    for bank in range(4):
        put(m, bank, 5, *[11 * bank + i for i in range(4)])
    m.run()
    assert [got(m, bank, 50)[0] for bank in range(4)] == [-(12 * bank) + bank % 2 for bank in range(4)]


def test_planes_masks_and_parameters_follow_the_channels():
    """Three groups of channels over two halves, a period of one group: three planes, two copies of each."""
    m = machine(matrix(n_tiles=2), post(chunks=3, period=1, plane_step=7, base=30, mask=0b11), END)
    m.write(Space.WEIGHT, 4, bytes(4 * 6))
    put(m, 0, 0, 5)
    assert m.run() is Status.DONE
    for bank in range(4):
        found = [got(m, bank, 30 + 7 * plane)[0] for plane in range(3)]
        assert found == [[5, 10, 20], [1, 11, 21]][bank % 2]


def test_row_tiles_accumulate():
    m = machine(matrix(k_tiles=3), post(base=9), END)
    words = np.zeros((12, 6), np.uint8)
    words[:, 2] = 127
    m.write(Space.WEIGHT, 0, words.tobytes())
    factor = identity_multiplier(Requantise.EXACT)[0] >> 13, 0
    m.write(Space.PARAMETER, 0, isa.pack_parameter(CONFIG, [Lane(0, *factor)] * 2))
    for bank in range(4):
        put(m, bank, 0, -64)
    m.run()
    assert got(m, 0, 9) == [round(12 * 127 * -64 / 8192)]


@pytest.mark.parametrize("width", [24, 32])
def test_accumulators_wrap(width):
    config = CONFIG.replace(weight_depth=1 << 17, accumulator_width=width, residual=False)
    m = machine(matrix(k_tiles=1 << (width - 17)), post(base=9), END, config=config)
    # Tiles of four products of 2**14, 2**31 in all where there are 32 bits: they hold it as -2**31.
    words = np.zeros((1 << 17, 6), np.uint8)
    words[:, 2] = 128
    m.write(Space.WEIGHT, 0, words.tobytes())
    m.write(Space.PARAMETER, 0, isa.pack_parameter(config, [Lane(0, 1 << (38 - width), 0), Lane()]))
    for bank in range(4):
        put(m, bank, 0, -128)
    assert m.run() is Status.DONE
    assert got(m, 0, 9) == [-64]


def test_long_sums_are_exact():
    """2048 products of 127 * 127: more than a float32 significand holds, and odd."""
    tiles = 512
    config = CONFIG.replace(weight_depth=4 * tiles)
    m = machine(matrix(k_tiles=tiles), post(base=9), END, config=config)
    words = np.zeros((4 * tiles, 6), np.uint8)
    words[:, 2] = 127
    words[0, 2] = 126
    m.write(Space.WEIGHT, 0, words.tobytes())
    exact = 127 * (127 * 2048 - 1)
    one = identity_multiplier(Requantise.EXACT)
    m.write(Space.PARAMETER, 0, isa.pack_parameter(config, [Lane(5 - exact, *one), Lane()]))
    for bank in range(4):
        put(m, bank, 0, 127)
    assert m.run() is Status.DONE
    assert got(m, 0, 9) == [5]


@pytest.mark.parametrize(("operation", "fold"), [(ChannelOperation.MAX, max), (ChannelOperation.SUM, sum)])
def test_channel_folds_windows(operation, fold):
    """A 2 x 2 window, stride 2, over 4 x 4 pixels of two planes; every outer step undoes the inner loops."""
    kernel = {"kx_count": 2, "ky_count": 2, "kx_step": 1, "ky_step": 4 - 1}
    steps = {"x_step": 2 - 5, "y_step": 8 - 2 - 5, "plane_step": 16 - 8 - 2 - 5}
    place = {"x_step": 1, "y_step": 1, "plane_step": 4, "base": 200, "uniform": 1}
    size = {"x_count": 2, "y_count": 2, "period": 2}
    m = machine(
        channel(operation=operation, planes=2, **size, **kernel, **steps),
        post(Source.CHANNEL, chunks=2, **size, **place),
        END,
    )
    values = np.random.default_rng(3).integers(-20, 20, (4, 32))
    for bank in range(4):
        put(m, bank, 0, *values[bank])
    assert m.run() is Status.DONE
    for bank in range(4):
        windows = values[bank].reshape(2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(8, 4)
        assert got(m, bank, 200, 8) == [fold(window.tolist()) + bank % 2 for window in windows]
    assert m.counters[Counter.CHANNEL] == m.counters[Counter.ACTIVATION_READS] == 32


def test_channel_parameters_follow_plane_and_group():
    sink = post(Source.CHANNEL, chunks=2, period=2, plane_step=1, base=9)
    m = machine(channel(planes=2, period=2), sink, END)
    assert m.run() is Status.DONE
    assert [got(m, bank, 9, 2) for bank in range(4)] == [[0, 20], [1, 21], [10, 30], [11, 31]]


def test_fill_writes_the_masked_groups_of_every_plane():
    shape = {"x_count": 2, "y_count": 2, "x_step": 1, "y_step": 4, "plane_step": 20}
    m = machine(post(Source.FILL, zero_point=-7, mask=0b10, chunks=2, base=3, **shape), END)
    assert m.run() is Status.DONE
    memory = m.activations[0]
    words = [plane + y + x + 3 for plane in (0, 20) for y in (0, 5) for x in (0, 1)]
    assert (memory[2:, words] == -7).all() and np.count_nonzero(memory) == 2 * len(words)


def test_limits_clamp_and_the_zero_point_shifts():
    m = machine(matrix(), post(chunks=2, period=2, base=9, zero_point=100, low=-27, high=110, uniform=1), END)
    for bank, value in enumerate((120, -126, -128, 3)):
        put(m, bank, 0, value)
    m.run()
    assert [got(m, bank, 9)[0] for bank in range(4)] == [110, -25, -27, 104]


def test_images_of_a_batch_do_not_mix():
    m = machine(matrix(), post(base=9), END, batch=5)
    m.activations[:, 0, 0] = [1, 2, 3, 4, 5]
    m.run()
    assert m.activations[:, 0, 9].tolist() == [1, 2, 3, 4, 5]


# ---- how units wait for each other -------------------------------------------------------------------------


def test_a_matrix_instruction_goes_on_when_the_post_unit_frees_a_half():
    m = machine(matrix(n_tiles=4), post(chunks=8, period=1, plane_step=1, base=9), END)
    m.write(Space.WEIGHT, 0, bytes(16 * 6))
    assert m.run() is Status.DONE
    assert got(m, 0, 9, 8) == [0, 10, 20, 30, 40, 50, 60, 70]


@pytest.mark.parametrize(
    "program",
    [
        (matrix(), END),
        (matrix(), mark(0), END),
        (post(), END),
        (channel(), END),
        (post(Source.CHANNEL), END),
        (channel(), post(Source.CHANNEL, x_count=2), END),
        (matrix(n_tiles=3), matrix(), post(), END),  # the second waits for the first, which waits for a post
        (matrix(n_tiles=2), post(chunks=2), END),
    ],
)
def test_a_wait_that_never_ends_stops_the_machine(program):
    assert machine(*program).run() is Status.NO_PROGRESS


def test_marks_pause_only_when_asked():
    m = machine(mark(3), mark(4), END)
    assert m.run(pause=True) is Status.PAUSED and m.layer == 3
    assert m.run() is Status.PAUSED  # only resume goes on
    assert m.resume() is Status.PAUSED and m.layer == 4
    assert m.resume() is Status.DONE
    assert m.resume() is Status.DONE
    assert m.run() is Status.DONE and m.layer == 4


def test_a_run_may_start_anywhere():
    m = machine(matrix(), mark(7), END)
    assert m.run(pc=AFTER_MATRIX) is Status.DONE and m.layer == 7


# ---- errors ------------------------------------------------------------------------------------------------

ERRORS = {
    Status.ILLEGAL_INSTRUCTION: [
        ((mark(0), matrix(kind=Kind.REBUILD)), 1),
        ((matrix(kind=Kind.SHIFT),), 0),
        ((matrix(kind=3),), 0),
        ((post(Source.BASIS),), 0),
        ((post(Source.FILL, period=3),), 0),
        ((channel(period=3),), 0),
        ((channel(operation=2),), 0),
    ],
    Status.ACTIVATION_ADDRESS: [
        ((mark(0), matrix(base=BEYOND)), 1),
        ((matrix(x_count=2, base=BEYOND - 1, x_step=1),), 0),
        ((channel(base=BEYOND - 1, kx_count=2, kx_step=1), post(Source.CHANNEL)), 0),
        ((post(Source.FILL, base=BEYOND),), 0),
        ((post(Source.FILL, base=3, x_count=2, x_step=-4),), 0),
        ((matrix(), post(base=BEYOND - 1, chunks=2, plane_step=1)), AFTER_MATRIX),
    ],
    Status.WEIGHT_ADDRESS: [((matrix(weight_base=CONFIG.weight_depth - 3),), 0)],
    Status.PARAMETER_ADDRESS: [
        ((matrix(), post(parameter_base=CONFIG.parameter_depth)), AFTER_MATRIX),
        ((matrix(), post(parameter_base=CONFIG.parameter_depth - 1, chunks=2)), AFTER_MATRIX),
    ],
    Status.ACCUMULATOR_ADDRESS: [
        ((matrix(x_count=13, y_count=5),), 0),
        ((matrix(), post(x_count=65)), AFTER_MATRIX),
    ],
}


@pytest.mark.parametrize(
    ("status", "program", "pc"), [(status, *case) for status, cases in ERRORS.items() for case in cases]
)
def test_errors_stop_the_machine(status, program, pc):
    m = machine(*program, END)
    assert m.run() is status and m.pc == pc
    assert m.run() is status  # only a reset helps
    m.reset()
    load(m, END)
    assert m.run() is Status.DONE


def test_an_empty_program_memory_stops_at_once():
    assert Machine(CONFIG).run() is Status.ILLEGAL_INSTRUCTION


def test_gathering_beyond_the_memory_stops_the_machine():
    m = machine(matrix(base=10), post(), END)
    for offset, status in ((BEYOND - 11, Status.DONE), (BEYOND - 10, Status.ACTIVATION_ADDRESS)):
        m.write(Space.WEIGHT, 2, offset.to_bytes(2, "little") + bytes(4))
        assert m.run() is status


def test_the_program_counter_names_the_instruction_that_failed():
    """The third weight tile is out of reach; by then the sequencer has handed out the POST."""
    m = machine(matrix(n_tiles=3, weight_base=CONFIG.weight_depth - 8), post(chunks=6), END)
    assert m.run() is Status.WEIGHT_ADDRESS and m.pc == 0


def test_the_program_ends_with_the_memory():
    marks = [mark(0)] * CONFIG.program_depth
    m = machine(*marks)
    assert m.run() is Status.PROGRAM_ADDRESS and m.pc == CONFIG.program_depth
    m = machine(*marks)
    m.write(Space.PROGRAM, CONFIG.program_depth - 1, int(Opcode.MATRIX).to_bytes(4, "little"))
    assert m.run() is Status.PROGRAM_ADDRESS and m.pc == CONFIG.program_depth - 1


def test_a_cycle_limit_stops_a_long_run():
    huge = post(Source.FILL, chunks=65536, x_count=4096, y_count=4096)
    assert machine(huge, END).run(cycle_limit=1_000_000) is Status.CYCLE_LIMIT
    endless = channel(x_count=4096, y_count=4096, kx_count=64, ky_count=64, planes=4096)
    drain = post(Source.CHANNEL, x_count=4096, y_count=4096, chunks=4096, uniform=1)
    assert machine(endless, drain, END).run(cycle_limit=1_000_000) is Status.CYCLE_LIMIT
    assert machine(matrix(), post(), END).run(cycle_limit=1000) is Status.DONE


def test_random_programs_always_stop():
    """Random words, and random fields behind good opcodes; every run ends with a status."""
    seed = 20
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    seen = set()
    for number in range(100):
        m = machine()
        m.scramble(number)
        words = rng.integers(0, 1 << 32, CONFIG.program_depth, np.uint32)
        if number % 3:
            words[rng.random(len(words)) < 0.6] &= 0xFFFF
            words = words & ~np.uint32(15) | rng.integers(1, 6, len(words), np.uint32)
        m.write(Space.PROGRAM, 0, words.astype("<u4").tobytes())
        status = m.run(cycle_limit=20_000)
        assert status.is_error or status is Status.DONE
        seen.add(status)
    assert len(seen) >= 4, seen


# ---- hazards and memories ----------------------------------------------------------------------------------


def test_hazards_are_found_between_barriers_only():
    copy = (matrix(), post(base=0))
    with pytest.raises(
        HazardError, match="2 words may be read while they are written, the first: bank 0, word 0"
    ):
        machine(*copy, END, check_hazards=True).run()
    assert machine(*copy, END).run() is Status.DONE
    apart = (matrix(), post(base=1), mark(0), post(Source.FILL, base=0), END)
    assert machine(*apart, check_hazards=True).run() is Status.DONE
    onto_itself = (channel(base=4), post(Source.CHANNEL, base=4), END)
    with pytest.raises(HazardError, match="bank 0, word 4"):
        machine(*onto_itself, check_hazards=True).run()
    taken = (channel(base=4), post(Source.CHANNEL, base=5), post(Source.FILL, base=4), END)
    filled = (post(Source.FILL, base=4), channel(base=4), post(Source.CHANNEL, base=5), END)
    for in_turn in (taken, filled):  # a CHANNEL is at work while the POST is that takes its windows
        assert machine(*in_turn, check_hazards=True).run() is Status.DONE


@pytest.mark.parametrize(
    ("space", "word", "data"),
    [
        (Space.WEIGHT, 0, bytes(7)),
        (Space.WEIGHT, CONFIG.weight_depth, bytes(6)),
        (Space.PROGRAM, CONFIG.program_depth - 1, bytes(8)),
        (Space.ACTIVATION, BEYOND - 1, bytes(3)),
        (Space.PARAMETER, -1, bytes(CONFIG.parameter_word_bytes)),
    ],
)
def test_writes_beyond_a_memory_are_refused(space, word, data):
    with pytest.raises(ValueError, match=f"words of the {space.name.lower()} memory"):
        Machine(CONFIG).write(space, word, data)


def test_reads_beyond_the_memory_are_refused():
    with pytest.raises(ValueError, match="bank 4 are outside the activation memory"):
        Machine(CONFIG).read(4, 0, 1)
    with pytest.raises(ValueError, match=r"words 1023 \.\. 1024 of bank 0"):
        Machine(CONFIG).read(0, 1023, 2)


def test_a_batch_has_at_least_one_image():
    with pytest.raises(ValueError, match="batch must be at least 1, not 0"):
        Machine(CONFIG, batch=0)
