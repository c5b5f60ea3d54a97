"""Layers between quantisers of the network's own: their thresholds are found, as those of binary layers."""

import numpy as np
import torch
from numpy.typing import NDArray

from popshift.gen.frontend.float_graph import BinaryWeight, Levels
from popshift.gen.graph import Requantisation, Tensor
from popshift.hw import numerics
from popshift.hw.numerics import Requantise

_MOST = 1 << 15
"""Largest sum of which every value is tried. Beyond it a step of the bias hardly moves a threshold."""


def corrected_bias(
    binary: BinaryWeight,
    source: Tensor,
    levels: tuple[Levels, Levels],
    weight: NDArray[np.integer],
    bias: NDArray[np.int64],
    requantisation: Requantisation,
    mode: Requantise,
) -> NDArray[np.int64]:
    """Biases with which the integer layer gives the module's own levels for every value a sum can take, where
    there is such a bias near the rounded one; else as they were, as in layers of very many values.

    Parameters
    ----------
    levels: of the layer's input and output.
    weight: a multiple of ``binary.signs``, one for each filter.
    """
    numbers = binary.signs.reshape(len(weight), -1).astype(np.int64)
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    own, result = levels
    most = np.abs(numbers).sum(axis=1) * own.reach
    if most.max() > _MOST:
        return bias
    sums = np.arange(-most.max(), most.max() + 1)
    wanted = _levels(binary, sums * np.float32(source.scale), result)
    corrected = bias.copy()
    for channel in range(len(weight)):
        if not most[channel]:
            continue
        place = np.flatnonzero(numbers[channel])[0]
        multiple = int(flat[channel, place] // numbers[channel, place])
        reached = np.abs(sums) <= most[channel]
        steps = np.arange(abs(multiple) + 1)
        for offset in np.stack([steps, -steps], axis=1).ravel()[1:]:
            found = numerics.requantise(
                sums[reached] * multiple + bias[channel] + offset,
                int(requantisation.multiplier[channel]),
                int(requantisation.shift[channel]),
                zero_point=result.zero_point,
                low=max(result.low, requantisation.low),
                high=min(result.high, requantisation.high),
                mode=mode,
            )
            if np.array_equal(found, wanted[channel, reached]):
                corrected[channel] = bias[channel] + offset
                break
    return corrected


def _levels(binary: BinaryWeight, sums: NDArray[np.floating], levels: Levels) -> NDArray[np.int64]:
    """int64 (channels, sums): the levels that the module gives, in its own float32."""
    scaled = torch.from_numpy(binary.scale)[:, None] * torch.from_numpy(sums.astype(np.float32))
    values = scaled[None, :, :, None]
    with torch.no_grad():
        for step in binary.steps:
            values = step(values)
    numbers = torch.round(values[0, :, :, 0] / float(np.float32(levels.scale))) + levels.zero_point
    return numbers.clamp(levels.low, levels.high).to(torch.int64).numpy()
