"""Layers that use the columns of the array otherwise than one for each filter: depthwise layers with windows,
and filters for several pixels side by side.
"""

import dataclasses

import numpy as np
import pytest
from tests.gen.test_residual import Networks, check_levels

from popshift.gen.compilation import compile_graph
from popshift.gen.graph import Convolution, Window
from popshift.hw.config import load_config
from popshift.hw.errors import ConfigError

SEED = 5
_TINY = load_config("tiny").replace(
    activation_depth=8192, weight_depth=4096, parameter_depth=512, accumulator_depth=48, window_depth=16
)
ARRAYS = {
    "three lines": _TINY.replace(rows=12, cols=12, tile_rows=4, tile_cols=2, post_lanes=4),
    "two lines": _TINY.replace(rows=8, cols=8, tile_rows=8, tile_cols=8, post_lanes=2, requantise="compact"),
    "one line": _TINY.replace(rows=4, cols=4, tile_rows=2, tile_cols=1, post_lanes=4),
    "rows beyond": _TINY.replace(rows=16, cols=8, tile_rows=4, tile_cols=1, post_lanes=4, rebuild=True),
}
WINDOWS = {
    "3x3": Window((3, 3), padding=(1, 1, 1, 1)),
    "3x3, stride 2": Window((3, 3), (2, 2), (0, 1, 1, 0)),
    "1x5": Window((1, 5), padding=(0, 0, 2, 2)),
    "4x2, strides 1 and 3": Window((4, 2), (1, 3), (2, 0, 0, 1)),
    "2x3 dilated": Window((2, 3), padding=(1, 1, 2, 2), dilation=(1, 2)),
    "7x7": Window((7, 7), (2, 1), (3, 3, 3, 3)),
    "whole image": Window((9, 11)),
}


def depthwise(config, window: Window, channels: int, size: tuple[int, int] = (9, 11)) -> Networks:
    made = Networks(SEED, config.requantise)
    made.size, made.channels = size, channels
    made.tensor("x", channels)
    made.graph.outputs = [made.convolution("x", 3, groups=channels)]
    (layer,) = made.graph.operators
    assert isinstance(layer, Convolution)
    weight = made.rng.integers(-127, 128, (channels, 1, *window.kernel)).astype(np.int8)
    made.graph.operators = [dataclasses.replace(layer, window=window, weight=weight)]
    result = made.graph.tensors[layer.output]
    shape = (channels, *window.output_size(*size))
    made.graph.tensors[layer.output] = dataclasses.replace(result, shape=shape)
    return made


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("array", ARRAYS)
def test_depthwise_layers_are_the_golden_models(array, window, channels):
    """Every kernel, whichever way it runs; and some of them by the hardware."""
    config = ARRAYS[array]
    made = depthwise(config, WINDOWS[window], channels)
    rtl = channels == 20 and window in ("3x3", "4x2, strides 1 and 3")
    check_levels(made.graph, config, made.images(), rtl=rtl)


@pytest.mark.parametrize(
    ("array", "passes"), [("three lines", 1), ("two lines", 2), ("one line", 3), ("rows beyond", 1)]
)
def test_windows_take_a_pass_for_every_block_of_taps(array, passes):
    config = ARRAYS[array]
    made = depthwise(config, WINDOWS["3x3"], config.cols)
    (layer,) = compile_graph(made.graph, config).program.layers[-1:]
    assert layer.mapping["execution"].startswith("windows")
    assert layer.mapping["row_tiles"] == passes
    assert layer.mapping["other_executions"]["dense"] > layer.predicted_cycles


def test_lines_run_along_the_longer_side():
    """Fewer lines, fewer pixels read twice: 5 pixels wide, lines are columns of the image or rows."""
    config = ARRAYS["three lines"].replace(window_depth=8, accumulator_depth=256)
    made = depthwise(config, WINDOWS["3x3"], 12, (24, 5))
    (layer,) = compile_graph(made.graph, config).program.layers[-1:]
    assert layer.mapping["execution"] == "windows", "a row of 7 pixels fits, a column of 26 does not"
    wide = depthwise(config, WINDOWS["3x3"], 12, (5, 24))
    (layer,) = compile_graph(wide.graph, config).program.layers[-1:]
    assert layer.mapping["execution"] == "windows down"


@pytest.mark.parametrize(
    ("stride", "channels", "sums"), [(1, 4, False), (2, 3, False), (1, 4, True), (1, 7, False)]
)
def test_few_filters_work_on_several_pixels(stride, channels, sums):
    config = ARRAYS["three lines"].replace(cols=16, accumulator_depth=256)
    made = Networks(SEED, config.requantise)
    made.size, made.channels = (8 * stride, 8 * stride), channels
    made.tensor("x", 6)
    first = made.convolution("x", 3)
    made.graph.outputs = [made.sum(made.convolution(first, 3), first) if sums else first]
    if not sums:
        (layer,) = made.graph.operators
        window = Window((3, 3), (stride, stride), (1, 1, 1, 1))
        made.graph.operators = [dataclasses.replace(layer, window=window)]
        result = made.graph.tensors[first]
        shape = (channels, *window.output_size(*made.size))
        made.graph.tensors[first] = dataclasses.replace(result, shape=shape)
    compiled = compile_graph(made.graph, config)
    executions = [layer.mapping["execution"] for layer in compiled.program.layers if layer.macs]
    assert executions[0] == f"dense, {2 if channels > 4 else 4} pixels"
    assert all(execution.endswith(" pixels") for execution in executions), executions
    check_levels(made.graph, config, made.images(), rtl=True)


def test_impossible_windows_are_refused():
    for changes in ({"rows": 2, "tile_rows": 2}, {"tile_cols": 4, "tile_rows": 2}, {"pe_kinds": ["shift"]}):
        with pytest.raises(ConfigError, match="window_depth needs mul PEs, 3 rows"):
            _TINY.replace(**{"post_lanes": 1, "cols": 4, "rows": 4, **changes})
    with pytest.raises(ConfigError, match="window_depth must be one of 2, 4"):
        _TINY.replace(window_depth=24)
