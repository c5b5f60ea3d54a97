"""From a network to a program file that carries the network it was made from."""

import dataclasses
import json
from pathlib import Path

import mapping_reference as ref
import numpy as np
import pytest
import torch
from torch import nn

import popshift
from popshift.firmware_py import program_file
from popshift.firmware_py.program import Program
from popshift.gen import graph_file
from popshift.gen.compilation import (
    GRAPH,
    attached_graph,
    compile_graph,
    compile_model,
    compile_module,
    model_name,
)
from popshift.gen.compress.ranges import QuantisationOptions
from popshift.gen.execution import execute
from popshift.gen.graph import Convolution, Graph, Pooling, Window
from popshift.hw.config import load_config
from popshift.hw.errors import ConfigError, InputError, ModelError, ProgramError

TINY = load_config("tiny")
SAME = Window((3, 3), padding=(1, 1, 1, 1))


def graph_of_every_operator(config=TINY) -> Graph:
    rng = np.random.default_rng(5)
    graph = ref.network(config, (3, 8, 8), zero_point=7)
    ref.convolution(rng, graph, "x", "a", 6, SAME, zero_point=-3)
    ref.pool(rng, graph, "a", "m", Pooling.MAX, Window((2, 2), (2, 2)))
    ref.pool(rng, graph, "m", "v", Pooling.AVERAGE, Window((2, 2), (2, 2)), 4, uniform=False)
    ref.convolution(rng, graph, "v", "y", 5, Window((2, 2)))
    graph.outputs.append("y")
    return graph


