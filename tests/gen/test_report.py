"""The parts of reports: pages that need nothing from outside, escaped text, and pictures that are right."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from popshift.firmware_py.program import Program
from popshift.gen.compilation import compile_graph
from popshift.gen.execution import Execution, LayerCounters, Level
from popshift.gen.graph import Convolution, Graph, Pool, Pooling, Requantisation, Tensor, Window
from popshift.gen.mapping.tiling import assign_taps
from popshift.gen.report import png
from popshift.gen.report.charts import Bar, Thumbnail, confusion_matrix, stacked_bars, thumbnails
from popshift.gen.report.cycles import CAUSES, counted_layers, cycles_section
from popshift.gen.report.network import mapping_section, memory_section, network_section
from popshift.gen.report.page import (
    Figure,
    Page,
    Paragraph,
    Section,
    Table,
    make_folder,
    percent,
    render,
    write,
)
from popshift.gen.report.taps import MOST_TILES, tap_grid
from popshift.hw.config import load_config
from popshift.hw.errors import InputError, ProgramError
from popshift.hw.isa import CYCLE_CAUSES, Counter
from popshift.hw.numerics import Requantise

EVIL = "<script src='http://x'>&\"'"
_VOID = {"meta", "img", "br", "hr", "input"}
_SELF_CLOSED = {"rect", "line"}


class _Document(HTMLParser):
    """Text, attributes, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in _SELF_CLOSED
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> where <{self.open}> is open"

    def handle_data(self, data):
        self.text.append(data)


def check_self_contained(text: str) -> _Document:
    document = _Document(text)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(document.tags)
    for tag, name, value in document.attributes:
        assert not name.startswith("on") and name not in ("href", "xlink:href", "srcset", "action"), (
            tag,
            name,
        )
        assert name != "src" or (value or "").startswith("data:image/png;base64,")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style and "http" not in style
    return document


def evil_page() -> Page:
    pictures = (
        stacked_bars({EVIL: "red"}, [Bar(name=EVIL, parts=[3], mark=2, text=EVIL)], unit=EVIL),
        thumbnails([Thumbnail(pixels=np.zeros((2, 3), np.uint8), label=EVIL, wrong=True)]),
    )
    blocks = [
        Paragraph(EVIL),
        Table(columns=[EVIL], rows=[[EVIL]], caption=EVIL, total=[EVIL]),
        *(Figure(picture=picture, caption=EVIL, wide=True) for picture in pictures),
    ]
    section = Section(title=EVIL, blocks=blocks)
    return Page(
        title=EVIL, good=False, verdict=EVIL, figures={EVIL: EVIL}, facts={EVIL: EVIL}, sections=[section]
    )


def test_text_is_escaped_wherever_it_comes_from():
    text = render(evil_page())
    document = check_self_contained(text)
    assert EVIL not in text
    # Title twice, verdict, 2 of figures, 2 of facts, heading, paragraph, 4 of the table, 2 captions, 3 of the
    # bars, 1 below the picture.
    assert "".join(document.text).count(EVIL) == 19
    assert [value for tag, name, value in document.attributes if (tag, name) == ("i", "title")] == [
        f"{EVIL}: 3 {EVIL}"
    ]


def test_table_aligns_numbers_and_separates_thousands():
    table = Table(
        columns=["a", "b", "c"], rows=[["x1", 1234567, "5.0 %"], ["2", None, ""]], total=["", 12, ""]
    )
    assert table.numeric == [False, True, True]
    page = Page(
        title="t", good=True, verdict="v", figures={}, facts={}, sections=[Section(title="s", blocks=[table])]
    )
    text = render(page)
    assert '<td class="number">1,234,567</td>' in text and "<td>x1</td>" in text
    assert '<p class="verdict good">v</p>' in text and '<td class="number">12</td>' in text
    assert (percent(0.1234), percent(None), percent(1, 0)) == ("12.3 %", "", "100 %")


def test_page_is_written_whole_or_refused(tmp_path: Path):
    make_folder(tmp_path / "a" / "b")
    write(evil_page(), tmp_path / "a" / "b" / "page.html")
    assert (tmp_path / "a" / "b" / "page.html").read_text(encoding="utf-8") == render(evil_page())
    with pytest.raises(ProgramError, match="cannot write it"):
        write(evil_page(), tmp_path / "missing" / "page.html")
    with pytest.raises(InputError, match="cannot make this folder"):
        make_folder(tmp_path / "a" / "b" / "page.html" / "c")


