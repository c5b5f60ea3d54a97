"""What every regression run takes from the environment, as `popshift test` sets it."""

import os

import pytest

from popshift.hw.config import AcceleratorConfig, load_config
from popshift.sim.regression import CONFIGS_VARIABLE, SEED_VARIABLE


def _configs() -> list[AcceleratorConfig]:
    return [load_config(name) for name in os.environ.get(CONFIGS_VARIABLE, "tiny").split(os.pathsep)]


@pytest.fixture(scope="session")
def regression_seed() -> int:
    """Seed of everything random in a run; failures print it."""
    return int(os.environ.get(SEED_VARIABLE, "1"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test or fixture with an argument `regression_config` runs once for each chosen configuration."""
    if "regression_config" in metafunc.fixturenames:
        metafunc.parametrize("regression_config", _configs(), ids=lambda config: config.name, scope="session")
