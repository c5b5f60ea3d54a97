"""The regression bench on a small design: it passes what is right and finds what is wrong."""

import pytest
from cocotb_bench import build_bench, run_bench, side_by_side
from echo_unit import EchoUnit

FAULTS = ("bench_echo.withdrawn_item_fails", "bench_echo.stopped_unit_fails")


@pytest.fixture(scope="module")
def bench():
    return build_bench(side_by_side({"first": EchoUnit(), "second": EchoUnit()}))


@pytest.fixture(scope="module")
def run(bench, tmp_path_factory, regression_seed):
    return run_bench(
        bench,
        "bench_echo",
        scratch=tmp_path_factory.mktemp("echo"),
        seed=regression_seed,
        parameters={"items": 60},
    )


def test_good_runs_pass(run):
    assert set(run.failed) <= set(FAULTS), run.log
    assert len(run.passed) == 34


def test_faults_are_found_and_told(run, regression_seed):
    assert set(FAULTS) <= set(run.failed)
    with pytest.raises(AssertionError, match="2 failed in the simulation") as caught:
        run.check()
    told = str(caught.value)
    assert "withdrawn_item_fails: first__o offered 8, then None before that was taken" in told
    assert "stopped_unit_fails: no progress on first__o for 50 cycles" in told
    assert f"seed {regression_seed}" in told


def test_module_that_does_not_load_fails(bench, tmp_path):
    run = run_bench(bench, "no_such_bench", scratch=tmp_path, seed=1)
    with pytest.raises(AssertionError, match="no_such_bench"):
        run.check()


def test_design_that_does_not_build_tells_the_line(monkeypatch, tmp_path):
    monkeypatch.setenv("POPSHIFT_CACHE", str(tmp_path))
    monkeypatch.setattr("popshift.sim.verilator.Verilator.link_runtime", lambda *arguments, **options: [])
    with pytest.raises(RuntimeError, match="syntax error"):
        build_bench("module bench(input clk); endmodul\n")
