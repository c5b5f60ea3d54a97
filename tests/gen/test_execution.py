"""A program at every level gives the same integers, and a wrong one is found where it begins."""

import dataclasses

import mapping_reference as ref
import numpy as np
import pytest
import torch
from test_compilation import SAME, TINY, graph_of_every_operator

import popshift
from popshift.firmware_py.program import Program
from popshift.firmware_py.session import Accelerator
from popshift.gen.compilation import Compiled, compile_graph
from popshift.gen.device import open_device
from popshift.gen.execution import Difference, Level, execute, first_difference, verify
from popshift.gen.graph import Window
from popshift.hw.config import load_config
from popshift.hw.errors import ConfigError, DeviceError, InputError, ProgramError
from popshift.hw.isa import CYCLE_CAUSES, Counter
from popshift.sim.cycles import predicted_cycles


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_graph(graph_of_every_operator(), TINY, "every")


@pytest.fixture(scope="module")
def board():
    with open_device("sim:tiny") as device:
        yield device


def batch(count: int = 5, shape=(3, 8, 8)):
    return ref.corner_values(np.random.default_rng(8), (count, *shape))


def broken(program: Program, index: int) -> Program:
    """The program with one bit of every weight of layer `index` (a convolution) wrong."""
    words = [int(layer.mapping.get("weight_words", 0)) for layer in program.layers]
    segment = program.segments[0]
    weights = segment.weights.copy()
    weights[sum(words[:index]) : sum(words[: index + 1]), 2:] ^= 0x40
    return dataclasses.replace(program, segments=[dataclasses.replace(segment, weights=weights)])


def layer_of(program: Program, tensor: str) -> int:
    return next(i for i, layer in enumerate(program.layers) if layer.output == tensor and layer.macs)


# ---- comparing --------------------------------------------------------------------------------------------


def test_first_difference():
    a = {
        "p": np.zeros((2, 1, 2, 2), np.int8),
        "q": np.zeros((2, 3, 1, 1), np.int8),
        "only": np.ones(1, np.int8),
    }
    b = {name: values.copy() for name, values in a.items() if name != "only"}
    order = ["p", "q", "only"]
    assert first_difference(a, b, order) is None
    b["q"][1, 2] = 5
    b["q"][1, 1] = -4
    assert first_difference(a, b, order) == Difference("q", (1, 1, 0, 0), 0, -4)
    b["p"][1, 0, 1, 0] = 9
    found = first_difference(a, b, order)
    assert found == Difference("p", (1, 0, 1, 0), 0, 9)
    assert str(found) == "tensor p, index (1, 0, 1, 0): 9 instead of 0"
    assert first_difference(a, b, ["q"]) == Difference("q", (1, 1, 0, 0), 0, -4)


# ---- golden and isa ---------------------------------------------------------------------------------------


def test_golden_and_isa_agree_on_every_tensor(compiled):
    golden, isa = (compiled.run(batch(), level) for level in ("golden", "isa"))
    assert {"x", "a", "m", "v", "y"} == set(golden.tensors)
    assert {"a", "m", "v", "y"} <= set(isa.tensors)
    assert first_difference(golden.tensors, isa.tensors, list(golden.tensors)) is None
    assert list(golden.outputs) == list(isa.outputs) == ["y"]
    assert golden.outputs["y"].shape == (5, 5, 1, 1) and golden.outputs["y"].dtype == np.int8
    assert golden.counters is None and isa.layer_counters is None
    assert (golden.level, isa.level) == (Level.GOLDEN, Level.ISA)
    assert len(np.unique(golden.outputs["y"])) > 3, "the comparison would see something"


def test_inputs_in_every_form_are_the_same(compiled):
    program = compiled.program
    layout = program.inputs[0]
    real = (batch().astype(np.float64) - layout.zero_point) * layout.scale
    forms = [batch(), real, real.astype(np.float32), torch.from_numpy(real), {"x": torch.from_numpy(batch())}]
    results = [popshift.execute(program, form, "isa").outputs["y"] for form in forms]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0], strict=True)


@pytest.mark.parametrize("level", ["golden", "isa"])
def test_bad_inputs_are_refused(compiled, level):
    with pytest.raises(InputError, match=r"input x: the shape must be \(n, 3, 8, 8\)"):
        compiled.run(batch(2, (3, 8, 9)), level)
    with pytest.raises(InputError, match="the dtype must be float"):
        compiled.run(batch().astype(np.int32), level)
    with pytest.raises(InputError, match="the batch is empty"):
        compiled.run(batch()[:0], level)
    with pytest.raises(InputError, match="the inputs must be x, not z"):
        compiled.run({"z": batch()}, level)


def test_an_unknown_level_is_refused(compiled):
    for function in (execute, verify):
        with pytest.raises(InputError, match="there is no level 'silicon'; choose golden, isa, rtl"):
            function(compiled.program, batch(), "silicon")


def test_verify_isa_finds_where_it_begins(compiled):
    assert verify(compiled.program, batch(), "golden")[1] is None
    assert verify(compiled.program, batch(), "isa")[1] is None
    for tensor in ("a", "y"):
        bad = broken(compiled.program, layer_of(compiled.program, tensor))
        found, difference = verify(bad, batch(), "isa")
        assert difference is not None and difference.tensor == tensor
        good = compiled.run(batch(), "golden").tensors[tensor]
        assert good[difference.index] == difference.wanted
        assert found.tensors[tensor][difference.index] == difference.got != difference.wanted
        before = np.ravel_multi_index(difference.index, good.shape)
        np.testing.assert_array_equal(found.tensors[tensor].ravel()[:before], good.ravel()[:before])


