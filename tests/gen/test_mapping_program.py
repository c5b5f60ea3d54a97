"""Programs as a whole: placement, reuse of memory, segments, refusals, determinism."""

import dataclasses

import mapping_reference as ref
import numpy as np
import pytest
from test_mapping_layers import check

from popshift.gen.graph import Convolution, Graph, Pooling, Window
from popshift.gen.mapping import map_graph, tiling
from popshift.gen.mapping.cost import ConvolutionCost
from popshift.gen.mapping.padding import separate_padding
from popshift.gen.mapping.placement import place
from popshift.gen.mapping.sections import fill_padding
from popshift.hw import isa
from popshift.hw.config import load_config
from popshift.hw.errors import ModelError
from popshift.hw.isa import Opcode, Source
from popshift.hw.packet import Space
from popshift.sim.cycles import instructions_of
from popshift.sim.executor import Machine

SAME = Window((3, 3), padding=(1, 1, 1, 1))


def instructions(program, segment: int = 0) -> list[isa.Instruction]:
    return instructions_of(program.segments[segment])


def chain(config, depth: int, channels: int = 8, shape=(8, 6, 6)) -> Graph:
    rng = np.random.default_rng(depth)
    graph, last = ref.network(config, shape, 3), "x"
    for index in range(depth):
        last = ref.convolution(rng, graph, last, f"t{index}", channels, SAME, index)
    graph.outputs.append(last)
    return graph


# ---- tiling ------------------------------------------------------------------------------------------------


