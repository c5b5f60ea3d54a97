"""The report of a build: what is used of the device, how fast it is, and where the time of a clock cycle
goes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popshift.gen.implement.placement import PARTS, Placement
from popshift.gen.report.charts import Bar, stacked_bars
from popshift.gen.report.floor_plan import floor_plan
from popshift.gen.report.page import Figure, Page, Paragraph, Section, Table, percent

if TYPE_CHECKING:
    from popshift.gen.implement.build import Build
    from popshift.gen.implement.place_route import Report

_COLOURS = ("matrix", "accumulators", "feeding", "channel", "drain", "weights", "control")
"""Of `PARTS`: names in the style sheet."""


def build_page(done: "Build", title: str, network: Mapping[str, Any] | None) -> Page:
    """The page of a build.

    Parameters
    ----------
    title: of the board.
    network: what `popshift.gen.implement.products.network_figures` gives, or None.
    """
    best = done.best
    reached, wanted = f"{best.slowest_mhz:.1f} MHz", f"{best.clock_mhz:g} MHz"
    verdict = f"Timing is met: the design reaches {reached}, its clock has {wanted}."
    if not done.meets_timing:
        verdict = f"Too slow: the design reaches {reached}, its clock has {wanted}. It may compute nonsense."
    figures = {
        "clock": wanted,
        "Fmax, median of the seeds": f"{done.median.slowest_mhz:.1f} MHz",
        "peak": f"{done.peak_gmacs:.2f} GMAC/s",
    }
    if network is not None:
        figures[f"{network['network']}, an image"] = f"{network['milliseconds']:.3g} ms"
        figures["achieved"] = f"{network['gmacs']:.2f} GMAC/s"
    facts = {
        "board": title,
        "device": done.device,
        "configuration": f"{done.config.name}, digest {done.config.digest:016x}",
        "array": f"{done.config.rows} x {done.config.cols}",
        "link": f"UART, {done.config.baud:,} baud",
        **done.tools,
    }
    return Page(
        title=f"{done.config.name} on {title}",
        good=done.meets_timing,
        verdict=verdict,
        figures=figures,
        facts=facts,
        sections=[_resources(best), _floor_plan(best), _clocks(done), _path(best)],
    )


def _resources(report: "Report") -> Section:
    legend = {"used": "var(--matrix)", "free": "var(--line)"}
    bars = [
        Bar(
            name=name,
            parts=[use.used, use.available - use.used],
            text=f"{use.used:,} of {use.available:,} ({percent(use.used / use.available)})",
        )
        for name, use in report.resources().items()
    ]
    shares = [
        Bar(name=bar.name, parts=[100 * part / sum(bar.parts) for part in bar.parts], text=bar.text)
        for bar in bars
    ]
    return Section(title="Resources", blocks=[Figure(picture=stacked_bars(legend, shares, unit="%"))])


def _floor_plan(report: "Report") -> Section:
    colours = dict(zip(PARTS, _COLOURS, strict=True))
    picture = floor_plan(Placement.load(Path(report.placement)), colours)
    text = "The tiles of the device, coloured by the part that has most cells there; the darker, the fuller."
    return Section(title="Floor plan", blocks=[Figure(picture=picture, caption=text)])


def _clocks(done: "Build") -> Section:
    rows = [
        [
            f"seed {run.seed}",
            f"{run.slowest_mhz:.1f}",
            f"{run.seconds:.0f}",
            "kept" if run is done.best else "",
        ]
        for run in done.runs
    ]
    rows += [[f"seed {seed}", "", "", reason] for seed, reason in done.failed.items()]
    text = "nextpnr starts from a random placement; another seed gives another clock."
    return Section(
        title="Clock",
        blocks=[Paragraph(text), Table(columns=["run", "Fmax, MHz", "seconds", ""], rows=rows)],
    )


def _path(report: "Report") -> Section:
    legend = {"logic": "var(--matrix)", "wires": "var(--weights)"}
    bars = [
        Bar(
            name=step.signal,
            parts=[step.logic_ns, step.routing_ns],
            text=f"{step.logic_ns:.2f} + {step.routing_ns:.2f} ns",
        )
        for step in report.critical_path
    ]
    text = "The slowest way from register to register, by the signals it goes along."
    return Section(
        title="Critical path",
        blocks=[Paragraph(text), Figure(picture=stacked_bars(legend, bars, unit="ns"))],
    )
