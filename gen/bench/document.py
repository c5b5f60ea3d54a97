"""Writes measured figures into docs/results.md.

``python -m popshift.gen.bench.document RESULTS_FOLDER FILE.md``; the folder holds what ``popshift bench
--json`` (also with ``--decompose`` or ``--smartdeal``) and ``popshift build --json`` printed, in files named
after the sections: ``bench*.json`` and so on. In the document each section lies between ``<!-- NAME:begin
-->`` and ``<!-- NAME:end -->``; a section for which there is no file stays as it is.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from popshift.gen.bench.tables import (
    Table,
    area_tables,
    binary_table,
    case_table,
    decomposition_table,
    link_table,
    smartdeal_table,
    speed_table,
    split,
    storage_table,
    training_table,
)
from popshift.hw.errors import InputError, PopshiftError

Results = dict[str, Any]
"""The contents of result files by name, without suffix."""


def write(folder: Path, document: Path) -> list[str]:
    """Replace the sections for which `folder` has results; returns their names.

    Raises
    ------
    InputError: a file cannot be read, is not what it should be, or a section is missing from the document.
    """
    try:
        text = document.read_text(encoding="utf-8")
    except OSError as error:
        what = f"cannot read it ({error.strerror or error})"
        raise InputError(what, where=str(document), remedy="check the path") from error
    written = []
    for name, render in SECTIONS.items():
        results, dates = _results(folder, f"{name}*.json")
        if not results:
            continue
        body = f"Measured {' and '.join(sorted(dates))}.\n\n{render(results)}"
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        text, found = pattern.subn(lambda match, body=body: match[1] + body + match[2], text)
        if not found:
            remedy = f"add the lines <!-- {name}:begin --> and <!-- {name}:end -->"
            raise InputError(f"there is no section {name}", where=str(document), remedy=remedy)
        written.append(name)
    document.write_text(text, encoding="utf-8")
    return written


def markdown(table: Table) -> str:
    """A table in Markdown, numbers to the right, with an empty line behind it."""
    numeric = [all(row[index][:1].isdigit() for row in table.rows) for index in range(len(table.columns))]
    lines = [table.columns, ["--:" if right else ":--" for right in numeric], *table.rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"


def _results(folder: Path, pattern: str) -> tuple[Results, set[str]]:
    results, dates = {}, set()
    for path in sorted(folder.glob(pattern), key=lambda path: (len(path.name), path.name)):  # a8 before a16
        try:
            results[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"not JSON ({error})", where=str(path), remedy="measure it again") from error
        dates.add(time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime)))
    return results, dates


def _bench(results: Results) -> str:
    records = split([record for entry in results.values() for record in entry])["case"]
    cases = case_table(records)
    parts = [_tools(records), markdown(cases)]
    parts += [_layers(records)]
    speed = speed_table(records)
    if speed.rows:
        parts += ["Speed of generator and simulator:\n\n", markdown(speed)]
    for area in area_tables(records):
        parts += [f"{area.title}:\n\n", markdown(area)]
    return "".join(parts)


def _tools(records: Sequence[dict[str, Any]]) -> str:
    described = {json.dumps(record["tools"]): record["tools"] for record in records}
    lines = [
        ", ".join(f"{name} {version}" for name, version in tools.items()) for tools in described.values()
    ]
    configs = {record["config"]: record["config_digest"] for record in records if "config" in record}
    if configs:
        named = ", ".join(f"{name} (digest {digest})" for name, digest in configs.items())
        lines.append(f"Configurations: {named}")
    return "".join(f"{line}.\n\n" for line in lines)


def _layers(records: Sequence[dict[str, Any]]) -> str:
    measured = [layer for record in records for layer in record["layers"] if layer["cycles"] is not None]
    if not measured:
        return ""
    worst = max(layer["relative_error"] for layer in measured)
    return f"The predicted cycles of the {len(measured)} layers are off by at most {100 * worst:.2f} %.\n\n"


def _build(results: Results) -> str:
    columns = [
        "configuration",
        "board or device",
        "clock MHz",
        "Fmax MHz (median)",
        "by seed",
        "LUT",
        "FF",
        "block RAM",
        "DSP",
        "SPRAM",
    ]
    rows = []
    for entry in results.values():
        seeds = ", ".join(f"{seed}: {clock:.1f}" for seed, clock in entry["fmax_mhz_by_seed"].items())
        uses = [entry["median"][name] for name in ("lut", "ff", "block_ram", "dsp", "spram")]
        cells = ["-" if use is None else f"{use['used']:,} of {use['available']:,}" for use in uses]
        built = f"{entry['unit']} of {entry['config']}" if entry.get("unit") else entry["config"]
        rows.append(
            [
                built,
                entry["board"] or entry["device"],
                f"{entry['clock_mhz']:g}",
                f"{entry['fmax_mhz']:.1f}",
                seeds,
                *cells,
            ]
        )
    return _tools(list(results.values())) + markdown(Table("Builds", columns, rows))


def _decompose(results: Results) -> str:
    records = split([record for entry in results.values() for record in entry])["decomposition"]
    parts = [_tools(records)]
    for record in records:
        table = decomposition_table(record)
        parts += [f"{table.title}, {record['threads']} threads:\n\n", markdown(table)]
    return "".join(parts)


def _smartdeal(results: Results) -> str:
    records = split([record for entry in results.values() for record in entry])["smartdeal"]
    return _tools(records) + markdown(smartdeal_table(records))


def _binary(results: Results) -> str:
    found = split([record for entry in results.values() for record in entry])
    text = _tools(found["binary"] + found["parts"]) + markdown(binary_table(found["binary"]))
    for table in (storage_table(found["storage"]), *map(training_table, found["parts"])):
        text += f"{table.title}:\n\n{markdown(table)}"
    return text


def _link(results: Results) -> str:
    records = split([record for entry in results.values() for record in entry])["link"]
    return _tools(records) + markdown(link_table(records))


SECTIONS: dict[str, Callable[[Results], str]] = {
    "bench": _bench,
    "build": _build,
    "link": _link,
    "decompose": _decompose,
    "smartdeal": _smartdeal,
    "binary": _binary,
}


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return InputError.exit_status
    try:
        written = write(Path(arguments[0]), Path(arguments[1]))
    except PopshiftError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(f"{arguments[1]}: {', '.join(written) or 'nothing'} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