def test_every_tap_sits_once_in_a_row_whose_bank_holds_its_channel():
    for channels, kernel, period, copies, rows in [
        (3, (3, 3), 3, 5, 16),
        (10, (3, 2), 4, 4, 16),
        (1, (5, 5), 1, 7, 7),
        (33, (1, 1), 8, 1, 8),
        (2, (1, 1), 4, 2, 8),
    ]:
        taps = tiling.assign_taps(channels, kernel, period, copies, rows)
        placed = taps[taps >= 0]
        size = kernel[0] * kernel[1]
        assert sorted(placed.tolist()) == list(range(channels * size))
        tile, row = np.nonzero(taps >= 0)
        assert (row % period == taps[tile, row] // size % period).all()
        assert (row < period * copies).all()


def test_pixel_tiles_cover_the_output_and_fit_an_accumulator_half():
    for height, width, depth in [(16, 16, 512), (7, 40, 64), (3, 200, 64), (1, 1, 16), (50, 1, 16)]:
        config = ref.configuration("t", 4, 4, 2, accumulator_depth=depth)
        tiles, _ = tiling.pixel_tiles(height, width, 3, 10, config, config.cols)
        seen = np.zeros((height, width), int)
        for tile in tiles:
            seen[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
            assert tile.pixels <= depth
        assert (seen == 1).all()


def test_the_last_drain_is_kept_short_if_that_is_worth_it():
    """A first layer takes several tiles, each long enough to hide the next weights; conv64, where the drain
    is a small part, takes one and so reads its weights once.
    """
    config = load_config("a16")
    tiles, cost = tiling.pixel_tiles(16, 16, 2, 16, config, config.cols)
    assert len(tiles) > 1 and min(tile.pixels for tile in tiles) >= config.rows + 2
    single = ConvolutionCost.of([((256, 256), 1)], 2, 16, config, config.cols)
    assert cost.cycles < single.cycles / tiling.ABOUT_AS_LONG
    tiles, cost = tiling.pixel_tiles(16, 16, 36, 64, config, config.cols)
    assert len(tiles) == 1 and cost.cycles < 1.02 * cost.matrix


def test_the_closed_formula_agrees_with_the_cycle_model():
    """Within 5 % (the formula compares mappings; the model is what reports show)."""
    for name, channels, outputs, size, kernel in [
        ("a16", 64, 64, 16, 3),
        ("a16", 3, 16, 32, 3),
        ("a8", 16, 16, 16, 3),
        ("a8", 64, 64, 4, 1),
        ("a8", 256, 40, 1, 1),
        ("icebreaker", 4, 8, 12, 5),
        ("ulx3s-85f", 16, 30, 9, 3),
        ("a32", 8, 64, 20, 1),
    ]:
        config = load_config(name)
        graph = ref.network(config, (channels, size, size))
        ref.convolution(np.random.default_rng(0), graph, "x", "y", outputs, Window((kernel, kernel)))
        graph.outputs.append("y")
        layer = map_graph(graph, config).layers[0]
        shape = graph.tensors["y"].shape
        cost = tiling.pixel_tiles(*shape[1:], layer.mapping["row_tiles"], outputs, config, config.cols)[1]
        assert abs(cost.cycles / layer.predicted_cycles - 1) < 0.05, (name, cost, layer)


def test_strips_are_equal_or_have_a_narrow_one_at_an_end():
    for length, fewest in [(1, 1), (7, 1), (32, 3), (49, 7)]:
        for strip in tiling.strips(length, fewest):
            assert sum(strip) == length and len(strip) >= fewest and min(strip) > 0
            assert max(strip) <= -(-length // fewest)
            equal = [
                part for part in (strip, strip[1:], strip[:-1]) if not part or max(part) - min(part) <= 1
            ]
            assert equal, strip


# ---- placement ---------------------------------------------------------------------------------------------


def test_an_image_of_few_channels_is_copied_over_the_banks():
    config = load_config("a16")
    graph = ref.network(config, (1, 8, 8))
    ref.convolution(np.random.default_rng(0), graph, "x", "y", 16, SAME)
    graph.outputs.append("y")
    program = map_graph(graph, config)
    assert (program.inputs[0].period, program.inputs[0].copies) == (1, 16)
    assert program.layers[-1].mapping["row_tiles"] == 1
    check(graph, config, 1)


def test_a_period_of_fewer_words_is_taken_when_memory_is_short():
    """Ten channels on 16 rows: period 4 makes the fewest row tiles but takes three planes; 12 takes one."""
    config = ref.configuration("short", 16, 16, 4)
    graph = chain(config, 2, channels=10, shape=(10, 8, 8))
    roomy = place(separate_padding(graph), config)["t0"].buffer
    assert roomy.period == 4
    tight = config.replace(activation_depth=2 * roomy.plane_words + 80)
    assert place(separate_padding(graph), tight)["t0"].buffer.period > 4
    check(graph, tight, 1)


def test_buffers_are_reused():
    config = ref.configuration("reuse", 4, 4, 2)
    graph = chain(config, 6)
    program = check(graph, config.replace(activation_depth=2 * 2 * 63), 5)
    assert len({tensor.base for tensor in program.tensors}) < len(program.tensors)


def test_an_early_output_survives_to_the_end():
    config = ref.configuration("early", 4, 4, 2)
    graph = chain(config, 6)
    graph.outputs.append("t0")
    check(graph, config.replace(activation_depth=3 * 2 * 57), 5)


def test_fills_write_all_the_padding_and_nothing_else():
    config = ref.configuration("fills", 4, 4, 2)
    rng = np.random.default_rng(0)
    graph = ref.network(config, (6, 5, 4), 7)
    ref.convolution(rng, graph, "x", "y", 3, Window((5, 4), padding=(2, 1, 1, 2)))
    graph.outputs.append("y")
    placed = place(graph, config)["x"]
    machine = Machine(config)
    machine.activations[:] = 1
    words = isa.encode_all([*fill_padding(placed, config), isa.instruction(Opcode.END)])
    machine.write(Space.PROGRAM, 0, np.array(words, "<u4").tobytes())
    machine.run()
    start = placed.layout.base - placed.buffer.first_word
    filled = machine.activations[0] == 7
    assert not filled[:, :start].any() and not filled[:, start + placed.buffer.words :].any()
    inside = np.zeros(config.activation_depth, bool)
    for plane in range(placed.layout.planes):
        for y in range(5):
            row = placed.layout.base + plane * placed.layout.plane_step + y * placed.layout.row_pitch
            inside[row : row + 4] = True
    buffer = slice(start, start + placed.buffer.words)
    np.testing.assert_array_equal(filled[0, buffer], ~inside[buffer])


def test_consumers_with_different_padding_values_get_a_copy():
    config = ref.configuration("copy", 4, 4, 2)
    rng = np.random.default_rng(0)
    graph = ref.network(config, (5, 6, 6), 9)
    ref.convolution(rng, graph, "x", "a", 6, SAME, 4)
    ref.pool(rng, graph, "a", "b", Pooling.MAX, SAME)
    ref.convolution(rng, graph, "a", "c", 4, SAME)
    ref.pool(rng, graph, "a", "d", Pooling.MAX, Window((3, 3), (2, 2), (1, 1, 1, 1)))
    graph.outputs += ["b", "c", "d"]
    program = check(graph, config, 2)
    assert [layer.name for layer in program.layers].count("a.copy") == 1
    same = dataclasses.replace(graph, tensors={**graph.tensors})
    same.tensors["a"] = dataclasses.replace(graph.tensors["a"], zero_point=-128)
    assert "a.copy" not in [layer.name for layer in check(same, config, 2).layers]


def test_fills_stand_between_the_first_matrix_and_its_post():
    config = ref.configuration("order", 4, 4, 2, accumulator_depth=16)
    items = [
        item for item in instructions(map_graph(chain(config, 2), config)) if item.opcode is not Opcode.END
    ]
    marks = [index for index, item in enumerate(items) if item.opcode is Opcode.MARK]
    first = items[marks[0] + 1 : marks[1]]  # behind the padding of the input
    sources = [item["source"] for item in first[1:] if item.opcode is Opcode.POST]
    assert first[0].opcode is Opcode.MATRIX
    assert [item.opcode for item in first].count(Opcode.MATRIX) > 1
    assert sources[:2] == [Source.FILL] * 2 and Source.FILL not in sources[2:]
    assert [items[index]["layer"] for index in marks] == [0, 1, 2]


# ---- segments ----------------------------------------------------------------------------------------------


def test_weights_beyond_the_memory_make_segments_at_layer_boundaries():
    config = ref.configuration("segments", 4, 4, 2, weight_depth=360)
    program = check(chain(config, 4), config, 3)
    assert [list(segment.layers) for segment in program.segments] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("change", "channels", "parts"),
    [
        ({"weight_depth": 80}, 8, 2),  # one column tile at a time
        ({"weight_depth": 80, "cols": 2}, 8, 4),  # fewer channels than a plane holds
        ({"parameter_depth": 4}, 20, 3),
        ({"program_depth": 64, "accumulator_depth": 16}, 5, 2),  # ranges of pixel tiles
        ({"program_depth": 64, "accumulator_depth": 16, "weight_depth": 80}, 8, 4),
    ],
)
def test_a_layer_beyond_a_memory_is_split(change, channels, parts):
    config = ref.configuration("split", 4, 4, 2).replace(**change)
    program = check(chain(config, 1, channels, shape=(8, 12, 8)), config, 4)
    names = [layer.name for layer in program.layers if layer.kind == "convolution"]
    assert len(names) == parts and len(program.segments) > 1
    assert names == [f"layer t0[{index + 1}/{parts}]" for index in range(parts)]
    whole = map_graph(chain(config, 1, channels, shape=(8, 12, 8)), ref.configuration("whole", 4, 4, 2))
    assert sum(layer.macs for layer in program.layers) == sum(layer.macs for layer in whole.layers)


def test_pool_parameters_beyond_the_memory_split_the_pool():
    config = ref.configuration("pools", 4, 4, 2, parameter_depth=4)
    graph = ref.network(config, (18, 4, 4))
    ref.pool(
        np.random.default_rng(0), graph, "x", "y", Pooling.AVERAGE, Window((2, 2), (2, 2)), uniform=False
    )
    graph.outputs.append("y")
    assert [layer.name for layer in check(graph, config, 1).layers] == [f"layer y[{n}/3]" for n in (1, 2, 3)]


# ---- refusals ----------------------------------------------------------------------------------------------


def refusal(graph: Graph, config) -> str:
    with pytest.raises(ModelError) as caught:
        map_graph(graph, config, name="net")
    return str(caught.value)


def test_refuses_another_requantisation_mode():
    config = ref.configuration("exactly", 4, 4, 2)
    graph = chain(config.replace(requantise="compact"), 1)
    assert refusal(graph, config) == (
        "network net: quantised for compact requantisation, configuration exactly has exact; "
        "quantise it for exact, or use a configuration with compact"
    )


def test_refuses_tensors_beyond_the_activation_memory():
    config = ref.configuration("small", 4, 4, 2, activation_depth=200)
    assert refusal(chain(config, 3), config) == (
        "layer layer t0: the tensors alive here need 228 words of activation memory (x 114 + t0 114), "
        "there are 200; raise activation_depth to at least 228, or use a smaller network or input"
    )


def test_refuses_an_input_beyond_the_activation_memory():
    config = ref.configuration("small", 4, 4, 2, activation_depth=100)
    graph = ref.network(config, (4, 20, 20))
    ref.convolution(np.random.default_rng(0), graph, "x", "y", 1, Window((20, 20)))
    graph.outputs.append("y")
    message = refusal(graph, config)
    assert message.startswith("layer layer y: the tensors alive here need 401 words of activation memory")
    assert "(x 400 + y 1), there are 100; raise activation_depth to at least 401," in message


def test_refuses_weights_of_one_column_beyond_the_memory():
    config = ref.configuration("small", 4, 4, 2, weight_depth=70)
    assert refusal(chain(config, 1), config) == (
        "layer layer t0: one column of output channels takes 72 weight words, there are 70; "
        "raise weight_depth to at least 72, or make the kernel or the input smaller"
    )


def test_refuses_a_pooling_window_beyond_the_loop_counts():
    config = ref.configuration("pools", 4, 4, 2, activation_depth=8192)
    graph = ref.network(config, (2, 65, 1))
    ref.pool(np.random.default_rng(0), graph, "x", "y", Pooling.MAX, Window((65, 1)))
    graph.outputs.append("y")
    assert refusal(graph, config) == (
        "layer layer y: the pooling window is 65 x 1, larger than 64 x 64; pool in two steps"
    )


def test_refuses_a_pool_plane_beyond_the_parameter_memory():
    config = ref.configuration("pools", 8, 2, 1, parameter_depth=4, activation_depth=16)
    graph = ref.network(config, (8, 5, 2))  # too large for a shorter period
    ref.pool(np.random.default_rng(0), graph, "x", "y", Pooling.AVERAGE, Window((2, 2)), uniform=False)
    graph.outputs.append("y")
    assert refusal(graph, config) == (
        "layer layer y: the parameters of one plane take 8 words, there are 4; "
        "raise parameter_depth to at least 8"
    )


def test_refuses_padding_beyond_the_program_memory():
    """30,000 rows: the words between them take eight FILLs."""
    config = ref.configuration("tall", 1, 1, 1, activation_depth=65536, program_depth=64)
    graph = ref.network(config, (1, 30_000, 1))
    ref.convolution(np.random.default_rng(0), graph, "x", "y", 1, Window((1, 3), (8, 1), (0, 0, 1, 1)))
    graph.outputs.append("y")
    assert refusal(graph, config) == (
        "layer padding of x: its instructions take 65 words, there are 64; raise program_depth to at least 65"
    )


def first_convolution(graph: Graph) -> Convolution:
    layer = graph.operators[0]
    assert isinstance(layer, Convolution)
    return layer


def test_refuses_accumulators_beyond_32_bits():
    config = ref.configuration("bias", 4, 4, 2)
    graph = chain(config, 1)
    layer = first_convolution(graph)
    layer.weight[2] = 1
    bias = layer.bias
    # 72 weights of 1 and zero point 3: accumulators span -128 * 72 .. 127 * 72, the bias is moved by -216.
    bias[2] = (1 << 31) - 1 - 127 * 72 + 216
    map_graph(graph, config)
    bias[2] += 1
    assert refusal(graph, config) == (
        "layer layer t0: the accumulator of output channel 2 can reach 2147483648, beyond 32 bits; "
        "use smaller weights or biases, or fewer input channels"
    )


def test_refuses_products_beyond_62_bits():
    config = ref.configuration("product", 4, 4, 2)
    graph = chain(config, 1)
    layer = first_convolution(graph)
    layer.bias[:] = 1 << 29
    layer.requantisation.multiplier[1] = 7 << 31
    assert "layer layer t0: channel 1: an accumulator of " in refusal(graph, config)
    assert refusal(graph, config).endswith("exceeds 62 bits; use a larger scale for the output tensor")


# ---- the program -------------------------------------------------------------------------------------------


def test_the_same_graph_gives_the_same_bytes():
    config = ref.configuration("same", 4, 4, 2, weight_depth=360)
    first = map_graph(chain(config, 4), config, name="n").to_bytes()
    tiling.pixel_tiles.cache_clear()
    assert map_graph(chain(config, 4), config, name="n").to_bytes() == first


def test_records_tell_the_mapping():
    config = load_config("a16")
    graph = ref.network(config, (64, 16, 16))
    ref.convolution(np.random.default_rng(0), graph, "x", "y", 64, SAME)
    graph.outputs.append("y")
    layer = map_graph(graph, config).layers[-1]
    assert (layer.name, layer.kind, layer.output) == ("layer y", "convolution", "y")
    assert layer.macs == 64 * 64 * 9 * 256
    assert 0.95 < layer.utilisation <= 1
    assert layer.bottleneck == "multiply-accumulates"
    assert layer.mapping["row_tiles"] == 36 and layer.mapping["column_tiles"] == 4
    assert layer.mapping["row_fill"] == layer.mapping["column_fill"] == 1
