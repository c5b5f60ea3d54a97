"""Floor plan: which multiplier block of the device each multiplier of the array gets (ECP5).

An array knows better than a placer where its multipliers belong: nextpnr puts those of one adder tree half a
device apart, and everything around them follows (docs/decisions.md).
"""

import re
from collections.abc import Sequence
from typing import Any

from popshift.hw.matrix.mesh import tile_name

_IN_TILE = re.compile(r"\b" + tile_name(r"(\d+)", r"(\d+)") + r"\.\D*(\d+)$")


def place_multipliers(module: dict[str, Any], sites: Sequence[str]) -> int:
    """Give every MULT18X18D a site; returns how many have got one.

    The columns of the mesh follow each other along the sites, in each column the tiles from the first row to
    the last: what they hand on goes to a neighbour. The post unit's multipliers are in the middle.

    Parameters
    ----------
    module: a flat module, as Yosys' ``write_json`` gives it; changed in place.
    sites: names of the blocks, neighbours next to each other; none: nothing is placed.
    """
    cells = {name: cell for name, cell in module["cells"].items() if cell["type"] == "MULT18X18D"}
    tiles = {name: found for name in cells if (found := _IN_TILE.search(name))}
    columns = 1 + max((int(tile[2]) for tile in tiles.values()), default=0)
    middle = (columns + 1) // 2

    def place(name: str) -> tuple[int, int, int, int, str]:
        if name not in tiles:
            return middle, 0, 0, 0, name
        row, column, number = map(int, tiles[name].groups())
        return column, 1, row, number, name

    placed = list(zip(sorted(cells, key=place), sites, strict=False))
    for name, site in placed:
        cells[name].setdefault("attributes", {})["BEL"] = site
    return len(placed)
