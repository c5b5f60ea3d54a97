"""`popshift demo`: the main job from end to end, with a report to look at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from popshift.gen.cli.output import Json, print_json, print_table, require_writable
from popshift.hw.config import load_config
from popshift.hw.errors import EXIT_FAILED, InputError
from popshift.hw.isa import Counter

if TYPE_CHECKING:
    from popshift.gen.demo import Demo


_CONFIG, _SMARTDEAL_CONFIG, _BINARY_CONFIG = "a16", "a16-rebuild", "a16-xnor"


def demo(
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            help="Configuration, by name or as a .toml file.",
            show_default=f"{_CONFIG}; with --smartdeal {_SMARTDEAL_CONFIG}, with --binary {_BINARY_CONFIG}",
        ),
    ] = None,
    smartdeal: Annotated[
        bool,
        typer.Option(
            help="Train SmartDeal weights with half of the rows zero, and compare with int8 weights."
        ),
    ] = False,
    binary: Annotated[
        bool, typer.Option(help="Train binary weights and activations, and compare with int8.")
    ] = False,
    images: Annotated[
        int, typer.Option(min=1, max=360, help="Test images to classify on the simulated board.")
    ] = 360,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 31) - 2, help="Of the training.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report.", file_okay=False)
    ] = Path("results/demo"),
    save: Annotated[Path | None, typer.Option(help="Save the program, too (*.pop).", dir_okay=False)] = None,
    as_json: Json = False,
) -> None:
    """Train a network on handwritten digits and run it on a simulated accelerator, every integer compared.

    Writes a report that a browser opens. Exit status 1 if an integer differs from what PyTorch computes.
    """
    if smartdeal and binary:
        raise InputError("--smartdeal and --binary exclude each other", remedy="give one of them")
    default = _SMARTDEAL_CONFIG if smartdeal else _BINARY_CONFIG if binary else _CONFIG
    chosen = load_config(config or default)

    from rich.console import Console

    from popshift.gen import demo as job
    from popshift.gen.report.demo import write_report
    from popshift.gen.report.page import make_folder
    from popshift.gen.steps import Steps

    require_writable(save)
    make_folder(output)  # now: nobody wants to hear of it at the end
    form = job.Form.SMARTDEAL if smartdeal else job.Form.BINARY if binary else job.Form.INT8
    found = job.run(chosen, images=images, seed=seed, form=form, steps=Steps(Console(stderr=True)))
    if save is not None:
        found.compiled.program.save(save)
    report = write_report(found, output)
    if as_json:
        print_json({**found.to_dict(), "report": report, "program": save})
    else:
        _print(found, report, save)
    if found.mismatches:
        raise typer.Exit(EXIT_FAILED)


def _print(found: "Demo", report: Path, save: Path | None) -> None:
    from popshift.gen.demo import counted
    from popshift.gen.report.cycles import counted_layers
    from popshift.gen.report.page import percent

    rows = [
        [
            layer.name,
            layer.kind,
            f"{layer.macs:,}",
            f"{layer.cycles:,}",
            f"{layer.predicted:,}",
            percent(layer.utilisation),
            layer.bottleneck,
        ]
        for layer in counted_layers(found.compiled.program, found.profile)
    ]
    total = [
        f"{found.macs:,}",
        f"{found.cycles:,}",
        f"{found.predicted:,}",
        percent(found.utilisation),
    ]
    rows.append(["one image", "", *total, ""])
    columns = ["layer", "kind", "MACs", "cycles", "predicted", "utilisation", "limited by"]
    print_table(f"Cycles on {found.config.name}, counted by the hardware", columns, rows)
    figures = [
        [check.level, check.what, str(check.images), f"{check.numbers:,}", str(check.mismatches)]
        for check in found.checks
    ]
    print_table("Compared with PyTorch", ["level", "what", "images", "integers", "differing"], figures)
    for check in found.checks:
        if check.first:
            print(f"first difference at {check.level}: {check.first}")
    accuracies = {"float": found.float_accuracy, str(found.form): found.accuracy}
    if found.twin is not None:
        accuracies["int8"] = found.twin.accuracy
        before = counted(found.twin.profile, Counter.CYCLES)
        print(f"weights: {found.twin.storage.text}")
        times = f"{before / found.cycles:.2f} times fewer"
        print(f"cycles an image: {found.cycles:,}, with int8 weights {before:,}: {times}")
    print("accuracy: " + ", ".join(f"{name} {percent(share, 2)}" for name, share in accuracies.items()))
    print(f"report: {report}" + ("" if save is None else f"; program: {save}"))
    print(f"{found.seconds:.0f} seconds")
