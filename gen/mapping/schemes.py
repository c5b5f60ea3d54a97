"""Ways to execute a convolution on the matrix unit, and the choice among them.

* ``dense``: int8 weights in ``mul`` PEs.
* ``dense, n pixels``: the same for few channels: other columns have the same filters for the pixels beside.
* ``rebuild``: SmartDeal weights, rebuilt by the weight feeder, in ``mul`` PEs. A row of coefficients serves
  three passes, one for each of its weights.
* ``rebuild by tap``: the same with a row of coefficients for every weight, where the array has more rows than
  there are channels: more words, fewer passes.
* ``factored``: their coefficients in ``shift`` PEs, the post unit combines the sums with the basis. A row of
  inputs is streamed once for all three columns of the basis; or, if the weights of a row of Ce belong to
  different channels, three inputs for every pixel.
* ``xnor``: weights of 1 and -1 in ``xnor`` PEs, eight channels of a binary input at once.
* ``windows``, ``windows down``: a depthwise layer, every column of the array a channel, every row a tap;
  pixels are streamed once, by rows of the image or by columns (`popshift.gen.mapping.windows`).
* ``digits``: any weights in ``shift`` PEs, as `popshift.gen.mapping.digits` writes them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from popshift.firmware_py.layout import TensorLayout
from popshift.gen.graph import Convolution, Tensor
from popshift.gen.mapping import weight_tiles
from popshift.gen.mapping.cost import ConvolutionCost
from popshift.gen.mapping.tiling import ABOUT_AS_LONG, Rectangle, pixel_tiles, scaled
from popshift.gen.mapping.weight_tiles import ColumnTile, Walk
from popshift.gen.mapping.windows import WindowWalk, depthwise
from popshift.hw import isa
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import Kind, Source
from popshift.hw.numerics import BASIS_SIZE
from popshift.hw.post.sums import SUM_PERIOD

_SPARE_REBUILT, _SPARE_FACTORED, _SPARE_BINARY = 0.02, 0.1, 0.03
"""Less traffic from the weight memory is what small weights are for. Factored sums take three times as long
to drain, so that short pixel tiles would save more time, and read the weights many times; binary layers have
few passes, beside which the last drain weighs more.
"""
_MAX_STRIDE = isa.PLACEMENTS[isa.Opcode.POST]["stride"].field.high


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """A way to execute one layer.

    Attributes
    ----------
    name: see the module's text.
    channels: output channels of a column tile.
    inputs: accumulators that a row of `width` outputs takes: ``inputs[0] * width + inputs[1]``.
    tiles: makes the column tiles of output channels ``start .. stop - 1``.
    step: distance of the inputs of a pixel, if every pixel has its own, else None.
    walk: how pixels are streamed to columns that keep windows.
    pixels: neighbours in a row of the output whose filters are side by side, `channels` columns each.
    spare: cycles that may be spent for reading the weights less often, as a share of what the layer would
        take without zero rows.
    """

    name: str
    channels: int
    tiles: Callable[[int, int], list[ColumnTile]]
    inputs: tuple[int, int] = (1, 0)
    step: int | None = None
    walk: WindowWalk | None = None
    pixels: int = 1
    spare: float = ABOUT_AS_LONG - 1

    @property
    def source(self) -> Source:
        return Source.BASIS if self.name in ("factored", "digits") else Source.MATRIX

    def matrix_fields(self, layer: Convolution, tile: Rectangle, pitch: int) -> dict[str, int]:
        """The pixel loops of a MATRIX for the outputs of `tile`."""
        if self.walk is not None:
            return self.walk.matrix_fields(tile, pitch)
        down, across = layer.window.stride
        if self.step is not None:
            return {
                "x_count": BASIS_SIZE,
                "x_step": self.step,
                "y_count": tile.width,
                "y_step": across - (BASIS_SIZE - 1) * self.step,
            }
        count = self.inputs[0] * tile.width // self.pixels + self.inputs[1]
        step = 1 if self.name == "factored" else across * self.pixels
        return {
            "x_count": count,
            "x_step": step,
            "y_count": tile.height,
            "y_step": down * pitch - (count - 1) * step,
        }

    def post_fields(self, layer: Convolution, tile: Rectangle, pitch: int) -> dict[str, int]:
        """Where a POST takes its values, and how many for an output; `pitch` words from row to row."""
        if self.source is Source.MATRIX:
            walked = {} if self.walk is None else self.walk.post_fields(tile, pitch)
            return {"source": Source.MATRIX, **walked, **self._beside(tile, pitch)}
        fields = {"source": Source.BASIS, "single": int(self.name == "digits")}
        if self.step is not None:
            return {**fields, "x_count": 1, "y_count": tile.width, "y_step": 1}
        return {**fields, "stride": layer.window.stride[1] if self.name == "factored" else 1}

    def groups(self, config: AcceleratorConfig) -> dict[str, int]:
        """Of a POST: each pixel's channels are written like a plane, one word behind the other's."""
        if self.pixels == 1:
            return {}
        of_pixel = self.channels // config.post_lanes
        return {"period": of_pixel, "chunks": self.pixels * of_pixel}

    def _beside(self, tile: Rectangle, pitch: int) -> dict[str, int]:
        if self.pixels == 1:
            return {}
        count = tile.width // self.pixels
        moved = (count - 1) * self.pixels
        return {"x_count": count, "x_step": self.pixels, "y_step": pitch - moved, "plane_step": 1}


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A scheme with the pixel tiles that suit it, and roughly what it costs."""

    scheme: Scheme
    pixels: Sequence[Rectangle]
    cost: ConvolutionCost


