"""`popshift bench`: standard cases on a configuration, counted by the hardware."""

import sys
from typing import Annotated, Any, Literal

import typer

from popshift.gen.cli.output import Json, print_json
from popshift.hw.config import load_config
from popshift.hw.errors import EXIT_FAILED, ModelError

FAMILIES = ("ecp5", "ice40", "gowin")


def bench(
    cases: Annotated[
        list[str] | None,
        typer.Argument(
            help="Cases to run, or model files, each with data.npz beside it; by default all cases.",
            metavar="[CASE]...",
        ),
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option("--config", "-c", help="Configuration; repeat it for several. [a16]")
    ] = None,
    level: Annotated[
        Literal["isa", "rtl"], typer.Option(help="rtl: counted by the hardware; isa: results only.")
    ] = "rtl",
    seed: Annotated[int, typer.Option(min=0, help="Of weights and inputs.")] = 0,
    area: Annotated[
        bool,
        typer.Option(
            "--area",
            help="Add what the configuration takes after synthesis, by unit. "
            f"Name a family behind it: {', '.join(FAMILIES)}; by default {FAMILIES[0]}.",
        ),
    ] = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="Add the time to generate and to build, and simulated cycles/s.")
    ] = False,
    decompose: Annotated[
        bool,
        typer.Option(
            "--decompose",
            help="Time SmartDeal on ResNet-18 with random weights; nothing else unless it is asked for.",
        ),
    ] = False,
    smartdeal: Annotated[
        bool,
        typer.Option(
            "--smartdeal",
            help="Compare SmartDeal, rebuilt and factored, with int8 on arrays made of the configuration; "
            "nothing else unless it is asked for.",
        ),
    ] = False,
    binary: Annotated[
        bool,
        typer.Option(
            "--binary",
            help="Compare binary layers with int8 on the configuration with xnor PEs; nothing else unless it "
            "is asked for.",
        ),
    ] = False,
    training: Annotated[
        bool,
        typer.Option(
            "--training",
            help="Train binary networks with the parts of DIR-Net switched on one by one, some ten minutes; "
            "nothing else unless it is asked for.",
        ),
    ] = False,
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Count the bytes that 64 KiB take on the link, without and with damaged frames; nothing "
            "else unless it is asked for.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run standard cases: cycles, utilisation, stalls and memory traffic; every integer is compared."""
    named = cases or []
    families = [name for name in named if area and name in FAMILIES] or list(FAMILIES[:1])
    named = [name for name in named if not (area and name in FAMILIES)]
    chosen_configs = [load_config(name) for name in config or ["a16"]]
    no_array = (decompose or training) and not (cases or config or area or speed)
    configs = [] if no_array or ((smartdeal or binary or link) and not named) else chosen_configs

    from popshift.gen.bench.cases import choose
    from popshift.gen.bench.measure import run_cases
    from popshift.gen.level import Level

    chosen = choose(named)
    records: list[Any] = []
    mismatches = 0
    for entry in configs:
        here = list(
            run_cases(chosen, entry, level=Level(level), seed=seed, skip=None if named else _leave_out)
        )
        if area:
            from popshift.gen.bench.area import area_of

            areas = [area_of(entry, family) for family in families]
            for record in here:
                record.area = areas
        if speed:
            from popshift.gen.bench.speed import speed_of

            measured = speed_of(entry, seed=seed)
            for record in here:
                record.speed = measured
        records += here
        mismatches += sum(record.mismatches for record in here)
    if decompose:
        from popshift.gen.bench.decompose import decompose_resnet18

        records.append(decompose_resnet18(seed))
    if smartdeal:
        from popshift.gen.bench.smartdeal import compare

        for entry in chosen_configs:
            compared = list(compare(entry, seed=seed, family=families[0] if area else None))
            records += compared
            mismatches += sum(record.mismatches for record in compared)
    if binary:
        from popshift.gen.bench import binary as binary_bench

        for entry in chosen_configs:
            found = list(binary_bench.compare(entry, seed=seed))
            records += found
            mismatches += sum(record.mismatches for record in found)
        from popshift.gen.bench.training import resnet18_weights

        records += resnet18_weights()
    if link:
        from popshift.gen.bench.link import measure_link

        records += [record for entry in chosen_configs for record in measure_link(entry, seed)]
    if training:
        from popshift.gen.bench.training import compare_training

        records.append(compare_training())
    if as_json:
        print_json(records)
    else:
        from popshift.gen.bench.tables import show

        show(records)
    if mismatches:
        raise typer.Exit(EXIT_FAILED)


def _leave_out(case: str, reason: ModelError) -> None:
    print(f"left out: {case} ({reason})", file=sys.stderr)
