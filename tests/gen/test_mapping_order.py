"""The order of instructions within and between layers, and of the layers."""

import mapping_reference as ref
import numpy as np
import pytest
from test_mapping_layers import check

from popshift.gen.execution import Level, execute
from popshift.gen.graph import Graph, Window
from popshift.gen.mapping import in_turn, map_graph
from popshift.gen.mapping.order import as_mapped, orders
from popshift.gen.mapping.placement import place
from popshift.gen.mapping.tiling import Rectangle
from popshift.hw.config import load_config
from popshift.hw.errors import ModelError
from popshift.hw.isa import After, Counter, Edge, Opcode, Source, instruction, strip_bases
from popshift.sim.cycles import instructions_of, predicted_cycles
from popshift.sim.hazards import HazardError
from popshift.sim.run import run_program

SAME = Window((3, 3), padding=(1, 1, 1, 1))
CONFIG = load_config("a8").replace(name="small", accumulator_depth=48, activation_depth=4096)


def network(*channels: int, size: int = 12, config=CONFIG) -> Graph:
    """3 x 3 convolutions, one behind the other."""
    graph, last = ref.network(config, (8, size, size)), "x"
    for index, outputs in enumerate(channels):
        rng = np.random.default_rng(index)
        last = ref.convolution(rng, graph, last, f"t{index}", outputs, SAME)
    graph.outputs.append(last)
    return graph


def in_order(program) -> str:
    """M for every MATRIX, P for every POST that drains it, | for a mark."""
    letters = []
    for item in instructions_of(program.segments[0]):
        if item.opcode in (Opcode.MATRIX, Opcode.MARK):
            letters.append("M" if item.opcode is Opcode.MATRIX else "|")
        elif item.opcode is Opcode.POST and item["source"] == Source.MATRIX:
            letters.append("P")
    return "".join(letters).lstrip("|")


def drains(program):
    return [
        item
        for item in instructions_of(program.segments[0])
        if item.opcode is Opcode.POST and item["source"] == Source.MATRIX
    ]


def test_one_post_drains_tiles_alike():
    program = map_graph(network(8), CONFIG)
    tiles = program.layers[-1].mapping["pixel_tiles"]
    found = drains(program)
    assert sum(post["strips"] for post in found) == tiles > len(found)
    first, *_ = found
    row = (first["x_count"] - 1) * first["x_step"] + first["y_step"]
    assert strip_bases(first, 2)["base"] == first["base"] + 2 * first["y_count"] * row
    check(network(8), CONFIG, 0)


def test_tiles_side_by_side_are_strips_column_by_column():
    """Rows too long for a half: every column of tiles has a POST of its own."""
    narrow = CONFIG.replace(accumulator_depth=16)
    graph = network(8, size=40, config=narrow)
    program = check(graph, narrow, 0)
    found = drains(program)
    assert len({post["base"] for post in found}) == len(found) >= 3
    assert max(post["strips"] for post in found) > 10


def post(**fields: int):
    zeros = ("uniform", "zero_point", "parameter_base", "base", "y_step", "plane_step", "source")
    common = dict.fromkeys(zeros, 0) | {"period": 1, "chunks": 1, "mask": 1, "low": -128, "high": 127}
    return instruction(Opcode.POST, **common | {"x_count": 4, "y_count": 2, "x_step": 1} | fields)


def test_what_is_no_strip_keeps_its_own_post():
    top, left = 1 << Edge.TOP, 1 << Edge.LEFT
    step = {"y_step": 3}  # from the last pixel of a row to the next row: 6 words apart
    pairs = {
        2: [post(base=0, **step), post(base=11, **step)],
        1: [post(base=0, **step), post(base=12, **step), post(base=24, **step)],
    }
    for wanted, posts in pairs.items():
        assert len(in_turn.in_strips([([], item) for item in posts])) == wanted
    different = {"chunks": 2, "parameter_base": 1, "edges": top, "y_count": 1, "mask": 2}
    for name, value in different.items():
        posts = [post(base=0, **step), post(base=12, **step, **{name: value})]
        assert len(in_turn.in_strips([([], item) for item in posts])) == 2, name
    for edges, wanted in [(left, 1), (top, 2), (1 << Edge.BOTTOM, 2)]:
        posts = [post(base=base, edges=edges, **step) for base in (0, 12)]
        assert len(in_turn.in_strips([([], item) for item in posts])) == wanted, edges
    many = [post(base=12 * n, **step) for n in range(300)]
    assert [item["strips"] for _, item in in_turn.in_strips([([], item) for item in many])] == [256, 44]


def test_the_next_tiles_weights_are_loaded_while_the_last_is_drained():
    """A MATRIX comes before the POST of the tile in front, unless it fills several halves."""
    config = load_config("a16")
    for outputs, wanted in [(16, "MMP"), (48, "MPM")]:
        graph = ref.network(config, (16, 30, 30))
        ref.convolution(np.random.default_rng(0), graph, "x", "y", outputs, SAME)
        graph.outputs.append("y")
        assert in_order(map_graph(graph, config)).startswith(wanted)


def first_matrices(program):
    """Of every layer with one."""
    found, begins = [], True
    for item in instructions_of(program.segments[0]):
        if item.opcode is Opcode.MATRIX and begins:
            found.append(item)
        begins = item.opcode is Opcode.MARK or (begins and item.opcode is not Opcode.MATRIX)
    return found


