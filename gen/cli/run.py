"""`popshift run`: run a program on a board, or on a simulated one."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from popshift.gen.cli.arrays import (
    outputs_summary,
    print_outputs,
    read_arrays,
    warn_clipped,
    write_outputs,
)
from popshift.gen.cli.output import Json, print_json, require_writable
from popshift.gen.cli.simulate import INPUTS_HELP
from popshift.hw.config import AcceleratorConfig, load_config
from popshift.hw.errors import InputError
from popshift.hw.status import plain_counters

PORT_HELP = "A serial device (/dev/ttyUSB0, COM3), tcp:HOST:PORT, or sim: for a simulated board."


def run(
    program: Annotated[Path, typer.Argument(help="Program file (.pop).")],
    inputs: Annotated[Path, typer.Option("--inputs", "-i", help=INPUTS_HELP)],
    port: Annotated[str | None, typer.Option("--port", "-p", help=PORT_HELP)] = None,
    board: Annotated[
        str | None, typer.Option("--board", "-b", help="A board: its port is found, its speed known.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the outputs as .npz.")] = None,
    baud: Annotated[
        int | None, typer.Option(help="Speed of the serial port; by default the configuration's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Load a program onto a device, run it on every image, and read outputs and counters back."""
    from popshift.firmware_py.program import Program
    from popshift.gen.device import open_device

    if port is None and board is None:
        raise InputError("nothing to run it on", remedy="give --port (sim: for a simulated board) or --board")
    require_writable(output)
    loaded = Program.load(program)
    # Refuse bad inputs before a device is touched.
    given = read_arrays(inputs)
    values = loaded.quantise_inputs(given)
    warn_clipped(loaded, given)
    if board is not None:
        port, baud = _of_board(board, loaded.config, port, baud)
    assert port is not None
    kind, _, simulated = port.partition(":")
    if kind == "sim" and simulated:
        loaded.require(load_config(simulated))  # before it is built
    with open_device(port, config=loaded.config, baud=baud) as device:
        started = time.monotonic()
        device.load(loaded, progress=not as_json)
        load_seconds = time.monotonic() - started
        outputs = device.run(values, progress=not as_json)
        seconds = time.monotonic() - started - load_seconds
        counters = plain_counters(device.counters(), by_cause=loaded.config.performance_counters)
        statistics = asdict(device.link.statistics)
    if output is not None:
        write_outputs(output, loaded, outputs)
    images = len(next(iter(outputs.values())))
    summary = outputs_summary(loaded, outputs)
    if as_json:
        print_json(
            {
                "network": loaded.name,
                "config": loaded.config.name,
                "port": port,
                "images": images,
                "load_seconds": load_seconds,
                "seconds": seconds,
                "outputs": summary,
                "counters": counters,
                "segments": len(loaded.segments),
                "link": statistics,
            }
        )
        return
    print_outputs(summary)
    if output is not None:
        typer.echo(f"wrote {output}")
    part = "" if len(loaded.segments) == 1 else f" in the last of {len(loaded.segments)} segments"
    typer.echo("counters of the last image" + part + ": " + _pairs(counters))
    typer.echo("link: " + _pairs(statistics))
    typer.echo(f"loaded in {load_seconds:.2f} s; {images} images in {seconds:.2f} s")


def _of_board(
    name: str, config: AcceleratorConfig, port: str | None, baud: int | None
) -> tuple[str, int | None]:
    """Port and speed of a board that `popshift deploy` has programmed, where they are not given."""
    from popshift.boards import board as board_named
    from popshift.gen.deploy import find_port
    from popshift.gen.device import is_serial

    board = board_named(name)
    found = find_port(board, port)
    return found, baud or board.configure(config).baud if is_serial(found) else baud


def _pairs(values: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in values.items())
