"""A report as data, and the HTML made of it: one file that needs nothing else, neither network nor scripts.

A page has sections, a section has blocks: `Table`, `Figure`, `Paragraph`. Text is escaped wherever it comes
from; only `Markup` (what `popshift.gen.report.charts` and its neighbours draw) goes in as it is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from popshift.firmware_py.program_file import write_atomically
from popshift.hw.errors import InputError

Cell = str | int | None
_NUMBER = re.compile(r"[-−+]?[\d,.]+( %)?|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns of numbers are aligned to the right; integers get their thousands separated, None is empty."""

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    total: Sequence[Cell] | None = None
    """A last row that sums up."""

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers alone."""
        cells = [[row[index] for row in self.rows] for index in range(len(self.columns))]
        return [all(_NUMBER.fullmatch(cell_text(cell)) for cell in column) for column in cells]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture; `wide`: it keeps its size and scrolls sideways where the screen is narrower."""

    kind: ClassVar[str] = "figure"
    picture: Markup
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text."""

    kind: ClassVar[str] = "paragraph"
    text: str


Block = Table | Figure | Paragraph


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report.

    Attributes
    ----------
    title: also the browser's.
    good, verdict: whether all is well, and the sentence that says so.
    figures: the numbers to see first, by what they are.
    facts: what, when and with which tools, by name.
    sections: in order.
    """

    title: str
    good: bool
    verdict: str
    figures: Mapping[str, str]
    facts: Mapping[str, str]
    sections: Sequence[Section] = field(default_factory=list)


def render(page: Page) -> str:
    """The page as HTML."""
    return _template().render(page=page, cell_text=cell_text)


def write(page: Page, path: Path) -> None:
    """Write the page to a file, all of it or nothing.

    Raises
    ------
    ProgramError: it cannot be written.
    """
    write_atomically(path, render(page).encode())


def make_folder(path: Path) -> None:
    """Make sure that a folder for a report exists.

    Raises
    ------
    InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make this folder ({error.strerror})", where=str(path), remedy="choose another"
        ) from error


def cell_text(cell: Cell) -> str:
    """A table's cell as text."""
    if cell is None:
        return ""
    return f"{cell:,}" if isinstance(cell, int) else cell


def percent(share: float | None, digits: int = 1) -> str:
    """``12.3 %`` for 0.123; empty for None."""
    return "" if share is None else f"{100 * share:.{digits}f} %"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("popshift.gen.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.jinja")