def candidates(
    layer: Convolution, source: TensorLayout, target: Tensor, config: AcceleratorConfig
) -> list[Candidate]:
    """All schemes that are possible for the output `target`, the preferred first.

    Raises
    ------
    ModelError: the configuration has none for these weights.
    """
    found: list[Candidate] = []
    _, height, width = target.shape
    for scheme in _schemes(layer, source, width, config):
        if target.bits and not (scheme.pixels == 1 and config.has_packing and scheme.source is Source.MATRIX):
            continue
        if layer.sum is not None and scheme.source is not Source.MATRIX:
            continue
        columns = scheme.tiles(0, len(layer.weight))
        longest = max(tile.fields["k_tiles"] for tile in columns)
        drain = 1 if layer.sum is None else SUM_PERIOD
        if scheme.walk is not None:
            tiles, cost = scheme.walk.pixel_tiles(height, width, len(layer.weight), drain)
            found.append(Candidate(scheme, tiles, cost))
            continue
        needed = max(tile.needed for tile in columns) / config.rows
        spare = scheme.spare * max(1.0, needed / longest)
        tiles, cost = pixel_tiles(
            height if scheme.step is None else -height,
            width // scheme.pixels,
            longest,
            scheme.pixels * scheme.channels if scheme.pixels > 1 else len(layer.weight),
            config,
            scheme.pixels * scheme.channels,
            scheme.inputs,
            1 + spare,
            drain,
            # Tiles at the edges of binary images have parameters of their own.
            in_strips=not (source.bits and any(layer.window.padding)),
        )
        tiles = [scaled(tile, scheme.pixels) for tile in tiles]
        found.append(Candidate(scheme, tiles, cost))
    if not found:
        raise _impossible(layer, source, target, config)
    return found


def _impossible(
    layer: Convolution, source: TensorLayout, target: Tensor, config: AcceleratorConfig
) -> ModelError:
    what, remedy = "int8 weights", 'use a configuration with "mul" or "shift" among its pe_kinds'
    if (source.bits or target.bits) and not config.has_packing:
        what, remedy = "binary activations", 'use a configuration with "xnor" among its pe_kinds'
    elif layer.sum is not None:
        what, remedy = "sums of tensors", 'use a configuration with "mul" among its pe_kinds'
    elif layer.factors is not None:
        what = "SmartDeal weights"
        remedy = 'use a configuration with rebuild = true, or with "shift" among its pe_kinds'
    return ModelError(
        f"configuration {config.name} cannot work with {what}", where=f"layer {layer.name}", remedy=remedy
    )


