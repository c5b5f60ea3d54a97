import pytest

from popshift.hw.errors import ConfigError, InputError, ToolError
from popshift.sim import regression

QUICK = "design_that_does_not_build"  # a regression test that needs no simulation


def test_chosen_tests_run_and_are_named():
    result = regression.run_regression(["tiny"], seed=3, select=QUICK)
    assert result.passed == ("test_bench_echo::test_design_that_does_not_build_tells_the_line",)
    assert (result.failed, result.skipped, result.seed) == ((), (), 3)
    assert result.good
    assert "1 passed" in result.log


def test_outcomes_are_told_apart(tmp_path):
    results = tmp_path / "results.xml"
    results.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.regression.test_a" name="good"/>'
        '<testcase classname="test_a" name="bad"><failure message="no"/></testcase>'
        '<testcase classname="test_b" name="broken"><error message="no"/></testcase>'
        '<testcase classname="test_b" name="left_out"><skipped message="why"/></testcase>'
        "</testsuite></testsuites>"
    )
    outcomes = regression._outcomes(results)
    assert outcomes == (("test_a::good",), ("test_a::bad", "test_b::broken"), ("test_b::left_out",))


@pytest.mark.parametrize(
    ("passed", "failed", "good"), [(("a",), (), True), ((), (), False), (("a",), ("b",), False)]
)
def test_good_means_that_something_ran_and_nothing_failed(passed, failed, good):
    result = regression.RegressionResult(
        passed=passed, failed=failed, skipped=(), seed=1, seconds=0.0, log=""
    )
    assert result.good is good


def test_selection_of_nothing_is_refused():
    with pytest.raises(InputError, match="no test matches 'nonsense_name'"):
        regression.run_regression(select="nonsense_name")


def test_bad_seed_and_configuration_are_refused():
    with pytest.raises(InputError, match=r"seed must be 1 \.\. 2147483647, not 0"):
        regression.run_regression(seed=0)
    with pytest.raises(ConfigError, match="did you mean tiny"):
        regression.run_regression(["tinny"])


def test_installed_package_without_checkout_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(regression.resources, "files", lambda name: tmp_path / "popshift" / "sim")
    with pytest.raises(ToolError, match=r"not of the installed package.*clone"):
        regression.regression_folder()


def test_missing_test_tools_are_told(monkeypatch):
    monkeypatch.setattr(regression.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"pytest and cocotb not installed; pip install 'popshift\[test\]'"):
        regression.regression_folder()