# ---- pictures ----------------------------------------------------------------------------------------------


def test_png_holds_the_pixels(tmp_path: Path):
    pixels = np.random.default_rng(5).integers(0, 256, (7, 5), dtype=np.uint8)
    path = tmp_path / "image.png"
    path.write_bytes(png.encode(pixels))
    assert np.array_equal(np.rint(imread(path) * 255), pixels)


def test_bars_share_one_scale():
    bars = [Bar(name="a", parts=[30, 0, 10], mark=50), Bar(name="b", parts=[0, 0, 20])]
    text = str(stacked_bars({"x": "red", "y": "green", "z": "blue"}, bars, unit="cycles"))
    assert re.findall(r"width:([\d.]+)%", text) == ["60.000", "20.000", "40.000"]
    assert "left:100.000%" in text
    assert ">x</span>" in text and ">z</span>" in text and ">y</span>" not in text, "unused parts need no key"


def test_confusion_matrix_counts_rows_by_truth():
    text = str(confusion_matrix(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 0]), 3))
    rows = [re.findall(r'<td class="(\w+)"[^>]*>(\d*)</td>', row) for row in text.split("<tr>")[2:]]
    assert rows == [
        [("right", "1"), ("wrong", "1"), ("none", "")],
        [("none", ""), ("right", "1"), ("none", "")],
        [("wrong", "2"), ("none", ""), ("right", "")],
    ]


def test_tap_picture_names_every_tap_of_the_tiles_it_shows():
    taps = assign_taps(1, (3, 3), 1, 16, 16)
    text = str(tap_grid(taps, (3, 3)))
    labels = re.findall(r">c(\d+)  (\d),(\d)<", text)
    assert labels == [("0", str(y), str(x)) for y in range(3) for x in range(3)]
    assert text.count('class="line"') == 16 - 9, "empty rows are drawn empty"
    many = assign_taps(64, (3, 3), 16, 1, 16)
    text = str(tap_grid(many, (3, 3)))
    assert f"… {len(many) - MOST_TILES} more" in text and text.count("<rect") == MOST_TILES * 16


# ---- sections of a network ---------------------------------------------------------------------------------


def example(config_name: str) -> tuple[Graph, Program]:
    """A padded convolution, a max pool and a fully connected layer."""
    config = load_config(config_name)
    graph = Graph(mode=config.requantise, inputs=["x"], outputs=["z"])
    for name, shape in {"x": (2, 6, 6), "a": (8, 6, 6), "p": (8, 3, 3), "z": (3, 1, 1)}.items():
        graph.tensors[name] = Tensor(name, shape, 0.5, -3)
    generator = np.random.default_rng(0)

    def scale(channels: int) -> Requantisation:
        multiplier = 1 << (30 if config.requantise is Requantise.EXACT else 14)
        values = np.full(channels, multiplier, np.int64), np.full(channels, 38, np.int64)
        return Requantisation(multiplier=values[0], shift=values[1], low=-128, high=127)

    def convolution(name: str, source: str, target: str, window: Window) -> Convolution:
        channels = graph.tensors[target].shape[0], graph.tensors[source].shape[0]
        weight = generator.integers(-127, 128, (*channels, *window.kernel)).astype(np.int8)
        bias = np.zeros(channels[0], np.int64)
        return Convolution(
            name=name,
            input=source,
            output=target,
            window=window,
            weight=weight,
            bias=bias,
            requantisation=scale(channels[0]),
        )

    graph.operators = [
        convolution("<conv>", "x", "a", Window((3, 3), padding=(1, 1, 1, 1))),
        Pool(
            name="pool",
            input="a",
            output="p",
            window=Window((2, 2), (2, 2)),
            operation=Pooling.MAX,
            requantisation=scale(8),
        ),
        convolution("full", "p", "z", Window((3, 3))),
    ]
    return graph, compile_graph(graph, config, "example").program


