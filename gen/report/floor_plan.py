"""A picture of a placed design: which part of the accelerator is where on the device."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import groupby

from markupsafe import Markup

from popshift.gen.implement.placement import Placement
from popshift.gen.report.charts import colour_keys

_WIDTH = 640
"""Pixels of the picture."""
_LEVELS = 4
"""Shades: the fullest tile of a part has the last."""


def floor_plan(placement: Placement, colours: Mapping[str, str]) -> Markup:
    """An SVG of the device's tiles, with a legend of how many cells each part has.

    Parameters
    ----------
    colours: name in the style sheet of every part, in the order of the legend.
    """
    total = dict.fromkeys(colours, 0)
    tiles = defaultdict[tuple[int, int], dict[str, int]](dict)
    for (column, row, part), count in placement.cells.items():
        total[part] += count
        tiles[row, column][part] = count
    names = {f"{part} ({count:,})": f"var(--{colours[part]})" for part, count in total.items() if count}
    fullest = max((sum(parts.values()) for parts in tiles.values()), default=0)
    shades = {place: _shade(parts, fullest) for place, parts in tiles.items()}
    rows = Markup("").join(
        _row([shades.get((row, column)) for column in range(placement.width)], row, colours)
        for row in range(placement.height)
    )
    size = Markup('viewBox="0 0 {} {}" width="{}"').format(placement.width, placement.height, _WIDTH)
    return colour_keys(names) + Markup('<svg {} shape-rendering="crispEdges">{}</svg>').format(size, rows)


def _shade(parts: Mapping[str, int], fullest: int) -> tuple[str, int]:
    """The part with most cells in a tile, and how full that tile is, 1 to `_LEVELS`."""
    part = max(parts, key=lambda name: parts[name])
    return part, 1 + sum(parts.values()) * _LEVELS // (1 + fullest)


def _row(shades: list[tuple[str, int] | None], row: int, colours: Mapping[str, str]) -> Markup:
    """Rectangles over neighbours of one shade."""
    found, column = Markup(""), 0
    for shade, alike in groupby(shades):
        length = len(list(alike))
        if shade is not None:
            part, level = shade
            found += Markup(
                '<rect x="{}" y="{}" width="{}" height="1" fill="var(--{})" opacity="{:.2f}"/>'
            ).format(column, row, length, colours[part], 0.4 + 0.6 * level / _LEVELS)
        column += length
    return found
