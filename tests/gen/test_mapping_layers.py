"""Random single layers through mapper and executor, against a direct evaluation and the golden model."""

import mapping_reference as ref
import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from popshift.gen import golden
from popshift.gen.graph import Convolution, Graph, Pooling, Window
from popshift.gen.mapping import map_graph
from popshift.hw.config import AcceleratorConfig, named_configs
from popshift.sim.run import run_program

ZERO_POINTS = st.sampled_from([-128, -17, 0, 5, 127])
SEEDS = st.integers(0, 2**32 - 1)


def check(graph: Graph, config: AcceleratorConfig, seed: int, images: int = 2):
    """Map, run with every memory full of junk, and compare all tensors with both references."""
    rng = np.random.default_rng(seed)
    program = map_graph(graph, config)
    inputs = {name: ref.corner_values(rng, (images, *graph.tensors[name].shape)) for name in graph.inputs}
    wanted = ref.evaluate(graph, inputs)
    found = run_program(program, inputs, check_hazards=True, scramble=seed)
    overlapped = run_program(program, inputs, every_tensor=False, check_hazards=True, scramble=seed)
    for name, values in overlapped.items():
        np.testing.assert_array_equal(values, wanted[name], err_msg=f"{name}, layers overlap")
    model = golden.run(graph, inputs)
    for name in (operator.output for operator in graph.operators):
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
        np.testing.assert_array_equal(model[name], wanted[name], err_msg=f"golden {name}")
    return program


@st.composite
def shapes(draw, config: AcceleratorConfig) -> tuple[int, int, int]:
    return draw(st.integers(1, 3 * config.rows)), draw(st.integers(1, 9)), draw(st.integers(1, 9))


@pytest.mark.parametrize("config", ref.CONFIGS, ids=lambda config: config.name)
def test_random_convolution(config):
    @settings(max_examples=15, deadline=None, print_blob=True)
    @given(st.data(), SEEDS)
    def run(data, seed):
        note(f"seed {seed}")
        rng = np.random.default_rng(seed)
        shape = data.draw(shapes(config))
        graph = ref.network(config, shape, data.draw(ZERO_POINTS))
        window = data.draw(ref.windows(*shape[1:]))
        ref.convolution(
            rng, graph, "x", "y", data.draw(st.integers(1, 3 * config.cols)), window, data.draw(ZERO_POINTS)
        )
        graph.outputs.append("y")
        check(graph, config, seed)

    run()


@pytest.mark.parametrize("config", ref.CONFIGS, ids=lambda config: config.name)
def test_random_pool(config):
    @settings(max_examples=10, deadline=None, print_blob=True)
    @given(st.data(), SEEDS)
    def run(data, seed):
        note(f"seed {seed}")
        rng = np.random.default_rng(seed)
        shape = data.draw(shapes(config))
        graph = ref.network(config, shape, data.draw(ZERO_POINTS))
        window = data.draw(ref.windows(*shape[1:], kernel=4))
        operation, uniform = data.draw(st.sampled_from(Pooling)), data.draw(st.booleans())
        ref.pool(rng, graph, "x", "y", operation, window, data.draw(ZERO_POINTS), uniform)
        graph.outputs.append("y")
        check(graph, config, seed)

    run()