def profile(program: Program) -> Execution:
    """As if the hardware had taken ten cycles more for each layer than predicted."""
    causes = dict.fromkeys(Counter, 0)
    layers = []
    for layer in program.layers:
        cycles = layer.predicted_cycles + 10
        counters = {**causes, Counter.CYCLES: cycles, Counter.MATRIX: cycles - 7, Counter.DRAIN: 7}
        layers.append(LayerCounters(layer=layer.name, counters=counters))
    total = {**causes, Counter.CYCLES: sum(entry.counters[Counter.CYCLES] for entry in layers) + 4}
    return Execution(level=Level.RTL, outputs={}, counters=total, layer_counters=layers)


def page_of(*sections: Section) -> str:
    text = render(Page(title="t", good=True, verdict="v", figures={}, facts={}, sections=sections))
    check_self_contained(text)
    return text


def test_network_table_has_every_operator():
    graph, _ = example("tiny")
    text = page_of(network_section(graph))
    rows = re.findall(r"<tr><td.*?</tr>", text)
    assert len(rows) == 1 + 3 + 1
    assert "&lt;conv&gt;" in rows[1] and "convolution" in rows[1] and "3 × 3, padding 1" in rows[1]
    assert "144" in rows[1] and f"{144 * 36:,}" in rows[1] and "8 × 6 × 6" in rows[1]
    assert "max pool" in rows[2] and "2 × 2, stride 2" in rows[2]
    assert "fully connected" in rows[3] and "216" in rows[3]
    assert "360" in rows[4] and f"{144 * 36 + 216:,}" in rows[4]


def test_mapping_section_tells_tiles_and_draws_taps():
    graph, program = example("tiny")
    text = page_of(mapping_section(graph, program))
    layer = next(layer for layer in program.layers if layer.name == "<conv>")
    assert f"{layer.mapping['row_tiles']} × {layer.mapping['column_tiles']}" in text
    assert text.count("<figure>") == 2
    assert "2 input channels × 3 × 3 = 18 taps in the 4 rows" in text
    assert len(re.findall(r">c[01]  \d,\d<", text.split("<figure>")[1])) == 18, "all taps of the first layer"


def test_memory_picture_shows_buffers_that_never_collide():
    graph, program = example("tiny")
    text = page_of(memory_section(graph, program))
    found = re.findall(
        r"<title>(\w+): words (\d+) to (\d+)</title><rect x=\"(\d+)\" .*?width=\"(\d+)\"", text
    )
    boxes = {name: tuple(map(int, rest)) for name, *rest in found}
    assert set(boxes) == set(graph.tensors)
    for name, (first, last, _, _) in boxes.items():
        layout = program.tensor(name)
        assert last + 1 - first == layout.planes * layout.plane_step, "padding included"
        assert layout.base - first == (1 + layout.row_pitch if name == "x" else 0)
    for one in boxes.values():
        for other in boxes.values():
            if one is not other and one[2] < other[2] + other[3] and other[2] < one[2] + one[3]:
                assert one[1] < other[0] or other[1] < one[0], "alive together, so apart"
    used = max(last for _, last, _, _ in boxes.values()) + 1
    assert f"takes {used} of 1,024 words" in text


def test_cycles_section_gives_counted_beside_predicted():
    _, program = example("tiny")
    execution = profile(program)
    layers = counted_layers(program, execution)
    assert [layer.cycles - layer.predicted for layer in layers] == [10] * len(program.layers)
    assert layers[0].error == -10 / layers[0].cycles
    assert [layer.utilisation is None for layer in layers] == [layer.macs == 0 for layer in program.layers]
    assert all(layer.causes is not None and sum(layer.causes) == layer.cycles for layer in layers)
    text = page_of(cycles_section(program, execution, 999))
    assert "(999 predicted)" in text
    for layer in layers:
        assert f"{layer.cycles:,} cycles, predicted {layer.predicted:,}" in text
    assert text.count(f'title="{CAUSES[Counter.DRAIN]}: 7 cycles"') == len(layers)
    assert text.count('title="') == 2 * len(layers)


def test_cycles_section_without_performance_counters():
    _, program = example("tiny")
    config = program.config.replace(performance_counters=False)
    program = dataclasses.replace(program, config=config)
    text = page_of(cycles_section(program, profile(program), 999))
    assert "no counters by cause" in text and CAUSES[Counter.DRAIN] not in text
    assert '<th scope="col" class="number">drain</th>' not in text


def test_every_cause_has_a_name_in_the_order_of_the_counters():
    assert list(CAUSES) == list(CYCLE_CAUSES)
