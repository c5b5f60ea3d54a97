"""The bench's records as tables: columns and rows of text, for the terminal and for docs/results.md."""

from collections.abc import Sequence
from typing import Any, NamedTuple

ALONE_SUM_BITS = 24
"""Of the partial sum that a PE alone adds its product to."""
PLACES = {"alone": f"alone, with a {ALONE_SUM_BITS}-bit sum", "in_array": "in array"}


class Table(NamedTuple):
    title: str
    columns: list[str]
    rows: list[list[str]]


def case_table(records: Sequence[dict[str, Any]]) -> Table:
    """One row for each case and configuration."""
    columns = ["case", "config", "MACs", "cycles", "predicted", "worst layer error", "utilisation"]
    columns += ["where the other cycles went", "weight bytes", "activation bytes", "mismatches", "accuracy"]
    judged = any(record.get("reference_mismatches") is not None for record in records)
    columns += ["other than the reference"] if judged else []
    rows = [
        [
            record["case"],
            record["config"],
            f"{record['macs']:,}",
            _number(record["cycles"]),
            f"{record['predicted_cycles']:,}",
            _share(record["worst_layer_error"], 2),
            _share(record["utilisation"], 1),
            _stalls(record),
            _number(record["weight_bytes_read"]),
            _number(record["activation_bytes_read"]),
            str(record["mismatches"]),
            _share(record["accuracy"], 1),
            *([_number(record["reference_mismatches"])] if judged else []),
        ]
        for record in records
    ]
    return Table("Cases", columns, rows)


def speed_table(records: Sequence[dict[str, Any]]) -> Table:
    """One row for each configuration that was measured."""
    columns = [
        "config",
        "generate s (CPU)",
        "build the simulator s (CPU)",
        "simulated",
        "cycles/s",
        "cycles/CPU s",
    ]
    rows = []
    for name, speed in _by_config(records, "speed").items():
        row = [name]
        row += [f"{speed[f'{job}_seconds']} ({speed[f'{job}_cpu_seconds']})" for job in ("generate", "build")]
        row += [
            f"{speed['simulated_cycles']:,} cycles of {speed['workload']}",
            _number(speed["cycles_per_second"]),
            _number(speed["cycles_per_cpu_second"]),
        ]
        rows.append(row)
    return Table("Speed", columns, rows)


def area_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    """One table for each configuration and family that was synthesised."""
    tables = []
    for name, areas in _by_config(records, "area").items():
        for area in areas:
            rows = [
                _area_row(f"PE {kind}, {multiplier}, {PLACES[place]}", figures)
                for kind, multipliers in area["pe"].items()
                for multiplier, places in multipliers.items()
                for place, figures in places.items()
            ]
            rows += [_area_row(unit, figures) for unit, figures in area["units"].items()]
            rows.append(_area_row("whole accelerator with UART", area["whole"]))
            columns = ["part", "LUT4", "FF", "block RAM", "DSP", "SPRAM", "LUT RAM"]
            tables.append(Table(f"Area of {name} on {area['family']}", columns, rows))
    return tables


def decomposition_table(record: dict[str, Any]) -> Table:
    """One row for each kind of layer, and one for all."""
    rows = [
        [
            kind["kind"],
            str(kind["layers"]),
            f"{kind['weights']:,}",
            _share(kind["error"], 1),
            f"{kind['compression']:.2f}",
        ]
        for kind in record["kinds"]
    ]
    title = f"SmartDeal form of {record['decomposition']}: {record['seconds']:.1f} s"
    return Table(title, ["layers of kind", "layers", "weights", "error", "times smaller than fp32"], rows)


def smartdeal_table(records: Sequence[dict[str, Any]]) -> Table:
    """One row for each network and form, in the order of the networks."""
    columns = [
        "network",
        "execution",
        "array",
        "accuracy",
        "bits a weight",
        "times smaller than fp32",
        "cycles",
    ]
    columns += ["times faster", "weight bytes read", "of dense", "mismatches", "LUT4", "DSP"]
    names = list(dict.fromkeys(record["smartdeal"] for record in records))
    rows = [
        [
            record["case"],
            record["execution"],
            f"{record['config']} ({record['pes']} PEs)",
            _share(record["accuracy"], 2),
            f"{record['bits_per_weight']:.2f}",
            f"{record['compression']:.2f}",
            f"{record['cycles']:,}",
            f"{record['speedup']:.2f}",
            f"{record['weight_bytes']:,}",
            f"{record['traffic']:.3f}",
            str(record["mismatches"]),
            _number(record["lut4"]),
            _number(record["dsp"]),
        ]
        for record in sorted(records, key=lambda record: names.index(record["smartdeal"]))
    ]
    return Table("SmartDeal beside int8", columns, rows)


