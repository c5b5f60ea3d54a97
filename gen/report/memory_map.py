"""A picture of the activation memory over the layers of a network."""

from dataclasses import dataclass

from markupsafe import Markup

from popshift.firmware_py.program import Program
from popshift.gen.graph import Graph
from popshift.gen.mapping.placement import place

_STEP_WIDTH, _LEFT, _TOP, _HEIGHT, _NARROWEST = 104, 56, 26, 300, 15


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Words ``first .. end - 1`` hold a tensor in the columns ``born .. dies`` of the picture."""

    name: str
    first: int
    end: int
    born: int
    dies: int


def memory_map(graph: Graph, program: Program) -> tuple[Markup, int]:
    """Buffers as boxes: from left to right the layers, downwards the addresses.

    Returns
    -------
    the picture, and the words that the network takes.
    """
    columns = ["input", *(operator.name for operator in graph.operators)]
    buffers = _buffers(graph, program)
    used = max(buffer.end for buffer in buffers)
    scale = _HEIGHT / used
    parts = [_text(_LEFT + i * _STEP_WIDTH + 4, 16, name, "soft") for i, name in enumerate(columns)]
    width, height = _LEFT + len(columns) * _STEP_WIDTH + 2, _TOP + _HEIGHT + 18
    for tick in _ticks(used):
        y = _TOP + tick * scale
        parts.append(_text(_LEFT - 8, y + 4, f"{tick:,}", "soft", "end"))
        parts.append(
            Markup('<line class="line" x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}"/>').format(
                _LEFT - 4, y, width, y
            )
        )
    for index, buffer in enumerate(buffers):
        parts.append(_box(buffer, scale, hue=(index * 137) % 360))
    svg = Markup('<svg width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" font-size="12">{2}</svg>')
    return svg.format(width, height, Markup("").join(parts)), used


def _buffers(graph: Graph, program: Program) -> list[_Buffer]:
    """What the mapper decided, worked out again with the padding, which a program no longer tells apart."""
    found = []
    for name, placed in place(graph, program.config).items():
        assert placed.layout == program.tensor(name), f"{name} is placed elsewhere in the program"
        first = placed.layout.base - placed.buffer.first_word
        written = [step for step, operator in enumerate(graph.operators, 1) if operator.output == name]
        read = [step for step, operator in enumerate(graph.operators, 1) if name in operator.inputs]
        born = min(written, default=0)
        dies = len(graph.operators) if name in graph.outputs else max([born, *read])
        found.append(_Buffer(name, first, first + placed.buffer.words, born, dies))
    return found


def _box(buffer: _Buffer, scale: float, hue: int) -> Markup:
    x, y = _LEFT + buffer.born * _STEP_WIDTH, _TOP + buffer.first * scale
    width, height = (buffer.dies - buffer.born + 1) * _STEP_WIDTH - 4, (buffer.end - buffer.first) * scale
    box = Markup(
        '<g><title>{}: words {} to {}</title><rect x="{}" y="{:.1f}" width="{}" height="{:.1f}" rx="3" '
        'style="fill:hsl({} 60% 50% / .4);stroke:hsl({} 60% 50%)"/>{}</g>'
    )
    text = f"{buffer.name}  ({buffer.end - buffer.first:,} words)"
    label = _text(x + 8, y + height / 2 + 4, text)
    if height < _NARROWEST:
        label = _text(x + 8, y + height + 13, text, "soft")
    return box.format(
        buffer.name, buffer.first, buffer.end - 1, x, y, width, max(height, 1.5), hue, hue, label
    )


def _ticks(words: int) -> list[int]:
    """About five round addresses from 0 to `words`."""
    step = 1
    while words / step > 5:
        step *= 2
    return list(range(0, words + 1, step))


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(
        x, y, kind, anchor, text
    )
