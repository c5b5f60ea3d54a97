"""Where the parts of a placed design lie, and the picture of it."""

import re

from popshift.gen.implement.placement import PARTS, Placement
from popshift.gen.report.floor_plan import floor_plan


def cell(place: str | None) -> dict:
    return {"attributes": {} if place is None else {"NEXTPNR_BEL": place}}


DESIGN = {
    "modules": {
        "top": {
            "cells": {
                "accelerator.core.matrix.mesh.tile_0_1.psum[3]_LUT4_Z": cell("X2/Y0/SLICEA.LUT0"),
                "accelerator.core.matrix.mesh.tile_0_1.psum[4]_LUT4_Z": cell("X2/Y0/SLICEA.LUT1"),
                "accelerator.core.matrix.control.pixel[1]_FF": cell("X2/Y0/SLICEA.FF0"),
                "accelerator.core.activations$157.bank_0_DP16KD": cell("X1Y2/EBR"),
                "accelerator.core.post.lane_0.product[0]_FF": cell("X3Y2/DFF0"),
                "accelerator.uart.receiver.count[0]_FF": cell("X0/Y2/lc1"),
                "a constant that was never placed": cell(None),
            }
        }
    }
}


def test_cells_are_counted_by_tile_and_part(tmp_path):
    placement = Placement.of_design(DESIGN)
    assert (placement.width, placement.height) == (4, 3)
    assert placement.cells == {
        (2, 0, "PE array"): 2,
        (2, 0, "rest of the matrix unit"): 1,
        (1, 2, "memories"): 1,
        (3, 2, "post unit"): 1,
        (0, 2, "control and link"): 1,
    }
    placement.save(tmp_path / "placement.json")
    assert Placement.load(tmp_path / "placement.json") == placement


def test_a_tile_has_the_colour_of_the_part_with_most_cells():
    placement = Placement.of_design(DESIGN)
    picture = str(floor_plan(placement, dict(zip(PARTS, "abcdefg", strict=True))))
    found = re.findall(r'<rect x="(\d)" y="(\d)" width="1" height="1" fill="var\(--(\w)\)"', picture)
    assert found == [("2", "0", "a"), ("0", "2", "g"), ("1", "2", "f"), ("3", "2", "e")]
    assert "PE array (2)" in picture and "rest of the matrix unit (1)" in picture
    assert "channel unit" not in picture  # has no cells


def test_neighbours_of_one_shade_are_one_rectangle():
    placement = Placement(4, 1, {(column, 0, "post unit"): 8 for column in (0, 1, 3)})
    picture = str(floor_plan(placement, dict.fromkeys(PARTS, "matrix")))
    assert re.findall(r'<rect x="(\d)" y="0" width="(\d)"', picture) == [("0", "2"), ("3", "1")]
