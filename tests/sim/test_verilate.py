from typing import Any

import echo_design
import pytest

from popshift.hw.errors import EXIT_ENVIRONMENT, ToolError
from popshift.sim import verilate, verilator

PORTS = "input clk, input rst, input [7:0] d, output reg [7:0] q"
CLEAN = f"module popshift({PORTS}); always @(posedge clk) q <= rst ? 8'd0 : d; endmodule\n"


@pytest.fixture
def forgetful(monkeypatch):
    """Finds Verilator anew, before and after the test."""
    verilator._find.cache_clear()
    yield monkeypatch
    verilator._find.cache_clear()


def test_design_is_built_once(monkeypatch):
    verilog = echo_design.verilog()
    program = verilate.build(verilog, optimise="compile", trace=True)

    def refuse(*arguments, **options):
        raise AssertionError(f"built again: {arguments}")

    monkeypatch.setattr(verilate, "run_tool", refuse)
    assert verilate.build(verilog, optimise="compile", trace=True) == program
    with pytest.raises(AssertionError, match="built again"):
        verilate.build(verilog + "// changed\n", optimise="compile", trace=True)
    with pytest.raises(AssertionError, match="built again"):
        verilate.build(verilog, optimise="speed", trace=True)


def test_unknown_optimisation_is_refused():
    with pytest.raises(ValueError, match="optimise must be one of speed, compile, not 'size'"):
        unknown: Any = "size"
        verilate.build(CLEAN, optimise=unknown)


def test_generated_verilog_is_clean():
    verilate.lint(echo_design.verilog())
    verilate.lint(CLEAN)


@pytest.mark.parametrize(
    ("verilog", "telling"),
    [
        (CLEAN.replace("always @(posedge clk) q <=", "always @(posedge clk) q ="), "Warning-BLKSEQ"),
        (CLEAN.replace("always @(posedge clk) q <= rst ?", "always @* if (rst) q = rst ?"), "Warning-LATCH"),
        (CLEAN.replace("endmodule", ""), "syntax error"),
        (CLEAN.replace("module popshift", "module other"), "popshift"),
    ],
)
def test_other_warnings_and_errors_are_told(verilog, telling):
    with pytest.raises(ToolError, match=telling) as caught:
        verilate.lint(verilog)
    assert caught.value.remedy
    assert caught.value.exit_status == EXIT_ENVIRONMENT


def test_waivers_say_why_and_are_needed():
    assert all(reason for reason in verilator.WAIVERS.values())
    assert [flag for flag in verilator.warning_flags() if flag.startswith("-Wno-")] == [
        f"-Wno-{name}" for name in verilator.WAIVERS
    ]


def test_build_tells_the_warning_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("POPSHIFT_CACHE", str(tmp_path))
    with pytest.raises(ToolError, match="BLKSEQ"):
        verilate.build(CLEAN.replace("<=", "="), optimise="compile")
    assert [path for path in (tmp_path / "verilated").iterdir() if path.is_dir()] == []


def test_missing_compiler_is_told(forgetful):
    forgetful.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolError, match=r"no-such-compiler is not installed; install g\+\+"):
        verilator.compiler()


def test_chosen_verilator_must_exist(forgetful):
    forgetful.setenv(verilator.VARIABLE, "no-such-verilator")
    with pytest.raises(ToolError, match="POPSHIFT_VERILATOR names 'no-such-verilator', which is no command"):
        verilator.find_verilator()


@pytest.mark.parametrize(("version", "good"), [("5.006", False), ("5.036", True), ("6.000", True)])
def test_chosen_verilator_must_be_new_enough(forgetful, tmp_path, version, good):
    script = tmp_path / "verilator"
    script.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo "Verilator {version} 2023-01-22";; *) echo /opt;; esac\n'
    )
    script.chmod(0o755)
    forgetful.setenv(verilator.VARIABLE, str(script))
    if good:
        tool = verilator.find_verilator()
        assert (tool.command, tool.bundled) == (script, False)
        assert tool.link_runtime(tmp_path) == []
    else:
        with pytest.raises(ToolError, match=r"Verilator must be 5\.036 or newer, not 'Verilator 5\.006"):
            verilator.find_verilator()


def test_makefile_flags_of_an_outer_make_stay_outside(monkeypatch, tmp_path):
    monkeypatch.setenv("MAKEFLAGS", " -j8 --jobserver-auth=3,4")
    settings = verilator.find_verilator().settings(tmp_path)
    assert "MAKEFLAGS" not in settings.environment