def same_graph(one: Graph, other: Graph) -> None:
    assert (one.mode, one.inputs, one.outputs) == (other.mode, other.inputs, other.outputs)
    assert list(one.tensors.items()) == list(other.tensors.items())
    for mine, theirs in zip(one.operators, other.operators, strict=True):
        assert type(mine) is type(theirs)
        for name in ("name", "input", "output", "window", "operation"):
            assert getattr(mine, name, None) == getattr(theirs, name, None)
        pairs = [(mine.requantisation, theirs.requantisation, ("multiplier", "shift"))]
        if isinstance(mine, Convolution):
            pairs.append((mine, theirs, ("weight", "bias")))
        for a, b, names in pairs:
            for name in names:
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)
        assert mine.requantisation.low == theirs.requantisation.low
        assert mine.requantisation.high == theirs.requantisation.high


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def images(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


# ---- the graph as a file ----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ref.CONFIGS[1:3], ids=lambda config: str(config.requantise))
def test_a_graph_survives_its_file(config):
    graph = graph_of_every_operator(config)
    window = Window((2, 3), stride=(2, 1), padding=(1, 0, 2, 1), dilation=(2, 1))
    ref.convolution(np.random.default_rng(0), graph, "x", "w", 2, window)
    data = graph_file.to_bytes(graph)
    same_graph(graph, graph_file.from_bytes(data))
    assert graph_file.to_bytes(graph_file.from_bytes(data)) == data


def test_a_damaged_graph_is_refused():
    data = graph_file.to_bytes(graph_of_every_operator())
    for bad in (b"", data[:100], data[:-1], b"\0" * 64):
        with pytest.raises(ProgramError, match="the graph cannot be read"):
            graph_file.from_bytes(bad)
    other = data.replace(rb"\"format\": %d" % graph_file.FORMAT, rb"\"format\": 1")
    assert other != data
    with pytest.raises(
        ProgramError, match=f"format version 1, this popshift reads version {graph_file.FORMAT}"
    ):
        graph_file.from_bytes(other)


# ---- what a user sees in Python ----------------------------------------------------------------------------


def test_a_softmax_left_to_the_host_is_warned_of(network: nn.Module):
    note = "softmax (1) is left to the host: it does not change which output is largest"
    with pytest.warns(UserWarning) as caught:
        compiled = compile_module(nn.Sequential(network, nn.Softmax(1)), images(), TINY)
    assert [str(warning.message) for warning in caught] == [note] and compiled.notes == (note,)
    assert caught[0].filename == __file__


def test_calibration_without_a_batch_is_named(network: nn.Module):
    expected = (
        r"calibration data: it lacks the batch dimension: its shape is \(1, 4, 4\); put the batch first"
    )
    with pytest.raises(InputError, match=expected):
        compile_module(network, images()[0], TINY)
    with pytest.raises(InputError, match=expected):
        compile_module(network, images()[0], TINY, example=images(1))
    with pytest.raises(ModelError, match="does not run on an example"):
        compile_module(network, images()[:, :, 1:], TINY)


def test_repr_is_one_short_line(network: nn.Module):
    compiled = compile_module(network, images(), TINY)
    program, (segment,) = compiled.program, compiled.program.segments
    size = f"{segment.weights.nbytes + segment.parameters.nbytes + segment.instructions.nbytes:,} bytes"
    (output,) = compiled.graph.outputs
    assert repr(program) == f"<Program network for tiny: input 1x4x4 -> {output} 3, {size}>"
    assert repr(compiled) == repr(program).replace("Program", "Compiled")
    assert repr(segment) == f"<Segment of {len(program.layers)} layers, {size}>"
    assert repr(compiled.graph) == f"<Graph input 1x4x4 -> {output} 3, 2 operators>"


def test_real_outputs_have_the_shape_of_the_module(tmp_path: Path):
    torch.manual_seed(2)
    module, x = nn.Conv1d(2, 3, 3), torch.randn(16, 2, 9)
    compiled = compile_module(module, x, TINY)
    compiled.program.save(tmp_path / "net.pop")
    loaded = Program.load(tmp_path / "net.pop")
    (layout,) = loaded.outputs
    done = execute(loaded, x.numpy()[:, :, None], "isa")
    wanted = module(x).detach().numpy()
    real = done.real_outputs[layout.name]
    assert real.shape == wanted.shape and real.dtype == np.float64
    assert np.abs(real - wanted).max() < 4 * layout.scale
    np.testing.assert_array_equal(
        real.ravel(), layout.scale * (done.outputs[layout.name].ravel().astype(float) - layout.zero_point)
    )
    bare = execute(dataclasses.replace(loaded, attachments={}), x.numpy()[:, :, None], "isa")
    assert bare.real_outputs[layout.name].shape == (16, 3, 1, 7)


# ---- attachments ------------------------------------------------------------------------------------------


def test_the_program_file_carries_the_graph(tmp_path: Path):
    graph = graph_of_every_operator()
    program = compile_graph(graph, TINY, "net").program
    program.save(tmp_path / "net.pop")
    loaded = popshift.load(tmp_path / "net.pop")
    same_graph(graph, attached_graph(loaded))
    assert loaded.to_bytes() == program.to_bytes() == compile_graph(graph, TINY, "net").program.to_bytes()


def test_attachments_are_opaque_ordered_and_checked():
    program = compile_graph(graph_of_every_operator(), TINY).program
    extra = {"b": b"\x00\xff", "a": b""}
    attached = dataclasses.replace(program, attachments=extra)
    data = attached.to_bytes()
    assert Program.from_bytes(data).attachments == extra
    turned = dataclasses.replace(program, attachments=dict(reversed(extra.items())))
    assert turned.to_bytes() == data
    place = program.to_bytes().rfind(graph_file.to_bytes(graph_of_every_operator())[-64:])
    altered = bytearray(program.to_bytes())
    altered[place] ^= 1
    with pytest.raises(ProgramError, match="damaged or altered"):
        Program.from_bytes(bytes(altered))


def test_a_file_from_before_attachments_loads():
    program = compile_graph(graph_of_every_operator(), TINY).program
    manifest, arrays = program_file.unpack(program.to_bytes(), "test")
    del manifest["attachments"], arrays[f"attachment.{GRAPH}"]
    old = Program.from_bytes(program_file.pack(manifest, arrays))
    assert old.attachments == {}
    with pytest.raises(ProgramError, match="does not carry the network it was compiled from; compile"):
        attached_graph(old)


# ---- compiling --------------------------------------------------------------------------------------------


def test_compile_a_module(network):
    compiled = popshift.compile(network, images(), "tiny", name="small")
    assert compiled.program.name == "small" and compiled.program.config == TINY
    assert compiled.float_graph is not None and compiled.notes == tuple(compiled.float_graph.notes)
    found = compiled.run(images(), "isa")
    scale = compiled.program.outputs[0].scale
    real = scale * (found.outputs[compiled.program.outputs[0].name].reshape(8, 3).astype(float))
    wanted = network(images()).detach().numpy() + scale * compiled.program.outputs[0].zero_point
    assert np.abs(real - wanted).max() < 6 * scale, "int8 is close to float"


def test_compile_is_deterministic(network):
    first, second = (compile_module(network, images(), TINY).program.to_bytes() for _ in range(2))
    assert first == second


def test_arrays_bytes_and_options_are_taken(network):
    array = np.clip(images().numpy() * 40 + 128, 0, 255).astype(np.uint8)
    minmax = compile_module(network, array, TINY)
    same = compile_module(network, array.astype(np.float64), TINY, example=images(1))
    assert minmax.program.to_bytes() == same.program.to_bytes()
    narrowed = compile_module(
        network, array, TINY, options=QuantisationOptions(ranges="percentile", percentile=90)
    )
    assert narrowed.program.inputs[0].scale < minmax.program.inputs[0].scale
    report = minmax.quantisation_report()
    assert report is not None and report.samples == 8
    assert compile_graph(minmax.graph, TINY).quantisation_report() is None


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ("words", "calibration data: not an array of numbers"),
        (np.float32(1.0), "calibration data: there is no sample"),
        (np.zeros((0, 1, 4, 4)), "calibration data: there is no sample"),
        (np.full((2, 1, 4, 4), np.nan, np.float32), "calibration data: 32 of 32 values are NaN or infinite"),
    ],
)
def test_bad_calibration_data_is_refused(network, calibration, message):
    with pytest.raises(InputError, match=message):
        compile_module(network, calibration, TINY)


