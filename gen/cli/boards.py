"""`popshift boards`: the boards that can be built for."""

import typer

from popshift.gen.cli.output import Json, print_json, print_table


def boards(as_json: Json = False) -> None:
    """List the boards, with the device and the configuration of each."""
    from popshift.boards import BOARDS
    from popshift.hw.config import load_config

    found = [
        {
            "name": board.name,
            "title": board.title,
            "device": board.device,
            "config": board.configuration,
            "clock_mhz": board.configure(load_config(board.configuration)).clock_hz / 1e6,
            "baud": board.configure(load_config(board.configuration)).baud,
        }
        for board in BOARDS.values()
    ]
    if as_json:
        print_json(found)
        return
    columns = ["name", "board", "device", "configuration", "clock", "baud"]
    rows = [
        [
            entry["name"],
            entry["title"],
            entry["device"],
            entry["config"],
            f"{entry['clock_mhz']:g} MHz",
            f"{entry['baud']:,}",
        ]
        for entry in found
    ]
    print_table("Boards", columns, rows)
    typer.echo("docs/boards has a page for each: what to buy, cable, commands, what to expect")