def test_without_a_graph_nothing_is_compared(compiled):
    bare = dataclasses.replace(compiled.program, attachments={})
    with pytest.raises(ProgramError, match="does not carry the network"):
        verify(bare, batch(), "isa")
    assert verify(bare, batch(), "isa", graph=compiled.graph)[1] is None


# ---- rtl --------------------------------------------------------------------------------------------------


def test_rtl_gives_the_same_and_counts(compiled, board):
    found, difference = verify(compiled.program, batch(), "rtl", board=board)
    assert difference is None
    assert list(found.tensors) == ["y"] and found.outputs["y"].shape == (5, 5, 1, 1)
    assert found.counters is not None and found.layer_counters is not None
    assert [entry.layer for entry in found.layer_counters] == [
        layer.name for layer in compiled.program.layers
    ]
    for layer, entry in zip(compiled.program.layers, found.layer_counters, strict=True):
        cycles = entry.counters[Counter.CYCLES]
        assert abs(layer.predicted_cycles - cycles) <= 0.02 * cycles, layer.name
        assert sum(entry.counters[cause] for cause in CYCLE_CAUSES) == cycles
        spent = layer.mapping["cycles"]
        assert sum(spent.values()) == layer.predicted_cycles
        assert spent["matrix"] == entry.counters[Counter.MATRIX]
        assert spent["channel"] == entry.counters[Counter.CHANNEL]
    layers = sum(entry.counters[Counter.CYCLES] for entry in found.layer_counters)
    assert found.counters[Counter.CYCLES] == predicted_cycles(compiled.program)
    assert 0 <= layers + 8 - found.counters[Counter.CYCLES] <= 0.1 * layers, "layers overlap a little"


def test_rtl_reads_every_tensor(compiled, board):
    golden = compiled.run(batch(2), "golden")
    found = compiled.run(batch(2), "rtl", board=board, every_tensor=True)
    assert {"x", "a", "m", "v", "y"} <= set(found.tensors)
    assert first_difference(golden.tensors, found.tensors, list(golden.tensors)) is None
    assert all(len(values) == 2 for values in found.tensors.values())


def test_rtl_finds_where_a_difference_begins(compiled, board):
    bad = broken(compiled.program, layer_of(compiled.program, "a"))
    wanted = verify(bad, batch(), "isa")[1]
    assert wanted is not None and wanted.index[0] == 0
    assert verify(bad, batch(), "rtl", board=board)[1] == wanted


def test_rtl_finds_it_in_a_later_image(board):
    rng = np.random.default_rng(6)
    graph = ref.network(TINY, (2, 4, 4))
    ref.convolution(rng, graph, "x", "a", 4, SAME)
    ref.convolution(rng, graph, "a", "y", 4, Window((4, 4)))
    graph.outputs.append("y")
    for index, operator in enumerate(graph.operators):  # clamp limits must not hide the difference
        open_range = dataclasses.replace(operator.requantisation, low=-128, high=127)
        graph.operators[index] = dataclasses.replace(operator, requantisation=open_range)
    program = compile_graph(graph, TINY).program
    x = batch(4, (2, 4, 4))
    x[:2] = 0  # whatever the weights of the first layer are, they make no difference
    bad = broken(program, layer_of(program, "a"))
    wanted = verify(bad, x, "isa")[1]
    assert wanted is not None and (wanted.tensor, wanted.index[0]) == ("a", 2)
    assert verify(bad, x, "rtl", board=board)[1] == wanted


def test_rtl_of_several_segments_sums_its_layers(board):
    rng = np.random.default_rng(4)
    graph = ref.network(TINY, (4, 8, 8))
    ref.convolution(rng, graph, "x", "a", 8, SAME)
    ref.convolution(rng, graph, "a", "y", 12, Window((8, 8)))
    graph.outputs.append("y")
    program = compile_graph(graph, TINY).program
    assert len(program.segments) > 1
    found, difference = verify(program, batch(2, (4, 8, 8)), "rtl", board=board)
    assert difference is None and found.counters is not None and found.layer_counters is not None
    for counter in (Counter.CYCLES, Counter.MATRIX, Counter.WEIGHT_WORDS):
        assert found.counters[counter] == sum(entry.counters[counter] for entry in found.layer_counters)


def test_rtl_starts_a_board_of_its_own(compiled):
    found = popshift.execute(compiled.program, batch(1))
    assert found.level is Level.RTL
    assert first_difference(compiled.run(batch(1), "golden").outputs, found.outputs, ["y"]) is None


def test_a_board_of_another_configuration_is_refused(board):
    config = load_config("tiny").replace(weight_depth=512)
    with pytest.raises(ProgramError, match="weight_depth 512 against 1024"):
        compile_graph(graph_of_every_operator(), config).run(batch(1), "rtl", board=board)


# ---- devices ----------------------------------------------------------------------------------------------


def test_open_names_what_is_wrong():
    with pytest.raises(InputError, match="no configuration to simulate"):
        popshift.open("sim:")
    with pytest.raises(ConfigError, match="no configuration named 'tinny'"):
        popshift.open("sim:tinny")
    with pytest.raises(InputError, match="only a serial port has a speed; leave --baud out"):
        popshift.open("tcp:localhost:1", baud=9600)
    with pytest.raises(DeviceError, match="/dev/tty-none: cannot open the serial port"):
        popshift.open("/dev/tty-none", config="icebreaker")


def test_an_opened_device_answers():
    with popshift.open("sim:", config=TINY) as device:
        assert isinstance(device, Accelerator)
        assert device.identify().digest == TINY.digest
