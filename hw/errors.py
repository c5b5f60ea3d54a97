"""The errors a user can meet. Each says what is wrong, where, and what to do; none needs a traceback to be
understood.
"""

import difflib
from collections.abc import Iterable

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_ENVIRONMENT = 3


class PopshiftError(Exception):
    """Base of every error that bad input, a failed job or a missing tool can raise.

    Parameters
    ----------
    what: one sentence: what is wrong (with the offending value).
    where: file, layer, field or device it was found in; may be empty.
    remedy: what the user can do about it; may be empty.
    """

    exit_status = EXIT_FAILED

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__((f"{where}: " if where else "") + what + (f"; {remedy}" if remedy else ""))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question with a space behind it, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""


class ConfigError(PopshiftError, ValueError):
    """A configuration that names an unknown key or an impossible value."""

    exit_status = EXIT_BAD_INPUT


class ModelError(PopshiftError):
    """A network that cannot be taken: unsupported operator, dynamic shape, NaN weights, does not fit."""

    exit_status = EXIT_BAD_INPUT


class InputError(PopshiftError, ValueError):
    """An input array of the wrong shape, type or range."""

    exit_status = EXIT_BAD_INPUT


class ProgramError(PopshiftError):
    """A program file that is damaged, truncated or meant for another configuration."""

    exit_status = EXIT_BAD_INPUT


class DeviceError(PopshiftError):
    """The device (or its simulation) is silent, answers wrongly, or stopped a program with an error."""


class NoDeviceError(DeviceError):
    """There is no such device, or no port that leads to it."""

    exit_status = EXIT_ENVIRONMENT


class ToolError(PopshiftError):
    """An external tool or library is missing or failed."""

    exit_status = EXIT_ENVIRONMENT