def obstacles(layer: Convolution, source: TensorLayout, config: AcceleratorConfig) -> dict[str, str]:
    """Why a layer with SmartDeal weights cannot be rebuilt or factored, by name of the scheme."""
    found: dict[str, str] = {}
    if layer.factors is None:
        return found
    if not config.rebuild:
        found["rebuild"] = "the configuration has rebuild = false"
    walk, slices = Walk.of(layer, layer.factors, source), len(layer.factors.taps)
    if not config.has_basis:
        found["factored"] = "the configuration has no shift PEs"
    elif slices > 1:
        found["factored"] = f"its coefficients are in {slices} slices, each with a basis of its own"
    elif walk.replays == 1:
        found["factored"] = "the three weights of a row of coefficients meet activations of different banks"
    elif not walk.whole:
        found["factored"] = "some rows of coefficients have fewer than three weights"
    return found


def _schemes(layer: Convolution, source: TensorLayout, width: int, config: AcceleratorConfig) -> list[Scheme]:
    """All that are possible for an output `width` pixels wide, the preferred first."""
    if source.bits:
        if not config.has_packing:
            return []
        tiles = weight_tiles.binary(layer, source, config)
        return [Scheme("xnor", config.cols, tiles, spare=_SPARE_BINARY)]
    kinds, factors, found = isa.kinds(config), layer.factors, list[Scheme]()
    if depthwise(layer, source, config):
        # A sum reads the other tensor in the same steps from pixel to pixel, so by rows.
        for down in (False,) if layer.sum is not None else (False, True):
            walk = WindowWalk(layer.window, down, config)
            if walk.possible:
                tiles = weight_tiles.windows(layer, source, config, walk)
                found.append(Scheme("windows down" if down else "windows", config.cols, tiles, walk=walk))
    if factors is None and Kind.DENSE in kinds:
        tiles = weight_tiles.dense(layer, source, config)
        found.append(Scheme("dense", config.cols, tiles))
        found += _side_by_side(layer, source, width, config)
    walk = None if factors is None else Walk.of(layer, factors, source)
    if factors is not None and walk is not None and Kind.REBUILD in kinds:
        tiles = weight_tiles.rebuilt(factors, walk, source, config)
        found.append(Scheme("rebuild", config.cols, tiles, spare=_SPARE_REBUILT))
        if walk.replays > 1 and source.copies > 1:
            by_tap = Walk.by_tap(layer, factors, source)
            tiles = weight_tiles.rebuilt(factors, by_tap, source, config)
            found.append(Scheme("rebuild by tap", config.cols, tiles, spare=_SPARE_REBUILT))
    if Kind.SHIFT not in kinds:
        return found
    channels = isa.basis_groups(config) * config.post_lanes
    stride = layer.window.stride[1]
    if factors is not None and walk is not None and walk.whole and len(factors.taps) == 1:
        tiles = weight_tiles.factored(factors, walk, source, config, channels)
        if walk.step == 1 and layer.window.kernel[1] >= BASIS_SIZE and stride <= _MAX_STRIDE:
            found.append(
                Scheme(
                    "factored", channels, tiles, inputs=(stride, BASIS_SIZE - stride), spare=_SPARE_FACTORED
                )
            )
        else:
            found.append(
                Scheme(
                    "factored", channels, tiles, inputs=(BASIS_SIZE, 0), step=walk.step, spare=_SPARE_FACTORED
                )
            )
    if factors is not None or Kind.DENSE not in kinds:
        digits = weight_tiles.as_digits(_without_groups(layer), source, config, channels)
        found.append(Scheme("digits", channels, digits))
    return found


def _side_by_side(
    layer: Convolution, source: TensorLayout, width: int, config: AcceleratorConfig
) -> list[Scheme]:
    """As many pixels as there is room for, or fewer: a row must be whole."""
    lanes = config.post_lanes
    channels = -(-len(layer.weight) // lanes) * lanes
    most = min(config.cols // channels, (config.parameter_depth - isa.ADDEND_WORDS) // (channels // lanes))
    if layer.groups > 1 or layer.window.dilation[1] > 1:
        return []
    return [
        Scheme(
            f"dense, {pixels} pixels",
            channels,
            weight_tiles.side_by_side(layer, source, config, pixels, channels),
            pixels=pixels,
        )
        for pixels in range(2, most + 1)
        if width % pixels == 0
    ]


def _without_groups(layer: Convolution) -> Convolution:
    """The same with zeros between the groups."""
    if layer.groups == 1:
        return layer
    group = np.arange(len(layer.weight)) // (len(layer.weight) // layer.groups)
    weight = weight_tiles.spread(layer.weight, group, layer.groups)
    return dataclasses.replace(layer, weight=weight, groups=1)
