"""Charts made of HTML alone: stacked bars, a confusion matrix, small pictures with a line below."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from popshift.gen.report.png import data_uri


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: parts in the order of the legend, a mark to compare its length with, a line of text."""

    name: str
    parts: Sequence[float]
    mark: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A grey image, uint8 (height, width) with 0 black, and what is said about it."""

    pixels: NDArray[np.uint8]
    label: str
    wrong: bool = False


def stacked_bars(legend: Mapping[str, str], bars: Sequence[Bar], *, unit: str) -> Markup:
    """Horizontal bars on one scale.

    Parameters
    ----------
    legend: name of every part -> its colour, a CSS value.
    unit: of the numbers, for the text that appears over a part.
    """
    longest = max([1.0, *(sum(bar.parts) for bar in bars), *(bar.mark or 0 for bar in bars)])
    used = [any(bar.parts[index] for bar in bars) for index in range(len(legend))]
    shown = {name: colour for (name, colour), some in zip(legend.items(), used, strict=True) if some}
    rows = Markup("").join(_bar(bar, legend, longest, unit) for bar in bars)
    return colour_keys(shown) + Markup('<div class="bars">{}</div>').format(rows)


def colour_keys(colours: Mapping[str, str]) -> Markup:
    """Names with their colours, CSS values."""
    keys = (
        Markup('<span style="--colour:{}">{}</span>').format(colour, name) for name, colour in colours.items()
    )
    return Markup('<div class="legend">{}</div>').format(Markup("").join(keys))


def _bar(bar: Bar, legend: Mapping[str, str], longest: float, unit: str) -> Markup:
    parts = Markup("").join(
        Markup('<i style="--colour:{};width:{:.3f}%" title="{}: {:,} {}"></i>').format(
            colour, 100 * part / longest, name, part, unit
        )
        for (name, colour), part in zip(legend.items(), bar.parts, strict=True)
        if part
    )
    if bar.mark is not None:
        parts += Markup('<b style="left:{:.3f}%"></b>').format(100 * bar.mark / longest)
    text = Markup('<div class="value">{}</div>').format(bar.text) if bar.text else Markup("")
    return Markup('<div class="name">{}</div><div class="stack">{}</div>{}').format(bar.name, parts, text)


def confusion_matrix(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> Markup:
    """Rows: what it is; columns: what was said. `labels`, `predictions`: (N,), 0 .. classes - 1."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    most = max(1, int(counts.max()))
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in range(classes))
    rows = Markup("")
    for name, line in enumerate(counts.tolist()):
        cells = Markup("")
        for said, count in enumerate(line):
            kind = "right" if said == name else "wrong" if count else "none"
            cells += Markup('<td class="{}" style="--share:{:.2f}">{}</td>').format(
                kind, 0.65 * count / most, count or ""
            )
        rows += Markup("<tr><th>{}</th>{}</tr>").format(name, cells)
    return Markup('<table class="confusion"><tr><th></th>{}</tr>{}</table>').format(head, rows)


def thumbnails(images: Sequence[Thumbnail]) -> Markup:
    """A grid of small pictures; the wrong ones are framed."""
    return Markup('<div class="thumbs">{}</div>').format(
        Markup("").join(
            Markup('<div{}><img src="{}" alt="">{}</div>').format(
                Markup(' class="wrong"') if image.wrong else "", data_uri(image.pixels), escape(image.label)
            )
            for image in images
        )
    )
