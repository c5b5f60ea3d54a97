"""How long SmartDeal takes for a whole network, and what it makes of it."""

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from popshift.gen.bench.networks import resnet18, weighted
from popshift.gen.bench.records import tools
from popshift.gen.compress.smartdeal import LayerReport, SmartDealConfig, decompose
from popshift.gen.compress.smartdeal.report import FLOAT_BITS


@dataclass(frozen=True, kw_only=True)
class KindRecord:
    """The layers of one kind.

    Attributes
    ----------
    kind: ``3x3`` and so on for convolutions, or ``fully connected``; ``all`` for the network.
    layers, weights: how many.
    error: Frobenius norm of the change of all their weights over that of the weights.
    compression: 32-bit floats over the storage, indices and bases included.
    """

    kind: str
    layers: int
    weights: int
    error: float
    compression: float


@dataclass(frozen=True, kw_only=True)
class DecompositionRecord:
    """One decomposition of a network.

    Attributes
    ----------
    decomposition: the network's name.
    seed: of its weights.
    options: attributes of `SmartDealConfig`.
    seconds: of wall time, without making the network.
    threads: that torch may use.
    kinds: the layers by kind, in the order of the network, and all together.
    """

    decomposition: str
    seed: int
    options: dict[str, Any]
    seconds: float
    threads: int
    kinds: list[KindRecord]
    tools: dict[str, str] = field(default_factory=lambda: tools())


def decompose_resnet18(seed: int, config: SmartDealConfig | None = None) -> DecompositionRecord:
    """Decompose ResNet-18 with random weights, by default with the default options; shows a bar."""
    config = config or SmartDealConfig()
    network = resnet18(seed)
    started = time.monotonic()
    _, reports = decompose(network, config, progress=True)
    seconds = time.monotonic() - started
    return DecompositionRecord(
        decomposition="resnet18",
        seed=seed,
        options=dataclasses.asdict(config),
        seconds=round(seconds, 2),
        threads=torch.get_num_threads(),
        kinds=kind_records(network, reports),
    )


def kind_records(network: nn.Module, reports: Sequence[LayerReport]) -> list[KindRecord]:
    """What `popshift.gen.compress.smartdeal.decompose` says of a network's layers, by kind and of all."""
    layers = dict(weighted(network))
    kinds: dict[str, list[LayerReport]] = {}
    for report in reports:
        kinds.setdefault(_kind(layers[report.name]), []).append(report)
    return [_of_kind(kind, here, layers) for kind, here in {**kinds, "all": reports}.items()]


def _kind(layer: nn.Conv2d | nn.Linear) -> str:
    return "x".join(map(str, layer.kernel_size)) if isinstance(layer, nn.Conv2d) else "fully connected"


def _of_kind(
    kind: str, reports: Sequence[LayerReport], layers: dict[str, nn.Conv2d | nn.Linear]
) -> KindRecord:
    norms = [float(layers[report.name].weight.detach().norm()) for report in reports]
    change = math.hypot(*(report.error * norm for report, norm in zip(reports, norms, strict=True)))
    weights = sum(report.weights for report in reports)
    return KindRecord(
        kind=kind,
        layers=len(reports),
        weights=weights,
        error=change / math.hypot(*norms),
        compression=FLOAT_BITS * weights / sum(report.bits for report in reports),
    )
