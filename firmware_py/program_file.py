"""The container of a program file: a safetensors file that carries a JSON manifest and a checksum of every
byte.

The file's metadata has one entry, ``popshift``: JSON with ``format`` (the version), ``sha256`` and
``manifest``. The checksum is the SHA-256 of the whole file with its own 64 digits replaced by zeros, so that
no bit of header, manifest or payload can change unseen. Equal contents give equal bytes. Any safetensors
reader can open it; nothing is ever executed.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from popshift.hw.errors import ProgramError

FORMAT = 1
_ENTRY = "popshift"
_COMPILE = "; a model is compiled first (popshift compile)"
_NO_DIGEST = b"0" * 64
# As it stands in the file: JSON within a JSON string.
_BEFORE_DIGEST = rb"\"sha256\":\""
_LENGTH_BYTES = 8  # of the header's length, at the start of a safetensors file


def pack(manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A program file of a JSON-able manifest and named arrays."""
    entry = {"format": FORMAT, "manifest": manifest, "sha256": _NO_DIGEST.decode()}
    # ASCII only and sorted, so that equal manifests are equal bytes; NaN is not JSON.
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    data = safetensors.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, {_ENTRY: text}
    )
    place = _digest_place(data)
    assert data[place : place + 64] == _NO_DIGEST
    return data[:place] + hashlib.sha256(data).hexdigest().encode() + data[place + 64 :]


def unpack(data: bytes, where: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Manifest and arrays of a program file.

    Raises
    ------
    ProgramError: truncated, damaged, not a program file, or of another format version.
    """
    remedy = "copy it again or compile the model again"
    header_bytes = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or len(data) < _LENGTH_BYTES + header_bytes:
        raise ProgramError(
            f"truncated, or not a program file ({len(data)} bytes)", where=where, remedy=f"{remedy}{_COMPILE}"
        )
    place = _digest_place(data[: _LENGTH_BYTES + header_bytes])
    if place < 0:
        raise ProgramError(
            "not a program file", where=where, remedy="give a file that popshift compile wrote"
        )
    blank = data[:place] + _NO_DIGEST + data[place + 64 :]
    if hashlib.sha256(blank).hexdigest().encode() != data[place : place + 64]:
        raise ProgramError(_damage(data, header_bytes), where=where, remedy=remedy)
    try:
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + header_bytes])
        entry = json.loads(header["__metadata__"][_ENTRY])
        version, manifest = entry["format"], entry["manifest"]
        arrays = safetensors.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ProgramError(f"not a program file ({error})", where=where, remedy=remedy) from error
    if version != FORMAT:
        raise ProgramError(
            f"the file has format version {version}, this popshift reads version {FORMAT}",
            where=where,
            remedy="compile the model again with this version",
        )
    return manifest, arrays


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that whoever opens `path` finds the old contents or the new, never a part.

    Raises
    ------
    ProgramError: the folder does not exist or cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise ProgramError(
            f"cannot write it ({error.strerror or error})", where=str(path), remedy="check the folder"
        ) from error


def read(path: Path) -> bytes:
    """The bytes of a file.

    Raises
    ------
    ProgramError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProgramError(
            f"cannot read it ({error.strerror or error})", where=str(path), remedy=f"check the path{_COMPILE}"
        ) from error


def _digest_place(data: bytes) -> int:
    """Where the 64 digits of the checksum begin; negative if nowhere.

    The last such text: "sha256" sorts behind "manifest", whose contents can therefore not be mistaken for it.
    """
    place = data.rfind(_BEFORE_DIGEST)
    return place + len(_BEFORE_DIGEST) if place >= 0 else -1


def _damage(data: bytes, header_bytes: int) -> str:
    """Truncated (the header says how long the file should be) or altered."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + header_bytes])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        size = _LENGTH_BYTES + header_bytes + max(ends, default=0)
        if len(data) < size:
            return f"truncated: {len(data)} of {size} bytes"
    return "damaged or altered: its checksum does not agree with its contents"


def _plain(value: object) -> Any:
    """NumPy's numbers in a report's values, as JSON's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot be written to JSON")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