def test_a_layer_begins_beside_the_last_strip_of_the_one_before():
    graph = network(8, 8, 8)
    program = check(graph, CONFIG, 3)
    waits = [item["after"] for item in first_matrices(program)]
    assert waits[1:] == [After.ALL_BUT_LAST_STRIP] * 2
    inputs = {"x": ref.corner_values(np.random.default_rng(0), (2, 8, 12, 12))}
    found = execute(program, inputs, Level.RTL, graph=graph)
    assert found.counters[Counter.CYCLES] == predicted_cycles(program)


def test_a_layer_that_needs_the_last_strip_waits_for_it():
    """A kernel as high as the image."""
    graph = network(8)
    graph.outputs.clear()
    ref.convolution(np.random.default_rng(1), graph, "t0", "y", 8, Window((12, 1)))
    graph.outputs.append("y")
    program = check(graph, CONFIG, 4)
    assert first_matrices(program)[-1]["after"] == After.ALL


def test_a_second_matrix_that_needs_the_last_strip_comes_behind_a_post():
    counts = dict.fromkeys(("x_count", "y_count", "k_tiles", "n_tiles"), 1)
    steps = dict.fromkeys(("kind", "weight_base", "base", "x_step", "y_step"), 0)
    matrices = [instruction(Opcode.MATRIX, **counts, **steps | {"base": base}) for base in range(3)]
    fill, drain = post(source=Source.FILL), post()
    items = [matrices[0], fill, matrices[1], drain, matrices[2], drain]
    for early, waits, wanted in [
        (0, After.ALL, "MFMPMP"),
        (1, After.ALL_BUT_LAST_STRIP, "MFPMMP"),
        (2, After.ALL_BUT_LAST_STRIP, "MFMPMP"),
    ]:
        first, *others = in_turn.after(items, waits, early)
        assert (first["after"], first["base"]) == (waits, 0)
        names = ["M" if o.opcode is Opcode.MATRIX else "F" if o == fill else "P" for o in (first, *others)]
        assert "".join(names) == wanted, early
        assert [item["base"] for item in others if item.opcode is Opcode.MATRIX] == [1, 2]


def test_the_executor_finds_a_layer_that_begins_too_early(monkeypatch):
    """The check that the tests above rely on: here the second layer's first tile reads the last strip."""
    monkeypatch.setattr(Rectangle, "meets", lambda self, other: False)
    graph = network(8)
    graph.outputs.clear()
    ref.convolution(np.random.default_rng(1), graph, "t0", "y", 8, Window((12, 1)))
    graph.outputs.append("y")
    with pytest.raises(HazardError):
        check(graph, CONFIG, 4)


def test_rectangles():
    one = Rectangle(2, 3, 4, 5)
    for other, wanted in [((6, 3, 1, 1), False), ((5, 7, 1, 1), True), ((0, 0, 2, 9), False)]:
        assert one.meets(Rectangle(*other)) == Rectangle(*other).meets(one) == wanted
    window = Window((3, 2), stride=(2, 1), padding=(1, 0, 0, 1), dilation=(1, 2))
    assert Rectangle(1, 4, 2, 3).seen(window) == Rectangle(1, 4, 5, 5)


# ---- order of layers ---------------------------------------------------------------------------------------


def branches(config) -> Graph:
    """A small layer and two large ones of the same input; both ways are outputs."""
    rng = np.random.default_rng(7)
    graph = ref.network(config, (8, 12, 12))
    first = ref.convolution(rng, graph, "x", "first", 8, SAME)
    ref.convolution(rng, graph, first, "small", 16, Window((1, 1), stride=(2, 2)))
    inner = ref.convolution(rng, graph, first, "inner", 16, SAME)
    ref.convolution(rng, graph, inner, "large", 16, SAME)
    graph.outputs += ["small", "large"]
    return graph


def test_the_faster_of_two_orders_is_taken():
    graph = branches(CONFIG)
    given, late = orders(graph)
    assert [item.output for item in given.operators] == ["first", "small", "inner", "large"]
    assert [item.output for item in late.operators] == ["first", "inner", "large", "small"]
    program = check(graph, CONFIG, 6)
    taken = [layer.output for layer in program.layers if layer.kind == "convolution"]
    assert [item.output for item in as_mapped(graph, program).operators] == taken


def test_a_chain_has_one_order():
    assert len(list(orders(network(8, 8)))) == 1


def test_an_order_that_does_not_fit_is_not_taken():
    """The late one keeps the first layer's result alive for longer."""
    graph = branches(CONFIG)
    inputs = {"x": ref.corner_values(np.random.default_rng(0), (1, 8, 12, 12))}

    def fits(make, depth: int) -> bool:
        try:
            make(CONFIG.replace(activation_depth=depth))
        except ModelError:
            return False
        return True

    def least(make) -> int:
        return next(depth for depth in range(200, 4096, 8) if fits(make, depth))

    given, late = (least(lambda config, graph=ordered: place(graph, config)) for ordered in orders(graph))
    assert given != late
    assert least(lambda config: map_graph(graph, config)) == min(given, late)
    small = CONFIG.replace(activation_depth=min(given, late))
    found = run_program(map_graph(graph, small), inputs, check_hazards=True)
    wanted = ref.evaluate(graph, inputs)
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], wanted[name])
