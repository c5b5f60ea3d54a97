import json

from popshift.gen.implement import place_route
from popshift.gen.implement.devices import DEVICES, device
from popshift.gen.implement.floor_plan import place_multipliers
from popshift.gen.implement.synthesis import synthesise
from popshift.hw.config import load_config
from popshift.hw.emit import emit_verilog


def multipliers(*names: str) -> dict:
    cells = {name: {"type": "MULT18X18D", "attributes": {"src": "here"}} for name in names}
    return {"cells": {**cells, "other": {"type": "LUT4"}}}


def sites_of(module: dict) -> dict[str, str]:
    return {name: cell["attributes"]["BEL"] for name, cell in module["cells"].items() if "attributes" in cell}


def test_columns_follow_each_other_around_the_post_unit():
    module = multipliers(
        "top.mesh.tile_1_0.U$0",
        "top.mesh.tile_0_2.U$10",
        "top.mesh.tile_0_2.U$9",
        "top.mesh.tile_0_0.U$0",
        "top.post.lane_0.U$0",
        "top.mesh.tile_0_1.U$0",
    )
    assert place_multipliers(module, list("abcdefg")) == 6
    assert sites_of(module) == {
        "top.mesh.tile_0_0.U$0": "a",
        "top.mesh.tile_1_0.U$0": "b",
        "top.mesh.tile_0_1.U$0": "c",
        "top.post.lane_0.U$0": "d",
        "top.mesh.tile_0_2.U$9": "e",
        "top.mesh.tile_0_2.U$10": "f",
    }
    assert module["cells"]["other"] == {"type": "LUT4"}


def test_multipliers_beyond_the_sites_are_left_to_the_placer():
    module = multipliers("mesh.tile_0_0.U$0", "mesh.tile_0_0.U$1")
    assert place_multipliers(module, ["a"]) == 1
    assert "BEL" not in module["cells"]["mesh.tile_0_0.U$1"]["attributes"]
    assert place_multipliers(module, []) == 0


def test_every_block_of_a_device_is_a_site_once():
    planned = [entry for entry in DEVICES.values() if entry.multiplier_sites]
    assert "lfe5u-85f" in [entry.name for entry in planned]
    for entry in planned:
        assert len(set(entry.multiplier_sites)) == len(entry.multiplier_sites) == entry.capacity["dsp"]


def test_names_of_a_real_netlist_are_understood(tmp_path):
    """A tile of two rows has its multipliers next to each other, whatever synthesis did to its name."""
    config = load_config("tiny").replace(dsp_multipliers=-1)
    netlist = synthesise(emit_verilog(config, technology="ecp5"), family="ecp5")
    copy = place_route._planned(netlist, device("lfe5u-85f"), tmp_path / "netlist.json")
    module = json.loads(copy.read_text())["modules"]["popshift"]
    sites = device("lfe5u-85f").multiplier_sites
    places = {
        name: sites.index(cell["attributes"]["BEL"])
        for name, cell in module["cells"].items()
        if cell["type"] == "MULT18X18D"
    }
    mesh = [name for name, _ in sorted(places.items(), key=lambda item: item[1]) if ".tile_" in name]
    assert len(mesh) == config.rows * config.cols
    per_tile = config.tile_rows * config.tile_cols
    tiles = [name.split(".tile_")[1].split(".")[0] for name in mesh]
    assert tiles == [tile for tile in ("0_0", "1_0", "0_1", "1_1") for _ in range(per_tile)]
    assert len(places) > len(mesh)  # the post unit has some, too
