"""What is slow to build is built once: folders named by a digest of everything they were made from."""

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from popshift.hw.errors import ToolError

CACHE_VARIABLE = "POPSHIFT_CACHE"
_SILENT_SECONDS = 2.0
_showing = threading.Lock()


def cache_folder() -> Path:
    """Where builds are kept, and may be deleted: POPSHIFT_CACHE, or popshift in the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "popshift"


def digest(*parts: str | bytes) -> str:
    """24 hexadecimal digits that differ whenever a part does (or where one part ends and the next begins)."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:24]


def cached(kind: str, key: str, make: Callable[[Path], None], *, what: str) -> Path:
    """The folder ``kind/key`` of the cache, filled by `make` if it does not exist yet.

    Processes that want the same folder at the same time wait for the one that builds it. A build that
    fails or is interrupted leaves nothing behind.

    Parameters
    ----------
    make: called with a new folder to fill; an exception it raises is passed on.
    what: completes "building …", shown on a terminal when it takes longer than two seconds.

    Raises
    ------
    ToolError: the cache cannot be written.
    """
    folder = cache_folder() / kind / key
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with progress(what), FileLock(folder.with_name(f"{key}.lock")):
            if not folder.is_dir():
                _make(folder, make)
    except OSError as error:
        raise ToolError(
            f"cannot build in the cache ({error.strerror or error})",
            where=str(folder),
            remedy=f"set {CACHE_VARIABLE} to a folder that can be written and has room",
        ) from error
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        make(new)
        new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Shows "building …" and the time so far on the terminal's error stream, from two seconds on.

    A build that another one needs is not shown: a terminal has room for one moving line.
    """
    console = Console(stderr=True)
    if not console.is_terminal or not _showing.acquire(blocking=False):
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    status = Progress(*columns, console=console, transient=True)
    status.add_task(f"building {what}", total=None)
    timer = threading.Timer(_SILENT_SECONDS, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()
        _showing.release()
