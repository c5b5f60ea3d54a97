"""What every regression run takes from the environment, as `popshift test` sets it."""

import os

import pytest
from shapes import default_configs

from popshift.hw.config import AcceleratorConfig, load_config
from popshift.sim.regression import CONFIGS_VARIABLE, SEED_VARIABLE


def _configs() -> list[AcceleratorConfig]:
    chosen = os.environ.get(CONFIGS_VARIABLE)
    return [load_config(name) for name in chosen.split(os.pathsep)] if chosen else default_configs()


@pytest.fixture(scope="session")
def regression_seed() -> int:
    """Seed of everything random in a run; failures print it."""
    return int(os.environ.get(SEED_VARIABLE, "1"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test or fixture with an argument `regression_config` runs once for each chosen configuration."""
    if "regression_config" in metafunc.fixturenames:
        metafunc.parametrize("regression_config", _configs(), ids=lambda config: config.name, scope="session")
