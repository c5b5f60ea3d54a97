"""What a build for a board leaves in a folder: bitstream, configuration, and the report as JSON and HTML."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popshift.firmware_py.program import Program
from popshift.firmware_py.program_file import write_atomically
from popshift.gen.implement.bitstream import with_dfu_suffix
from popshift.gen.implement.build import Build
from popshift.gen.report import build as build_page
from popshift.gen.report import page
from popshift.hw.errors import InputError
from popshift.sim.cycles import predicted_cycles

if TYPE_CHECKING:
    from popshift.boards import Board


def bitstream_file(done: Build, board: "Board") -> tuple[str, bytes]:
    """Name and contents of what the board's loader takes.

    Raises
    ------
    InputError: a build without a bitstream.
    """
    if done.bitstream is None:
        raise InputError("this build has no bitstream", where=done.device, remedy="build it for a board")
    contents, suffix = done.bitstream.read_bytes(), done.bitstream.suffix
    if board.dfu is not None:
        contents, suffix = with_dfu_suffix(contents, *board.dfu), ".dfu"
    return f"{done.config.name}-{board.name}{suffix}", contents


def network_figures(done: Build, program: Program) -> dict[str, Any]:
    """How fast a program will be at the clock of a build, without the time on the link."""
    cycles = predicted_cycles(program)
    seconds = cycles / (done.best.clock_mhz * 1e6)
    macs = sum(layer.macs for layer in program.layers)
    return {
        "network": program.name,
        "macs": macs,
        "cycles": cycles,
        "milliseconds": 1e3 * seconds,
        "gmacs": macs / seconds / 1e9,
    }


def write_products(
    done: Build, board: "Board", folder: Path, *, program: Program | None = None
) -> list[Path]:
    """Write the files of a build for a board; the same build again overwrites them.

    Parameters
    ----------
    program: a network whose speed the report tells, too.

    Raises
    ------
    InputError: the folder cannot be made.
    ProgramError: a file cannot be written.
    """
    page.make_folder(folder)
    name, contents = bitstream_file(done, board)
    stem = folder / f"{done.config.name}-{board.name}"
    network = None if program is None else network_figures(done, program)
    report = done.to_dict() | {"network": network, "bitstream_sha256": hashlib.sha256(contents).hexdigest()}
    texts = {
        ".toml": done.config.to_toml(),
        ".json": json.dumps(report, indent=2),
        ".html": page.render(build_page.build_page(done, board.title, network)),
    }
    paths = [folder / name]
    write_atomically(paths[0], contents)
    for suffix, text in texts.items():
        path = stem.with_name(stem.name + suffix)
        write_atomically(path, text.encode())
        paths.append(path)
    return paths