def binary_table(records: Sequence[dict[str, Any]]) -> Table:
    """One row for each network and form."""
    columns = ["network", "weights", "array", "accuracy", "bits a weight", "MACs", "cycles", "MACs a cycle"]
    columns += ["times int8", "weight bytes read", "of int8", "mismatches"]
    rows = [
        [
            record["case"],
            record["form"],
            record["config"],
            _share(record["accuracy"], 2),
            f"{record['bits_per_weight']:.2f}",
            f"{record['macs']:,}",
            f"{record['cycles']:,}",
            f"{record['macs_per_cycle']:.1f}",
            f"{record['speedup']:.2f}",
            f"{record['weight_bytes']:,}",
            f"{record['traffic']:.3f}",
            str(record["mismatches"]),
        ]
        for record in records
    ]
    return Table("Binary beside int8", columns, rows)


def link_table(records: Sequence[dict[str, Any]]) -> Table:
    """One row for each direction and rate of damaged frames."""
    columns = [
        "config",
        "direction",
        "damaged frames",
        "payload bytes",
        "bytes on the wire",
        "share",
        "repeated",
    ]
    rows = [
        [
            record["config"],
            record["link"],
            f"{100 * record['damaged']:g} %",
            f"{record['payload_bytes']:,}",
            f"{record['wire_bytes']:,}",
            f"{100 * record['efficiency']:.1f} %",
            f"{record['retransmissions']:,}",
        ]
        for record in records
    ]
    return Table("Link: payload of what crosses it", columns, rows)


def training_table(record: dict[str, Any]) -> Table:
    """One row for each variant."""

    def both(series: dict[str, Any]) -> str:
        return f"{100 * series['mean']:.2f} ± {100 * series['spread']:.2f} %"

    rows = [
        [
            name,
            both(found["accuracy"]),
            both(found["moved"]),
            f"{100 * found['gain']['mean']:+.2f} ± {100 * found['gain']['error']:.2f}",
            f"{found['loss']['mean']:.3f} ± {found['loss']['spread']:.3f}",
        ]
        for name, found in record["parts"].items()
    ]
    columns = [
        "training",
        "accuracy, mean ± spread",
        "in nine positions",
        "more than the first from the same seed, points ± error of the mean",
        "loss of the last epoch",
    ]
    return Table(f"Parts of DIR-Net, seeds {', '.join(map(str, record['seeds']))}", columns, rows)


def storage_table(records: Sequence[dict[str, Any]]) -> Table:
    """One row for each precision of the layers that are not binary."""
    columns = ["network", "bits in layers that are not binary", "weights", "times smaller than fp32"]
    rows = [
        [record["storage"], str(record["bits"]), f"{record['weights']:,}", f"{record['ratio']:.2f}"]
        for record in records
    ]
    return Table("Storage with binary 3x3 convolutions", columns, rows)


def split(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records by what they are of: ``smartdeal``, ``binary``, ``parts`` of a training, ``storage``,
    ``decomposition``, the ``link``, or a ``case``.
    """
    kinds = ("smartdeal", "binary", "parts", "storage", "decomposition", "link", "case")
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for record in records:
        found[next(kind for kind in found if kind in record)].append(record)
    return found


def show(records: Sequence[Any]) -> None:
    """Print everything that was measured."""
    import dataclasses

    from popshift.gen.cli.output import print_table

    found = split([dataclasses.asdict(record) for record in records])
    cases = found["case"]
    tables = [case_table(cases), speed_table(cases), *area_tables(cases)]
    tables += [decomposition_table(record) for record in found["decomposition"]]
    tables += [smartdeal_table(found["smartdeal"]), binary_table(found["binary"])]
    tables += [storage_table(found["storage"]), *map(training_table, found["parts"])]
    tables.append(link_table(found["link"]))
    for table in tables:
        if table.rows:
            print_table(*table)


def _by_config(records: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    return {record["config"]: record[key] for record in records if record[key] is not None}


def _area_row(name: str, figures: dict[str, float]) -> list[str]:
    return [name, *(f"{number:,}" for number in figures.values())]


def _stalls(record: dict[str, Any]) -> str:
    if record["stalls"] is None:
        return "-"
    found = {cause: number for cause, number in record["stalls"].items() if number}
    return ", ".join(
        f"{cause} {number:,}" for cause, number in sorted(found.items(), key=lambda item: -item[1])
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"


def _share(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"
