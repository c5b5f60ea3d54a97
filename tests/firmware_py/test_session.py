"""Programs on the behavioural device, through the whole driver."""

import numpy as np
import pytest
from device_model import DeviceModel, MachineStopError, ModelTransport
from example_program import CYCLES, SHAPE, example_machine, example_program, expected_tensors

from popshift.firmware_py.program import Program
from popshift.firmware_py.protocol import Link
from popshift.firmware_py.session import Accelerator
from popshift.hw import packet
from popshift.hw.config import load_config
from popshift.hw.errors import DeviceError, InputError, ProgramError
from popshift.hw.isa import Counter, Status
from popshift.hw.packet import Space, Type
from popshift.sim.faults import FaultyTransport


def images(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (count, *SHAPE), np.int8)


def accelerator(program: Program, **options: int) -> tuple[Accelerator, DeviceModel]:
    device = DeviceModel(program.config, example_machine(program), **options)
    return Accelerator(ModelTransport(device)), device


def requests(device: DeviceModel, kind: Type) -> int:
    return sum(frame.type == kind for frame in device.executed)


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("busy_polls", [0, 3])
def test_run_gives_the_programs_outputs(segments: int, busy_polls: int) -> None:
    program = example_program(segments=segments)
    board, device = accelerator(program, busy_polls=busy_polls)
    board.load(program)
    batch = images(4)
    outputs = board.run(batch)
    assert set(outputs) == {"dense_out"}
    expected = np.stack([expected_tensors(program, image)["dense_out"] for image in batch])
    np.testing.assert_array_equal(outputs["dense_out"], expected, strict=True)
    assert requests(device, Type.RUN) == 4 * segments


def test_loading_writes_all_memories_once() -> None:
    program = example_program()
    board, device = accelerator(program)
    board.load(program)
    segment = program.segments[0]
    for space, image in ((Space.WEIGHT, segment.weights), (Space.PARAMETER, segment.parameters)):
        np.testing.assert_array_equal(device.memories[space][: len(image)], image)
    words = device.memories[Space.PROGRAM].view("<u4")[: len(segment.instructions), 0]
    np.testing.assert_array_equal(words, segment.instructions)
    writes = requests(device, Type.WRITE)
    board.run(images(2))
    memory_writes = [frame for frame in device.executed[-100:] if frame.type == Type.WRITE]
    assert requests(device, Type.WRITE) > writes
    assert all(frame.address >> packet.SPACE_SHIFT == Space.ACTIVATION for frame in memory_writes[writes:])


def test_run_allows_four_times_the_prediction() -> None:
    program = example_program()
    board, device = accelerator(program)
    board.load(program)
    board.run(images(1))
    assert device.last_run == packet.Run(0, 0, 4 * sum(CYCLES) + 100_000)


def test_float_inputs_are_quantised() -> None:
    program = example_program()
    board, _ = accelerator(program)
    board.load(program)
    batch = images(1)
    real = 0.5 * (batch.astype(np.float64) + 3)
    np.testing.assert_array_equal(board.run(real)["dense_out"], board.run({"image": batch})["dense_out"])


@pytest.mark.parametrize("segments", [1, 3])
def test_a_profile_has_every_layers_counters_and_tensor(segments: int) -> None:
    program = example_program(segments=segments)
    board, device = accelerator(program, busy_polls=1)
    board.load(program)
    (image,) = batch = images(1)
    device.receive(b"noise before the run\0")
    profile = board.run_profiled(batch)
    expected = expected_tensors(program, image)
    assert [layer.name for layer in profile.layers] == ["conv", "pool", "dense"]
    for layer, record, cycles in zip(profile.layers, program.layers, CYCLES, strict=True):
        np.testing.assert_array_equal(layer.tensor, expected[record.output], strict=True)
        assert layer.counters[Counter.CYCLES] == cycles
        assert layer.counters[Counter.MATRIX] == cycles // 2
        assert layer.counters[Counter.LINK_ERRORS] == 0
    np.testing.assert_array_equal(profile.outputs["dense_out"], expected["dense_out"][None], strict=True)
    assert device.last_run.pause == 1
    with pytest.raises(InputError, match="a profile takes one image; give a batch of one"):
        board.run_profiled(images(2))


def test_counters_are_those_of_the_last_run() -> None:
    program = example_program()
    board, _ = accelerator(program)
    board.load(program)
    board.run(images(3))
    assert board.counters()[Counter.CYCLES] == sum(CYCLES)
    assert board.state().status == Status.DONE


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_over_a_bad_wire_gives_the_same_bytes(seed: int) -> None:
    print(f"seed {seed}")
    program = example_program(segments=3)
    device = DeviceModel(program.config, example_machine(program), busy_polls=2)
    wire = FaultyTransport(ModelTransport(device), seed)
    board = Accelerator(Link(wire, latency=0.004, tries=12))
    board.load(program)
    batch = images(15)
    expected = [expected_tensors(program, image) for image in batch]
    outputs = board.run(batch)["dense_out"]
    np.testing.assert_array_equal(outputs, np.stack([tensors["dense_out"] for tensors in expected]))
    for layer, record in zip(board.run_profiled(batch[:1]).layers, program.layers, strict=True):
        np.testing.assert_array_equal(layer.tensor, expected[0][record.output])
        assert layer.counters[Counter.CYCLES] == CYCLES[program.layers.index(record)]
    assert all(wire.faults[fault] for fault in ("damage", "drop", "double", "reorder"))


