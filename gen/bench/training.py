"""What the parts of DIR-Net's training bring, and what binary weights take."""

from dataclasses import asdict, dataclass, field
from typing import Any

from popshift.gen.bench.records import tools
from popshift.gen.train import digits
from popshift.gen.train.binary import compare_parts, resnet18_storage
from popshift.gen.train.binary.digits import Series

SEEDS = tuple(range(12))


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """Binary digits networks, the parts of their training switched on one at a time at equal budget.

    ``parts``: by variant ``accuracy``, ``moved`` (test images in nine positions) and ``loss`` of every seed,
    with ``mean`` and ``spread`` (standard deviation); ``gain``: by how much ``moved`` is above that of the
    first variant from the same seed, mean and standard error of the mean.
    """

    parts: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    tools: dict[str, str] = field(default_factory=lambda: tools())


@dataclass(frozen=True, kw_only=True)
class StorageRecord:
    """ResNet-18's weights: 1 bit in its 3x3 convolutions, `bits` in all other layers."""

    storage: str
    bits: int
    weights: int
    ratio: float


def compare_training() -> TrainingRecord:
    """Train all variants from all of `SEEDS`; some ten minutes."""
    found = compare_parts(digits.load(), SEEDS)
    parts = {}
    for name, outcome in found.items():
        parts[name] = {
            key: {**asdict(series), "mean": series.mean, "spread": series.spread}
            for key, series in (
                ("accuracy", outcome.accuracy),
                ("moved", outcome.moved),
                ("loss", outcome.loss),
            )
        }
        plain = next(iter(found.values())).moved
        pairs = zip(outcome.moved.values, plain.values, strict=True)
        gain = Series(tuple(own - other for own, other in pairs))
        parts[name]["gain"] = {"mean": gain.mean, "error": gain.spread / len(SEEDS) ** 0.5}
    return TrainingRecord(parts=parts, seeds=SEEDS)


def resnet18_weights() -> list[StorageRecord]:
    """Everything but the binary layers in float32, as DIR-Net counts, and in int8, as here."""
    found = []
    for bits in (32, 8):
        counted = resnet18_storage(first=bits, last=bits, shortcuts=bits)
        found.append(
            StorageRecord(storage="resnet18", bits=bits, weights=counted.weights, ratio=counted.ratio)
        )
    return found
