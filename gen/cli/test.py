"""`popshift test`: the cocotb and Verilator regression on chosen configurations."""

from typing import Annotated

import typer

from popshift.gen.cli.output import Json, print_json
from popshift.hw.errors import EXIT_FAILED


def test(
    configs: Annotated[
        list[str] | None, typer.Argument(help="Configurations, by name or as .toml files; by default tiny.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random; the same seed gives the same run.")] = 1,
    select: Annotated[
        str, typer.Option("--select", "-k", help="Only tests whose names match, as pytest's -k.")
    ] = "",
    netlist: Annotated[
        str | None,
        typer.Option(help="Synthesise everything for ecp5 or ice40 first, and test the netlist."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Drive the generated Verilog against PyTorch with cocotb and Verilator; exit 1 if a test fails."""
    from popshift.sim.netlist import cell_models
    from popshift.sim.regression import run_regression

    chosen = configs or ["tiny"]
    if netlist is not None:
        cell_models(netlist)  # refuses a family that has none
    result = run_regression(chosen, seed=seed, select=select, netlist=netlist or "", show=not as_json)
    if as_json:
        print_json(result)
    else:
        numbers = f"{len(result.passed)} passed, {len(result.failed)} failed, {len(result.skipped)} skipped"
        typer.echo(f"{', '.join(chosen)}: {numbers}; seed {result.seed}, {result.seconds:.0f} s")
    if not result.good:
        raise typer.Exit(EXIT_FAILED)