def test_an_error_status_names_meaning_place_and_layer() -> None:
    program = example_program()

    def machine(device: DeviceModel):
        yield 0
        device.counters[Counter.CYCLES] = 77
        raise MachineStopError(Status.ACTIVATION_ADDRESS, 1)

    device = DeviceModel(program.config, machine)
    board = Accelerator(ModelTransport(device))
    board.load(program)
    with pytest.raises(DeviceError) as caught:
        board.run(images(1))
    assert str(caught.value) == (
        "the model, program example: ACTIVATION_ADDRESS: "
        "an activation address lies outside the activation memory "
        "(instruction at word 1 in layer pool, cycle 77); reset the device and load again; "
        "if it happens again, report it with the program file"
    )
    assert board.state().status == Status.ACTIVATION_ADDRESS
    device._machine = example_machine(program)
    for memory in device.memories.values():
        memory[:] = 0
    board.reset()
    expected = expected_tensors(program, images(1)[0])["dense_out"]
    np.testing.assert_array_equal(board.run(images(1))["dense_out"][0], expected)


def test_a_mark_of_no_layer_is_an_error() -> None:
    program = example_program()
    board = Accelerator(ModelTransport(DeviceModel(program.config, lambda device: iter([9]))))
    board.load(program)
    with pytest.raises(DeviceError, match="the program paused at layer 9, it has 3"):
        board.run_profiled(images(1))


def test_a_program_for_another_configuration_is_refused_before_anything_is_written() -> None:
    program = example_program()
    device = DeviceModel(load_config("a8"))
    board = Accelerator(ModelTransport(device))
    with pytest.raises(
        ProgramError, match="compiled for configuration tiny, not for configuration a8: rows 4"
    ):
        board.load(program)
    assert requests(device, Type.WRITE) == requests(device, Type.RESET) == 0


def test_nothing_runs_before_a_program_is_loaded() -> None:
    board = Accelerator(ModelTransport(DeviceModel(load_config("tiny"))))
    with pytest.raises(DeviceError, match=r"the model: no program is loaded; call load\(program\) first"):
        board.run(images(1))


def test_bad_inputs_reach_no_device() -> None:
    program = example_program()
    board, device = accelerator(program)
    board.load(program)
    before = len(device.executed)
    with pytest.raises(InputError, match="the shape must be"):
        board.run(np.zeros((1, 3, 5, 5)))
    assert len(device.executed) == before


def test_loading_stops_what_an_earlier_session_left_running() -> None:
    program = example_program()
    device = DeviceModel(program.config, example_machine(program), busy_polls=10**9)
    first = Link(ModelTransport(device))
    first.open()
    first.request(Type.RUN, 0, packet.RUN.pack(0, 0, 0))
    device._busy_polls = 0
    with Accelerator(ModelTransport(device)) as board:
        board.load(program)
        expected = expected_tensors(program, images(1)[0])["dense_out"]
        np.testing.assert_array_equal(board.run(images(1))["dense_out"][0], expected)
        transport = board.link.transport
    assert isinstance(transport, ModelTransport) and transport.closed


def test_who_comes_back_loads_only_what_the_device_has_lost() -> None:
    program = example_program()
    board, device = accelerator(program)
    board.load(program)
    written = requests(device, Type.WRITE)
    expected = expected_tensors(program, images(1)[0])["dense_out"]
    for lost in (False, True):
        board.close()
        if lost:  # the power, too
            device = DeviceModel(program.config, example_machine(program))
        before = requests(device, Type.WRITE)
        board = Accelerator(ModelTransport(device))
        board.load(program)
        assert requests(device, Type.WRITE) - before == (written if lost else 0)
        np.testing.assert_array_equal(board.run(images(1))["dense_out"][0], expected)


def test_a_device_without_a_signature_is_loaded_by_every_session() -> None:
    program = example_program()
    device = DeviceModel(program.config, example_machine(program))
    device.signs = False
    expected = expected_tensors(program, images(1)[0])["dense_out"]
    counts = []
    for _ in range(2):
        before = requests(device, Type.WRITE)
        board = Accelerator(ModelTransport(device))
        board.load(program)
        counts.append(requests(device, Type.WRITE) - before)
        np.testing.assert_array_equal(board.run(images(1))["dense_out"][0], expected)
    assert counts[0] == counts[1] > 0


def test_a_device_that_does_not_hold_what_it_was_sent_is_refused() -> None:
    program = example_program()
    board, device = accelerator(program)
    take = device._write

    def spoilt(frame):
        done = take(frame)
        device.signature ^= 1 << 31
        return done

    device._write = spoilt
    with pytest.raises(DeviceError, match="memories do not hold what was sent"):
        board.load(program)


def test_a_device_that_falls_silent_during_a_run_is_reported() -> None:
    program = example_program()
    board, _ = accelerator(program, busy_polls=10**9)
    transport = board.link.transport
    assert isinstance(transport, ModelTransport)
    board.load(program)
    transport.answers_before_silence = 40
    with pytest.raises(DeviceError, match="the model: the device stopped answering"):
        board.run(images(1))
