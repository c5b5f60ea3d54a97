"""Depthwise layers on the channel unit, beside the layer in front on the array."""

import dataclasses

import numpy as np
import pytest
from tests.gen.test_residual import Networks, check_levels

from popshift.gen.compilation import compile_graph
from popshift.gen.graph import Window
from popshift.hw.config import load_config
from popshift.sim.cycles import predicted_cycles

SEED = 3
_TINY = load_config("tiny").replace(
    activation_depth=8192, weight_depth=4096, parameter_depth=512, accumulator_depth=128, depthwise=True
)
ARRAYS = {
    "a group": _TINY.replace(rows=8, cols=8, tile_rows=4, post_lanes=8),
    "groups": _TINY.replace(rows=4, cols=4, post_lanes=1, requantise="compact", multiplier_stages=2),
    "wide": _TINY.replace(rows=4, cols=12, tile_cols=1, post_lanes=2, window_depth=32),
    "tall": _TINY.replace(rows=12, cols=4, tile_cols=1, post_lanes=4, multiplier_stages=4),
}
WINDOWS = {
    "3x3": Window((3, 3), padding=(1, 1, 1, 1)),
    "3x3, stride 2": Window((3, 3), (2, 2), (0, 1, 1, 0)),
    "3x1": Window((3, 1), padding=(1, 1, 0, 0)),
    "1x2, strides 3 and 1": Window((1, 2), (3, 1)),
    "2x3, dilated": Window((2, 3), padding=(1, 1, 1, 1), dilation=(3, 1)),
    "3x2, dilated across": Window((3, 2), padding=(1, 1, 2, 2), dilation=(1, 2)),
}


def separable(config, window: Window, channels: int, size: tuple[int, int] = (11, 7), seed: int = SEED):
    """A pointwise, a depthwise, and another pointwise layer."""
    made = Networks(seed, config.requantise)
    made.size, made.channels = size, channels
    made.tensor("x", 5)
    first = made.convolution("x")
    made.size = window.output_size(*size)
    middle = made.convolution(first, groups=channels)
    made.graph.outputs = [made.convolution(middle)]
    weight = made.rng.integers(-127, 128, (channels, 1, *window.kernel)).astype(np.int8)
    layers = made.graph.operators
    layers[1] = dataclasses.replace(layers[1], window=window, weight=weight)
    return made


def layers_of(graph, config):
    return [layer for layer in compile_graph(graph, config).program.layers if layer.macs]


@pytest.mark.parametrize("channels", [7, 36])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("array", ARRAYS)
def test_separable_layers_are_the_golden_models(array, window, channels):
    config = ARRAYS[array]
    made = separable(config, WINDOWS[window], channels)
    check_levels(made.graph, config, made.images(), rtl=channels == 36)


@pytest.mark.parametrize("array", ["a group", "tall"])
def test_planes_are_made_while_the_array_works_on_the_next(array):
    config = ARRAYS[array]
    made = separable(config, WINDOWS["3x3"], 36)
    _, middle, _ = layers_of(made.graph, config)
    assert middle.mapping["execution"].startswith("channel unit")
    assert middle.mapping["beside"] == "layer t1"
    assert middle.bottleneck.endswith("beside layer t1") and middle.utilisation < 1
    assert list(middle.mapping["chain"].values()) == sorted(middle.mapping["chain"].values(), reverse=True)
    alone = compile_graph(made.graph, config.replace(depthwise=False)).program
    assert predicted_cycles(compile_graph(made.graph, config).program) < 0.9 * predicted_cycles(alone)


def test_lines_run_along_the_side_that_needs_fewer_words():
    config = ARRAYS["a group"]
    for size, execution in (((20, 5), "channel unit, down"), ((5, 20), "channel unit")):
        made = separable(config, WINDOWS["3x3"], 8, size)
        assert layers_of(made.graph, config)[1].mapping["execution"] == execution


@pytest.mark.parametrize(
    "window", [Window((5, 3), padding=(2, 2, 1, 1)), Window((3, 3), dilation=(2, 2)), Window((3, 3), (9, 9))]
)
def test_other_windows_run_on_the_array(window):
    """Kernels that are too large, dilated in both directions, or strides beyond what a field holds."""
    config = ARRAYS["a group"]
    made = separable(config, window, 20, (12, 12))
    execution = layers_of(made.graph, config)[1].mapping["execution"]
    assert execution == "dense"
    check_levels(made.graph, config, made.images(), rtl=False)


def test_pixels_beyond_the_accumulators_come_in_turn():
    """The layer in front takes several pixel tiles: nothing is beside it, and everything is right."""
    config = ARRAYS["groups"].replace(accumulator_depth=16)
    made = separable(config, WINDOWS["3x3"], 16)
    _, middle, _ = layers_of(made.graph, config)
    assert middle.mapping["execution"].startswith("channel unit") and "beside" not in middle.mapping
    check_levels(made.graph, config, made.images(), rtl=True)


def test_a_layer_in_front_that_is_cut_leaves_no_plane_out():
    """The front comes in two parts, of half of the planes each; all planes are made beside the second."""
    config = ARRAYS["a group"].replace(weight_depth=128)
    made = separable(config, WINDOWS["3x3"], 32)
    front = made.graph.operators[0]
    weight = made.rng.integers(-127, 128, (32, 5, 3, 3)).astype(np.int8)
    made.graph.operators[0] = dataclasses.replace(front, window=WINDOWS["3x3"], weight=weight)
    layers = layers_of(made.graph, config)
    assert [layer.mapping.get("beside") for layer in layers[:3]] == [None, None, layers[1].name]
    check_levels(made.graph, config, made.images(), rtl=True)


def test_memories_that_are_just_large_enough():
    """Where a layer's output lies on its predecessor's input, or programs are cut, nothing is lost."""
    for words, program in ((320, 512), (560, 64), (8192, 64)):
        config = ARRAYS["groups"].replace(activation_depth=words, program_depth=program, parameter_depth=48)
        made = separable(config, WINDOWS["3x3"], 12, (6, 6))
        check_levels(made.graph, config, made.images(), rtl=words == 560)


def test_what_dividing_the_layer_in_front_adds_is_counted():
    """At every depth of the program memory the segments keep to it, and one segment comes before cycles."""
    config = ARRAYS["a group"]
    made = separable(config, WINDOWS["3x3"], 36)
    beside, alone = (
        sum(len(segment.instructions) for segment in compile_graph(made.graph, each).program.segments)
        for each in (config, config.replace(depthwise=False))
    )
    assert alone < beside
    for depth in range(128, beside + 1):
        program = compile_graph(made.graph, config.replace(program_depth=depth)).program
        assert max(len(segment.instructions) for segment in program.segments) <= depth
        assert (len(program.segments) == 1) == (depth >= alone)