def test_calibration_of_another_shape_than_the_example_is_refused(network):
    with pytest.raises(
        InputError, match=r"calibration data: the shape must be \(N, 1, 4, 4\), not \(8, 1, 5, 5\)"
    ):
        compile_module(network, torch.zeros(8, 1, 5, 5), TINY, example=images(1))


def test_nan_weights_are_refused(network):
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        compile_module(network, images(), TINY)


def test_a_model_file_needs_calibration_data(network, tmp_path: Path):
    path = tmp_path / "small.pt2"
    torch.export.save(torch.export.export(network.eval(), (images(1),)), path)
    with pytest.raises(InputError, match=r"small.pt2: no calibration data.*--calibration x.npy"):
        compile_model(str(path), TINY)
    compiled = compile_model(str(path), "tiny", images())
    assert compiled.program.name == "small"
    module = compile_module(network, images(), TINY)
    np.testing.assert_array_equal(
        next(iter(compiled.run(images(), "isa").outputs.values())),
        next(iter(module.run(images(), "isa").outputs.values())),
    )


def test_other_refusals(network):
    with pytest.raises(ConfigError, match="no configuration named 'tinny'"):
        compile_module(network, images(), "tinny")
    with pytest.raises(ModelError, match="quantised for exact requantisation"):
        compile_graph(graph_of_every_operator(), TINY.replace(requantise="compact"))
    with pytest.raises(ModelError, match="raise activation_depth to at least"):
        compile_module(nn.Conv2d(1, 1, 3), torch.zeros(2, 1, 60, 60), TINY)
    with pytest.raises(ModelError, match="no configuration has more than 65536 words a row"):
        compile_module(nn.Conv2d(1, 1, 3), torch.zeros(2, 1, 200, 200), TINY)


@pytest.mark.parametrize(
    ("spec", "name"), [("a/b.net.pt2", "b.net"), ("package.module:build", "build"), ("net.pt2", "net")]
)
def test_model_name(spec, name):
    assert model_name(spec) == name


def test_golden_runs_from_the_attachment():
    graph = graph_of_every_operator()
    program = Program.from_bytes(compile_graph(graph, TINY).program.to_bytes())
    x = ref.corner_values(np.random.default_rng(2), (3, 3, 8, 8))
    wanted = ref.evaluate(graph, {"x": x})
    found = execute(program, x, "golden").tensors
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, strict=True)


def test_attachments_need_no_torch():
    """What the driver reads must not need more than it has; the graph stays bytes there."""
    program = compile_graph(graph_of_every_operator(), TINY).program
    assert isinstance(program.attachments[GRAPH], bytes)
    assert json.loads(json.dumps(sorted(program.attachments))) == [GRAPH]


def test_calibration_data_that_say_nothing_are_told():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    for value, told in [(0.0, "are 0: the ranges mean nothing"), (2.5, "are 2.5: the ranges mean nothing")]:
        with pytest.warns(UserWarning, match=told):
            compile_module(network, torch.full((4, 2, 6, 6), value), "tiny")
    assert not compile_module(network, torch.randn(4, 2, 6, 6), "tiny").notes
