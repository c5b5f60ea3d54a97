"""What becomes of each layer: verdicts, mapping, where the cycles go."""

import dataclasses
import json
from pathlib import Path

import mapping_reference as ref
import numpy as np
import pytest
import torch
from test_compilation import SAME, graph_of_every_operator
from torch import nn

from popshift.firmware_py.program import LayerRecord
from popshift.gen import explain
from popshift.gen.compilation import compile_graph
from popshift.gen.graph import Pooling, Window
from popshift.gen.mapping.bottleneck import Breakdown
from popshift.hw.config import load_config
from popshift.hw.errors import InputError, ModelError
from popshift.hw.matrix.feeder import shortest_pass
from popshift.hw.status import CYCLE_CAUSES
from popshift.sim.cycles import predicted_cycles

TINY = load_config("tiny")
END = 5
"""Cycles of the instruction behind the last layer."""


def save(module: nn.Module, example: torch.Tensor, path: Path) -> str:
    torch.export.save(torch.export.export(module.eval(), (example,)), path)
    return str(path)


def layer_of(config, build, shape=(4, 8, 8)) -> LayerRecord:
    """The record of the only layer that `build` appends to a network."""
    graph = ref.network(config, shape)
    graph.outputs.append(build(np.random.default_rng(1), graph))
    return compile_graph(graph, config).program.layers[-1]


# ---- verdicts ---------------------------------------------------------------------------------------------


def test_a_network_that_maps(tmp_path: Path):
    module = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    spec = save(module, torch.randn(1, 1, 8, 8), tmp_path / "good.pt2")
    found = explain.explain_model(spec, TINY, torch.randn(4, 1, 8, 8))
    assert found.maps and not found.problem and not found.refused and found.notes == ()
    assert [(f.operator, f.reason) for f in found.operators] == [
        ("conv2d", ""),
        ("batch_norm", "folded into 0"),
        ("relu", "fused into 0"),
    ]
    (layer,) = found.layers
    assert found.cycles == layer.predicted_cycles + END and found.segments == 1
    peak = found.cycles * TINY.peak_macs_per_cycle
    assert found.utilisation == pytest.approx(layer.macs / peak)
    assert json.loads(json.dumps(found.to_dict()))["maps"] is True


def test_without_calibration_data_the_mapping_is_the_same_and_a_note_says_so(tmp_path: Path):
    spec = save(nn.Conv2d(2, 3, 3), torch.randn(1, 2, 8, 8), tmp_path / "bare.pt2")
    without = explain.explain_model(spec, TINY)
    given = explain.explain_model(spec, TINY, torch.rand(4, 2, 8, 8))
    assert without.layers == given.layers
    assert "no calibration data" in without.notes[0] and given.notes == ()
    with pytest.raises(InputError, match="calibration data: the shape must be"):
        explain.explain_model(spec, TINY, torch.rand(4, 2, 9, 9))


def test_every_operator_that_cannot_run_is_named(tmp_path: Path):
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.PReLU())
    found = explain.explain_model(save(module, torch.randn(1, 1, 8, 8), tmp_path / "bad.pt2"), TINY)
    assert not found.maps and found.layers == ()
    assert [(f.layer, f.operator) for f in found.refused] == [("1", "gelu"), ("2", "prelu")]
    assert all(f.reason and f.remedy for f in found.refused)
    assert [found.to_dict()[name] for name in ("maps", "cycles", "utilisation")] == [False, None, None]


def test_what_becomes_of_dropout_and_softmax_is_said(tmp_path: Path):
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Softmax(1))
    found = explain.explain_model(save(module, torch.randn(1, 4), tmp_path / "end.pt2"), TINY)
    assert [(f.operator, f.reason) for f in found.operators] == [
        ("linear", ""),
        ("dropout", "no effect in inference"),
        ("softmax", "left to the host: it does not change which output is largest"),
    ]


def test_a_network_too_large_for_a_memory(tmp_path: Path):
    spec = save(nn.Conv2d(1, 8, 3), torch.randn(1, 1, 100, 100), tmp_path / "big.pt2")
    found = explain.explain_model(spec, TINY)
    assert not found.maps and not found.refused and found.layers == ()
    assert "raise activation_depth" in found.problem


def test_what_cannot_be_read_at_all_is_an_error():
    with pytest.raises(ModelError, match="there is no such file"):
        explain.explain_model("missing.pt2", TINY)


def test_a_program():
    program = compile_graph(graph_of_every_operator(), TINY, "every").program
    found = explain.explain_program(program)
    assert (found.network, found.config, found.maps) == ("every", "tiny", True)
    renamed = [
        dataclasses.replace(layer, kind="convolution") for layer in found.layers if layer.output == "y"
    ]
    assert [layer.kind for layer in found.layers if layer.output == "y"] == ["linear"]
    assert [layer for layer in found.layers if layer.output != "y"] + renamed == list(program.layers)
    assert "linear" not in [layer.kind for layer in found.layers if layer.output != "y"]
    one_by_one = sum(layer.predicted_cycles for layer in program.layers) + END
    assert 0.9 * one_by_one < found.cycles == predicted_cycles(program) < one_by_one


