"""`popshift configs`: the configurations that ship with the package."""

from typing import Annotated

import typer

from popshift.gen.cli.output import Json, print_json, print_table
from popshift.hw.config import AcceleratorConfig, load_config, named_configs


def configs(
    name: Annotated[
        str | None, typer.Argument(help="One configuration, by name or as a .toml file: print it as TOML.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the configurations that ship, or print one as TOML to start your own from."""
    if name is not None:
        config = load_config(name)
        if as_json:
            print_json(config.to_dict())
        else:
            # A file is called as its stem: a copy that is changed must not go by the name of the first.
            print(config.to_toml(named=False), end="")
        return
    shipped = named_configs()
    if as_json:
        print_json({key: config.to_dict() for key, config in shipped.items()})
        return
    columns = ["name", "array", "MAC/cycle", "activations", "weights", "requantise", "link", "clock"]
    print_table("Configurations", columns, [_row(key, config) for key, config in shipped.items()])


def _row(key: str, config: AcceleratorConfig) -> list[str]:
    return [
        key,
        f"{config.rows} x {config.cols}",
        str(config.peak_macs_per_cycle),
        f"{config.rows * config.activation_depth / 1024:.0f} KiB",
        f"{config.weight_word_bytes * config.weight_depth / 1024:.0f} KiB",
        str(config.requantise),
        config.link,
        f"{config.clock_hz / 1e6:g} MHz",
    ]