@settings(max_examples=12, deadline=None, print_blob=True)
@given(st.sampled_from(ref.CONFIGS), st.data(), SEEDS)
def test_random_network(config, data, seed):
    """A chain with a branch: two consumers of one tensor, with paddings and padding values of their own."""
    note(f"seed {seed}")
    rng = np.random.default_rng(seed)
    zero_points = [data.draw(ZERO_POINTS) for _ in range(6)]
    graph = ref.network(config, (data.draw(st.integers(1, 5)), 6, 7), zero_points[0])
    same = Window((3, 3), padding=(1, 1, 1, 1))
    ref.convolution(rng, graph, "x", "a", data.draw(st.integers(1, 2 * config.rows)), same, zero_points[1])
    ref.pool(rng, graph, "a", "b", Pooling.MAX, Window((3, 3), (2, 2), (1, 0, 0, 1)), zero_points[2])
    ref.convolution(rng, graph, "a", "c", 3, data.draw(ref.windows(6, 7)), zero_points[3])
    ref.pool(
        rng,
        graph,
        "b",
        "d",
        Pooling.AVERAGE,
        Window((2, 2), padding=(1, 1, 0, 0)),
        zero_points[4],
        uniform=False,
    )
    height, width = graph.tensors["d"].shape[1:]
    ref.convolution(rng, graph, "d", "e", 5, Window((height, width)), zero_points[5])
    graph.outputs += ["e", "c"]
    check(graph, config, seed)


@pytest.mark.parametrize("zero_point", [-128, 127])
@pytest.mark.parametrize("weight", [-128, 127])
@pytest.mark.parametrize("activation", [-128, 127])
def test_corners(zero_point, weight, activation):
    """Whole layers at one end of the range: the largest accumulators there are."""
    config = ref.CONFIGS[0]
    rng = np.random.default_rng(1)
    graph = ref.network(config, (9, 4, 4), zero_point)
    ref.convolution(rng, graph, "x", "y", 5, Window((3, 3), padding=(1, 1, 1, 1)), zero_point)
    (layer,) = graph.operators
    assert isinstance(layer, Convolution)
    layer.weight[:] = weight
    graph.outputs.append("y")
    program = map_graph(graph, config)
    x = np.full((1, 9, 4, 4), activation, np.int8)
    np.testing.assert_array_equal(run_program(program, x)["y"], ref.evaluate(graph, {"x": x})["y"])


@pytest.mark.parametrize("name", sorted(named_configs()))
def test_shipped_configurations(name):
    """A small network of every layer kind on every configuration that ships."""
    config = named_configs()[name]
    rng = np.random.default_rng(7)
    graph = ref.network(config, (3, 10, 10), -5)
    ref.convolution(rng, graph, "x", "a", 10, Window((3, 3), padding=(1, 1, 1, 1)), 9)
    ref.pool(rng, graph, "a", "b", Pooling.MAX, Window((2, 2), (2, 2)), 9)
    ref.convolution(rng, graph, "b", "c", 12, Window((3, 3)), -128)
    ref.pool(rng, graph, "c", "d", Pooling.AVERAGE, Window((3, 3)), 0)
    ref.convolution(rng, graph, "d", "e", 10, Window((1, 1)), 0)
    graph.outputs.append("e")
    check(graph, config, 7)


def test_input_that_no_layer_pads_gets_no_padding_section():
    config = ref.CONFIGS[0]
    graph = ref.network(config, (3, 4, 4))
    ref.convolution(np.random.default_rng(0), graph, "x", "y", 4, Window((1, 1)))
    graph.outputs.append("y")
    assert [layer.kind for layer in check(graph, config, 0).layers] == ["convolution"]


def test_wide_rows_are_split():
    """Rows longer than an accumulator half, and pixel loops beyond 4096 turns."""
    config = ref.configuration(
        "long", 2, 2, 1, activation_depth=32768, accumulator_depth=4096, program_depth=4096
    )
    rng = np.random.default_rng(3)
    graph = ref.network(config, (1, 1, 9001), 3)
    ref.convolution(rng, graph, "x", "a", 1, Window((1, 3), padding=(0, 0, 1, 1)), 4)
    ref.pool(rng, graph, "a", "b", Pooling.MAX, Window((1, 2), padding=(0, 0, 1, 0)), 5)
    graph.outputs.append("b")
    program = check(graph, config, 3, images=1)
    assert program.layers[1].mapping["tile_width"] <= 4096
    assert program.layers[2].mapping["pixel_tiles"] == 3