# ---- mapping and bottleneck -------------------------------------------------------------------------------


def test_mapping_on_one_line():
    records = compile_graph(graph_of_every_operator(), TINY).program.layers
    texts = {layer.name: explain.mapping_text(layer) for layer in records}
    assert texts["padding of x"].endswith(" words")
    matrix = next(layer for layer in records if layer.name == "layer a").mapping
    for part in (
        f"period {matrix['input_period']}, copies {matrix['input_copies']}",
        f"row tiles {matrix['row_tiles']}, column tiles {matrix['column_tiles']}",
        f"pixel tiles {matrix['pixel_tiles']} of {matrix['tile_height']} x {matrix['tile_width']}",
    ):
        assert part in texts["layer a"]
    assert "window 4" in texts["layer m"]


@pytest.mark.parametrize("config", [TINY, *ref.CONFIGS], ids=lambda config: config.name)
def test_the_cycles_by_cause_add_up(config):
    for layer in compile_graph(graph_of_every_operator(config), config).program.layers:
        spent = layer.mapping["cycles"]
        assert sum(spent.values()) == layer.predicted_cycles
        assert min(spent.values()) >= 0


def test_multiply_accumulates_and_how_full_the_array_is():
    full = layer_of(TINY, lambda rng, graph: ref.convolution(rng, graph, "x", "y", 4, SAME))
    assert full.bottleneck == "multiply-accumulates"
    rows, columns = (9 / 12, 3 / 4)  # 9 taps in 3 tiles of 4 rows; 3 channels in 4 columns
    part = layer_of(TINY, lambda rng, graph: ref.convolution(rng, graph, "x", "y", 3, SAME), (1, 16, 16))
    assert part.bottleneck == (
        f"multiply-accumulates, rows {100 * rows:.0f} % filled, columns {100 * columns:.0f} % filled"
    )
    assert part.mapping["cycles"]["matrix"] == 3 * 256


def test_weights_are_the_bottleneck_of_a_fully_connected_layer():
    layer = layer_of(TINY, lambda rng, graph: ref.convolution(rng, graph, "x", "y", 8, Window((8, 8))))
    assert (
        layer.bottleneck == f"loading weights: {shortest_pass(TINY)} cycles a tile, the shortest pass lasts 1"
    )
    assert shortest_pass(TINY) == TINY.rows + 2, "two row tiles"
    assert shortest_pass(load_config("a16")) == 16, "four: rows of lower ones are loaded in time"


def test_the_post_unit_is_the_bottleneck_of_a_shallow_layer():
    config = ref.configuration("slow-post", 4, 8, 1)
    layer = layer_of(config, lambda rng, graph: ref.convolution(rng, graph, "x", "y", 8, Window((1, 1))))
    assert layer.bottleneck == "post unit and pipeline filling"
    assert layer.mapping["cycles"]["post"] > layer.mapping["cycles"]["matrix"]


def test_the_channel_unit_is_the_bottleneck_of_a_pool():
    layer = layer_of(
        TINY, lambda rng, graph: ref.pool(rng, graph, "x", "y", Pooling.MAX, Window((3, 3), (1, 1)))
    )
    assert layer.bottleneck == "channel unit: one word a cycle"
    assert layer.mapping["cycles"]["channel"] == 36 * 9


def test_no_instruction_no_cycles():
    assert Breakdown.of([], 0, TINY).to_dict() == {"matrix": 0, "channel": 0, "weights": 0, "post": 0}


def test_the_last_step_can_be_measured():
    """Counted by the hardware: the model's figure, and where the cycles went."""
    program = compile_graph(graph_of_every_operator(), TINY, "every").program
    predicted, counted = explain.explain_program(program), explain.explain_program(program, measure=True)
    assert predicted.measured == () and predicted.measured_cycles == 0
    assert counted.measured_cycles == counted.cycles == predicted.cycles
    assert [layer["cycles"] for layer in counted.measured] == [o.predicted_cycles for o in program.layers]
    assert counted.layers == predicted.layers
    for layer in counted.measured:
        assert layer["cycles"] == sum(layer[cause.name.lower()] for cause in CYCLE_CAUSES)
    layer = next(layer for layer in counted.layers if "chain" in layer.mapping)
    twice = explain.with_measured_chain(layer, 2 * layer.predicted_cycles)
    steps = list(twice.mapping["chain"].values())
    assert steps[:-1] == list(layer.mapping["chain"].values())[:-1]
    assert steps[-1] == pytest.approx(list(layer.mapping["chain"].values())[-1] / 2, abs=0.01)
