"""Writing a bitstream to a board with openFPGALoader, and finding the board's serial port."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from popshift.gen.implement.toolchain import LOADER, LOADER_LIBRARIES, last_line, run, system_install
from popshift.hw.errors import ToolError

if TYPE_CHECKING:
    from popshift.boards import Board

# What openFPGALoader says when it does not reach a board at all.
_ABSENT = re.compile(
    r"unable to open|device not found|no device|can't find|not found|failed to claim|JTAG init failed|"
    r"fail to open|unable to find",
    re.IGNORECASE,
)
_DENIED = re.compile(r"permission|access|LIBUSB_ERROR_ACCESS|-4 \(", re.IGNORECASE)
_LIBRARY = re.compile(r"error while loading shared libraries: (\S+?):")
_MINUTES = 5.0
UDEV_REMEDY = (
    "on Linux install openFPGALoader's udev rule (99-openfpgaloader.rules), join the group plugdev and plug "
    "the board in again"
)


def require_loader() -> Path:
    """openFPGALoader, found and able to start.

    Raises
    ------
    ToolError: it is missing, or a system library that it needs is.
    """
    path = LOADER.require()
    if LOADER.version is None:
        done = subprocess.run([path, LOADER.version_option], capture_output=True, text=True)
        library = _LIBRARY.search(done.stderr)
        what = (
            f"openFPGALoader does not start: {library[1]} is missing" if library else last_line(done.stderr)
        )
        raise ToolError(what, where=str(path), remedy=f"run: {system_install(*LOADER_LIBRARIES)}")
    return path


def write_bitstream(board: "Board", name: str, contents: bytes, *, flash: bool = False) -> None:
    """Configure a board.

    Parameters
    ----------
    name, contents: of the file that the board's loader takes.
    flash: write it to the board's flash, where it survives power off, instead of the FPGA alone. Boards that
        have no other way do so always.

    Raises
    ------
    ToolError: openFPGALoader is missing or failed, or there is no such board.
    """
    path = require_loader()
    arguments = list(board.loader)
    if flash and board.to_flash is not None:
        arguments += board.to_flash
    with tempfile.TemporaryDirectory(prefix="popshift-") as scratch:
        file, log = Path(scratch, name), Path(scratch, "openfpgaloader.log")
        file.write_bytes(contents)
        try:
            run(
                [path, *arguments, file],
                task=f"programming {board.title}",
                log=log,
                cwd=Path(scratch),
                minutes=_MINUTES,
            )
        except ToolError as error:
            raise _explained(error, board, log.read_text(encoding="utf-8", errors="replace")) from error


def _explained(error: ToolError, board: "Board", text: str) -> ToolError:
    if _DENIED.search(text):
        what = f"no permission to use {board.title} ({last_line(text)})"
        return ToolError(what, where=error.where, remedy=UDEV_REMEDY)
    if _ABSENT.search(text):
        what = f"no {board.title} was found ({last_line(text)})"
        remedy = (
            f"check cable and power, that no other program holds it{_HINTS.get(board.dfu is not None, '')}"
        )
        return ToolError(what, where=error.where, remedy=remedy)
    return error


_HINTS = {True: "; and start its bootloader: hold the button while plugging it in"}
