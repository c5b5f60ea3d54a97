"""The report of `popshift demo`."""

from datetime import datetime
from pathlib import Path

import numpy as np

from popshift.gen.bench.records import tools
from popshift.gen.compress.ranges import CALIBRATION_IMAGES
from popshift.gen.demo import Demo
from popshift.gen.execution import Level
from popshift.gen.report import page
from popshift.gen.report.charts import Thumbnail, confusion_matrix, thumbnails
from popshift.gen.report.cycles import cycles_section
from popshift.gen.report.network import mapping_section, memory_section, network_section
from popshift.gen.report.page import Figure, Page, Paragraph, Section, Table, percent
from popshift.gen.report.twin import twin_section
from popshift.gen.train.digits import CLASSES

FILE_NAME = "report.html"
SHOWN_IMAGES = 48


def write_report(demo: Demo, folder: Path) -> Path:
    """Write the report into `folder`, which is made.

    Raises
    ------
    InputError, ProgramError: it cannot be written.
    """
    page.make_folder(folder)
    path = folder / FILE_NAME
    page.write(demo_page(demo), path)
    return path


def demo_page(demo: Demo) -> Page:
    """The report as data."""
    config, graph, program = demo.config, demo.compiled.graph, demo.compiled.program
    numbers = sum(check.numbers for check in demo.checks)
    verdict = f"All {numbers:,} integers that were compared are the ones PyTorch computes."
    if demo.mismatches:
        verdict = f"{demo.mismatches:,} of {numbers:,} integers are not the ones PyTorch computes."
    seconds = demo.cycles / config.clock_hz
    figures = {
        f"{demo.form} accuracy": percent(demo.accuracy, 2),
        "float accuracy": percent(demo.float_accuracy, 2),
        "cycles per image": f"{demo.cycles:,}",
        "of the array's peak": percent(demo.utilisation),
        f"per image at {config.clock_hz / 1e6:g} MHz": f"{1e6 * seconds:.1f} µs",
        "images through the hardware": str(demo.images(Level.RTL)),
    }
    return Page(
        title=f"Handwritten digits on a {config.rows} × {config.cols} accelerator",
        good=not demo.mismatches,
        verdict=verdict,
        figures=figures,
        facts=_facts(demo),
        sections=[
            _proof(demo),
            _accuracy(demo),
            *([] if demo.twin is None else [twin_section(demo, demo.twin)]),
            _images(demo),
            network_section(graph),
            mapping_section(graph, program),
            cycles_section(program, demo.profile, demo.predicted),
            memory_section(graph, program),
            _steps(demo),
        ],
    )


def _facts(demo: Demo) -> dict[str, str]:
    config = demo.config
    return {
        "command": f"popshift demo {'' if demo.twin is None else f'--{demo.form.lower()} '}-c {config.name} "
        f"--images {demo.images(Level.RTL)} --seed {demo.seed}",
        "when": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "configuration": f"{config.name}, digest {config.digest:016x}",
        "array": f"{config.rows} rows × {config.cols} columns of processing elements "
        f"({', '.join(config.pe_kinds)}), "
        f"tiles of {config.tile_rows} × {config.tile_cols}, {config.dataflow}",
        "requantisation": f"{config.requantise}, {config.post_lanes} channels a cycle",
        "memories": f"{config.rows} × {config.activation_depth:,} bytes of activations, "
        f"{config.weight_depth:,} weight words of {config.weight_word_bytes} bytes",
        "seed": str(demo.seed),
        **tools(),
    }


def _proof(demo: Demo) -> Section:
    text = (
        "The golden model is PyTorch in 64-bit integers and exact float64 sums. isa executes the encoded "
        "program in NumPy and takes nothing from the network; rtl is the generated Verilog, compiled by "
        "Verilator and spoken to only through its link, by the driver that a board uses. Its memories start "
        "with random contents."
    )
    rows = [
        [check.level, check.what, check.images, check.numbers, check.mismatches, f"{check.seconds:.1f}"]
        for check in demo.checks
    ]
    columns = ["level", "compared", "images", "integers", "differing", "seconds"]
    blocks = [Paragraph(text), Table(columns=columns, rows=rows)]
    blocks += [Paragraph(f"First difference at {c.level}: {c.first}.") for c in demo.checks if c.first]
    if demo.simulation is not None:
        blocks.append(
            Paragraph(
                f"The simulated board ran {demo.simulation.cycles:,} clock cycles, "
                f"{demo.simulation.cycles_per_second:,.0f} a second."
            )
        )
    return Section(title="Every integer compared", blocks=blocks)


def _accuracy(demo: Demo) -> Section:
    labels = demo.data.test_labels.numpy()
    right = int((demo.predictions == labels).sum())
    rows = [
        ["float32, PyTorch", percent(demo.float_accuracy, 2), round(demo.float_accuracy * len(labels))],
        [f"{demo.form}, accelerator", percent(demo.accuracy, 2), right],
    ]
    if demo.twin is not None:
        rows.append(
            ["int8, accelerator", percent(demo.twin.accuracy, 2), round(demo.twin.accuracy * len(labels))]
        )
    text = (
        f"scikit-learn's digits: {len(demo.data.train_labels):,} images to train with (the first "
        f"{CALIBRATION_IMAGES} of them also chose the int8 ranges), {len(labels)} to test with, 8 × 8 pixels."
    )
    return Section(
        title="Accuracy",
        blocks=[
            Paragraph(text),
            Table(columns=["network", "accuracy", f"right of {len(labels)}"], rows=rows),
            Figure(
                picture=confusion_matrix(labels, demo.predictions, CLASSES),
                caption="A row for each digit, a column for what the accelerator took it for.",
                wide=True,
            ),
        ],
    )


def _images(demo: Demo) -> Section:
    """All that were taken for something else, and the first others."""
    labels = demo.data.test_labels.numpy()
    wrong = np.flatnonzero(demo.predictions != labels)
    others = np.setdiff1d(np.arange(len(labels)), wrong)[: max(0, SHOWN_IMAGES - len(wrong))]
    ink = demo.data.test_images[:, 0].numpy()
    pictures = [
        Thumbnail(
            pixels=np.rint(255 * (1 - ink[index])).astype(np.uint8),
            label=str(said) if said == labels[index] else f"{said}, is {labels[index]}",
            wrong=bool(said != labels[index]),
        )
        for index in [*wrong, *others]
        for said in [demo.predictions[index]]
    ]
    text = (
        f"{len(wrong)} of the {len(labels)} test images are taken for another digit (framed); "
        f"beside them the first {len(others)} others. Below each stands the accelerator's answer."
    )
    return Section(title="Test images", blocks=[Paragraph(text), Figure(picture=thumbnails(pictures))])


def _steps(demo: Demo) -> Section:
    rows = [[step.title, f"{step.seconds:.1f}", step.note] for step in demo.steps]
    table = Table(
        columns=["step", "seconds", "result"], rows=rows, total=["altogether", f"{demo.seconds:.1f}", ""]
    )
    text = "Verilog and the compiled board are kept, so that they are quick the next time."
    return Section(title="What was done", blocks=[Paragraph(text), table])
