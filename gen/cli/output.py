"""How commands print: JSON for programs and tables for people, both on standard output."""

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from popshift.hw.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
"""The option that every command has."""

_FILE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe, which has no width of its own."""


def require_writable(path: Path | None) -> None:
    """Find out before a long job whether its result can be written; None is no file.

    Raises
    ------
    InputError: no such folder, a folder itself, or no permission.
    """
    if path is None:
        return
    reason = 0
    if path.is_dir():
        reason = errno.EISDIR
    elif not path.parent.is_dir():
        reason = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        reason = errno.EACCES
    if reason:
        what = f"cannot write it ({os.strerror(reason)})"
        raise InputError(what, where=str(path), remedy="check the folder")


def print_json(value: Any) -> None:
    """Print dataclasses, paths and plain values as indented JSON."""
    print(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table; a column whose cells all start with a digit is aligned to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(row[index][:1].isdigit() for row in rows)
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    console.print(table)
