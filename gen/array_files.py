"""NumPy files that users bring."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popshift.hw.errors import InputError


def named_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` by name; that of an ``.npy`` has none.

    Raises
    ------
    InputError: no such file, not an array, or one of Python objects.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read it ({reason})", where=str(path), remedy="check the path") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        what = "not a NumPy file of numbers"
        raise InputError(what, where=str(path), remedy="write it with numpy.save or numpy.savez") from error
