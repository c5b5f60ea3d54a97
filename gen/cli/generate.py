"""`popshift generate`: the files of an accelerator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from popshift.gen.cli.output import Json, print_json, print_table
from popshift.hw.config import load_config

if TYPE_CHECKING:
    from popshift.gen.generation import Generated


def generate(
    config: Annotated[str, typer.Argument(help="Configuration, by name or as a .toml file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write to; made if it is missing.")
    ],
    technology: Annotated[
        str, typer.Option("--technology", "-t", help="portable, ecp5, ice40 or gowin.")
    ] = "portable",
    as_json: Json = False,
) -> None:
    """Write Verilog, configuration, memory map, register and instruction map, and a resource estimate."""
    target = load_config(config)
    from popshift.gen.generation import generate as write

    done = write(target, output, technology=technology)
    if as_json:
        print_json({"files": done.files, "resources": done.resources.to_dict(), "seconds": done.seconds})
        return
    _print(done)


def _print(done: "Generated") -> None:
    resources = done.resources
    rows = [
        [memory.name, str(memory.count), str(memory.width), str(memory.depth), f"{memory.kbit:,.1f}"]
        for memory in resources.memories
    ]
    print_table("Memories", ["memory", "number", "bits", "words", "kbit"], rows)
    kinds = [
        (resources.multipliers, resources.multiplier_bits),
        (resources.channel_multipliers, resources.channel_multiplier_bits),
        (resources.wide_multipliers, resources.wide_multiplier_bits),
        (resources.basis_multipliers, resources.basis_multiplier_bits),
    ]
    told = [f"{number} multipliers of {bits[0]} x {bits[1]} bits" for number, bits in kinds if number]
    typer.echo(f"{', '.join(told)}; {resources.memory_kbit:,.1f} kbit of memory")
    typer.echo(
        "LUT, FF, block RAM and clock are measured, not estimated: popshift build, popshift bench --area"
    )
    for path in done.files:
        typer.echo(f"wrote {path} ({path.stat().st_size:,} bytes)")
    typer.echo(f"{done.seconds:.1f} s")
