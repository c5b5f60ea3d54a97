"""The trained networks of ../shared/data, which are no part of the project."""

from pathlib import Path

import pytest

_DATA = Path(__file__).parents[2] / "shared" / "data"


def supplied(folder: str) -> Path:
    """A folder of models with ``data.npz`` beside them; the test is skipped if it is not here."""
    if not (_DATA / folder).is_dir():
        pytest.skip("the networks of ../shared/data are not here")
    return _DATA / folder
