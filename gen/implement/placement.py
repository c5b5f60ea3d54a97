"""Where the cells of a placed design lie, by the part of the accelerator they belong to."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PARTS = {
    "PE array": re.compile(r"\bcore\.matrix\.mesh\b"),
    "accumulators": re.compile(r"\bcore\.matrix\.accumulators\b"),
    "rest of the matrix unit": re.compile(r"\bcore\.matrix\b"),
    "channel unit": re.compile(r"\bcore\.channel\b"),
    "post unit": re.compile(r"\bcore\.post\b"),
    "memories": re.compile(r"\bcore\.(activations|weights|parameters|program)\b"),
}
_OTHERS = "control and link"
PARTS = (*_PARTS, _OTHERS)
"""Parts of an accelerator, as a picture tells them apart."""
_PLACE = re.compile(r"^X(\d+)/?Y(\d+)/")


@dataclass(frozen=True, slots=True)
class Placement:
    """Cells in every tile of a device.

    Attributes
    ----------
    width, height: columns and rows, as far as something is placed there.
    cells: number of cells by (column, row, part); row 0 is nextpnr's.
    """

    width: int
    height: int
    cells: dict[tuple[int, int, str], int]

    @classmethod
    def of_design(cls, design: dict[str, Any]) -> "Placement":
        """Of a placed design in Yosys' JSON, as nextpnr's ``--write`` gives it: one module."""
        (module,) = design["modules"].values()
        cells: Counter[tuple[int, int, str]] = Counter()
        for name, cell in module["cells"].items():
            if place := _PLACE.match(str(cell["attributes"].get("NEXTPNR_BEL", ""))):
                cells[int(place[1]), int(place[2]), _part(name)] += 1
        width = 1 + max((column for column, _, _ in cells), default=0)
        height = 1 + max((row for _, row, _ in cells), default=0)
        return cls(width, height, dict(cells))

    @classmethod
    def load(cls, path: Path) -> "Placement":
        """From a file that `save` has written."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        cells = {(column, row, part): count for column, row, part, count in saved["cells"]}
        return cls(saved["width"], saved["height"], cells)

    def save(self, path: Path) -> None:
        """As JSON."""
        cells = [[*place, count] for place, count in sorted(self.cells.items())]
        whole = {"width": self.width, "height": self.height, "cells": cells}
        path.write_text(json.dumps(whole), encoding="utf-8")


def _part(name: str) -> str:
    return next((part for part, pattern in _PARTS.items() if pattern.search(name)), _OTHERS)
