"""`popshift deploy`: a board that runs the accelerator, identified and, if asked for, tested unit by unit."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from popshift.gen.cli.build import BOARD_HELP, MINUTES, Minutes
from popshift.gen.cli.output import Json, print_json, print_table
from popshift.hw.errors import EXIT_FAILED, InputError

if TYPE_CHECKING:
    from popshift.boards import Board
    from popshift.firmware_py.program import Program
    from popshift.gen.selftest import Finding
    from popshift.hw.config import AcceleratorConfig


def deploy(
    config: Annotated[
        str | None,
        typer.Argument(help="Configuration, by name or as a .toml file; by default the board's."),
    ] = None,
    board: Annotated[str | None, typer.Option("--board", "-b", help=BOARD_HELP)] = None,
    port: Annotated[
        str | None,
        typer.Option("--port", "-p", help="Its serial port, or tcp:HOST:PORT; by default found by USB."),
    ] = None,
    flash: Annotated[bool, typer.Option("--flash", help="Write the board's flash, too.")] = False,
    seeds: Annotated[
        int | None, typer.Option(help="Place and route with so many seeds, as given to popshift build.")
    ] = None,
    clock: Annotated[float | None, typer.Option(help="Clock in MHz, as given to popshift build.")] = None,
    minutes: Minutes = MINUTES,
    bitstream: Annotated[
        Path | None,
        typer.Option(
            help="Program this file of popshift build instead of building; the .toml and .json beside it "
            "say what it is."
        ),
    ] = None,
    skip_programming: Annotated[
        bool, typer.Option("--skip-programming", help="The board is programmed already: only identify it.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Run known vectors through every unit and compare (exit 1).")
    ] = False,
    program: Annotated[
        Path | None, typer.Option(help="With --check: this program's tensors, too, layer by layer (.pop).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build (or take from the cache), program the board, and make sure that it answers as what was built."""
    from popshift.boards import BOARDS
    from popshift.boards import board as board_named
    from popshift.firmware_py.program import Program
    from popshift.gen.deploy import describe, find_port, identify
    from popshift.gen.device import is_serial
    from popshift.gen.implement.program_board import write_bitstream
    from popshift.hw.config import load_config

    if board is None:
        raise InputError("no board", remedy=f"give --board: {', '.join(BOARDS)}")
    if program is not None and not check:
        raise InputError("a program alone does nothing", where="--program", remedy="give --check, too")
    if bitstream is not None and (config or skip_programming or seeds is not None or clock is not None):
        remedy = "leave out the configuration, --seeds, --clock and --skip-programming"
        raise InputError("a bitstream is what it is", where="--bitstream", remedy=remedy)
    target = board_named(board)
    ready = None if bitstream is None else _read(bitstream, target)
    of_bitstream = None if bitstream is None else str(bitstream.with_suffix(".toml"))
    chosen = load_config(of_bitstream or config or target.configuration)
    loaded = None if program is None else Program.load(program)
    if loaded is not None:
        loaded.require(chosen)
    hz = None if clock is None else round(clock * 1e6)
    built = target.configure(chosen, clock_hz=hz)
    if not skip_programming:
        if port is not None and port.startswith("sim:"):
            raise InputError("a simulated board cannot be programmed", remedy="give --skip-programming")
        if target.dfu is None:  # before minutes of place and route; a bootloader has no serial port
            port = find_port(target, port)
        name, contents = ready or _built(target, chosen, seeds, clock, minutes)
        write_bitstream(target, name, contents, flash=flash)
        if not as_json:
            where = "flash" if flash or target.to_flash is None else "FPGA (until power off)"
            typer.echo(f"wrote {name} ({len(contents):,} bytes) to its {where}")
    found = identify(target, built, port)
    values: dict[str, Any] = {
        "board": target.name,
        "port": found.port,
        "baud": built.baud,
        "config": chosen.name,
        "config_digest": f"{built.digest:016x}",
        "programmed": not skip_programming,
    }
    if not as_json:
        speed = f" at {built.baud:,} baud" if is_serial(found.port) else ""
        typer.echo(f"{found.port} answers{speed}: {describe(found.identity)}")
    good = True
    if check:
        findings, difference = _check(built, found.port, loaded, quiet=as_json)
        good = difference is None and not any(finding.wrong for finding in findings)
        values |= {"check": findings, "program_difference": difference}
    if as_json:
        print_json(values)
    elif not check:
        options = f"--port {found.port} --baud {built.baud} --inputs x.npy"
        typer.echo(f"run a program there: popshift run FILE.pop {options}")
    if not good:
        raise typer.Exit(EXIT_FAILED)


def _built(
    board: "Board", config: "AcceleratorConfig", seeds: int | None, clock: float | None, minutes: float
) -> tuple[str, bytes]:
    from popshift.gen.implement.build import build_for_board
    from popshift.gen.implement.products import bitstream_file
    from popshift.gen.implement.program_board import require_loader

    require_loader()  # before minutes of place and route
    done = build_for_board(config, board, seeds=seeds, clock_mhz=clock, minutes=minutes)
    done.require_timing()
    return bitstream_file(done, board)


def _read(bitstream: Path, board: "Board") -> tuple[str, bytes]:
    """A bitstream and what `popshift build` says of it in the report beside it."""
    report = bitstream.with_suffix(".json")
    for path in (bitstream, report):
        if not path.is_file():
            remedy = "give a bitstream that popshift build wrote, with the files beside it"
            raise InputError("there is no such file", where=str(path), remedy=remedy)
    contents = bitstream.read_bytes()
    try:
        facts = json.loads(report.read_text(encoding="utf-8"))
        made_for, digest = facts["board"], facts["bitstream_sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"it is no report of popshift build ({error!r})", where=str(report), remedy="build it again"
        ) from error
    if made_for != board.name:
        remedy = f"give --board {made_for}, or another file"
        raise InputError(
            f"it was built for {made_for}, not for {board.name}", where=str(bitstream), remedy=remedy
        )
    if hashlib.sha256(contents).hexdigest() != digest:
        raise InputError(
            f"it is not the bitstream that {report.name} tells of",
            where=str(bitstream),
            remedy="build it again",
        )
    return bitstream.name, contents


def _check(
    config: "AcceleratorConfig", port: str, program: "Program | None", *, quiet: bool
) -> tuple[list["Finding"], str | None]:
    from popshift.gen.device import open_device
    from popshift.gen.execution import verify
    from popshift.gen.selftest import known_inputs, self_test, suspects

    with open_device(port, config=config) as device:
        findings = list(self_test(device, config))
        difference = None
        if program is not None:
            first = verify(program, known_inputs(program), board=device)[1]
            difference = None if first is None else f"{suspects(program, first)}: {first}"
    if not quiet:
        _print(findings, program, difference)
    return findings, difference


def _print(findings: list["Finding"], program: "Program | None", difference: str | None) -> None:
    rows = [
        [finding.probe, f"{finding.values:,}", f"{finding.wrong:,}", finding.first or finding.skipped or "-"]
        for finding in findings
    ]
    print_table("Self-test", ["probe", "values", "wrong", "first difference"], rows)
    bad = [finding for finding in findings if finding.wrong]
    if bad:
        typer.echo(f"the first that differs is {bad[0].probe}: look at {bad[0].suspect}")
    else:
        typer.echo("every value is the golden model's, to the last integer")
    if program is not None:
        result = f"differs first in {difference}" if difference else "every tensor equals the golden model's"
        typer.echo(f"{program.name}: {result}")
