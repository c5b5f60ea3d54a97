"""Reading nextpnr's report: names, paths, clocks."""

import pytest

from popshift.gen.implement.timing import Step, Use, clocks, critical_path, design_name, utilisation


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("b_3_3[3]", "b_3_3[3]"),
        ("b_3_3_TRELLIS_FF_Q_6", "b_3_3"),
        ("product_3_3_TRELLIS_FF_Q_3_DI_CCU2C_S0_B0_LUT4_Z_D_LUT4_Z", "product_3_3"),
        ("mesh.psum_SB_DFFSR_Q_5_D_SB_LUT4_O_LC", "mesh.psum"),
        ("a_1_0_DFFR_Q_7", "a_1_0"),
        ("sum_DFF_Q", "sum"),
        ("clk_IBUF_I_O", "clk"),
        ("weights.ram.0.0_DP16KD_DOB0[2]", "weights.ram.0.0"),
        ("POST_ALU_result", "POST"),
        ("SPEED_limit", "SPEED_limit"),
        ("$abc$1234$lut", "$abc$1234$lut"),
    ],
)
def test_design_name(name, expected):
    assert design_name(name) == expected


def segment(kind: str, delay: float, name: str) -> dict:
    if kind == "routing":
        return {"type": kind, "delay": delay, "net": name, "to": {"cell": "elsewhere"}}
    return {"type": kind, "delay": delay, "to": {"cell": name}}


REPORT = {
    "critical_paths": [
        {"from": "<async>", "to": "posedge clk", "path": [segment("routing", 99.0, "rx")]},
        {"from": "posedge clk", "to": "<async>", "path": [segment("routing", 98.0, "tx")]},
        {"from": "posedge slow", "to": "posedge slow", "path": [segment("logic", 1.0, "slow")]},
        {
            "from": "posedge clk",
            "to": "posedge clk",
            "path": [
                segment("clk-to-q", 0.5, "a_TRELLIS_FF_Q_6"),
                segment("routing", 2.5, "a[3]"),
                segment("logic", 0.25, "sum_LUT4_Z_D"),
                segment("routing", 1.0, "sum_LUT4_Z_D[1]"),
                segment("logic", 0.25, "sum_CCU2C_S0"),
                segment("routing", 0.75, "sum"),
                segment("setup", 0.0, "sum_TRELLIS_FF_Q"),
            ],
        },
    ],
    "fmax": {
        "$glbnet$clk$TRELLIS_IO_IN": {"achieved": 190.5, "constraint": 120.0},
        "slow_IBUF_I_O": {"achieved": 50.0, "constraint": 12.0},
    },
    "utilization": {"TRELLIS_COMB": {"available": 100, "used": 7}, "DP16KD": {"available": 56, "used": 0}},
}


def test_critical_path_is_the_slowest_between_registers_and_merged_by_signal():
    assert critical_path(REPORT) == [Step("a[3]", 0.5, 2.5), Step("sum", 0.5, 1.75)]
    assert critical_path({**REPORT, "critical_paths": []}) == []


def test_clocks_have_the_names_of_their_ports():
    assert clocks(REPORT) == {"clk": 190.5, "slow": 50.0}


def test_utilisation_leaves_out_what_is_not_used():
    assert utilisation(REPORT) == {"TRELLIS_COMB": Use(7, 100)}
