"""Signs of int8 tensors: the channel unit reads bytes, the post unit packs the signs of eight channels."""

from collections.abc import Sequence

from popshift.gen.graph import Pool
from popshift.gen.mapping.in_turn import windows_in_turn
from popshift.gen.mapping.parameters import never, pack_parameters, pool_parameters
from popshift.gen.mapping.placement import Placed
from popshift.gen.mapping.sections import (
    CHANNEL_TILE_WORDS,
    Section,
    bank_groups,
    channel_rectangle,
    copy_mask,
    fill_padding,
    no_words,
    part_name,
    post_rectangle,
    tile_ranges,
    words_of,
)
from popshift.gen.mapping.tiling import Rectangle, countable, cut
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import ChannelOperation, Instruction, Opcode, Source, instruction
from popshift.hw.numerics import LANE_CHANNELS


def sign_sections(layer: Pool, source: Placed, target: Placed, config: AcceleratorConfig) -> list[Section]:
    """The layer's sections: one, unless the program memory forces more.

    The planes of the source that become bytes of the same banks, one in `turns`, are one instruction's.

    Raises
    ------
    ModelError: the parameters of its channels exceed the parameter memory.
    """
    turns = target.layout.period * LANE_CHANNELS // source.layout.period
    lanes = pool_parameters(layer, source.layout.zero_point, config)
    per_plane, planes = source.layout.period, source.layout.planes
    lanes += [never(config)] * (planes * per_plane - len(lanes))
    uniform = _fills_bytes(layer)
    chosen = lanes[:1] * config.post_lanes if uniform else []
    starts: list[int] = []  # parameter words of each instruction
    for first in range(0 if uniform else min(turns, planes)):
        starts.append(len(chosen) // config.post_lanes)
        for plane in range(first, planes, turns):
            chosen += lanes[plane * per_plane : (plane + 1) * per_plane]
    words = pack_parameters(config, chosen)
    if len(words) > config.parameter_depth:
        raise ModelError(
            f"the parameters of its channels take {len(words)} words, there are {config.parameter_depth}",
            where=f"layer {layer.name}",
            remedy=f"raise parameter_depth to at least {len(words)}",
        )
    _, height, width = target.layout.shape
    tiles = cut(countable(height), countable(width))
    fills = fill_padding(target, config)
    parts = tile_ranges(tiles, min(turns, planes) * CHANNEL_TILE_WORDS, words_of(fills), config.program_depth)
    return [
        Section(
            name=part_name(layer.name, index, len(parts)),
            kind="sign",
            output=layer.output,
            macs=0,
            instructions=_instructions(layer, source, target, config, piece, starts, [] if index else fills),
            weights=no_words(config.weight_word_bytes),
            parameters=words,
            mapping={
                "unit": "channel",
                "input_period": source.layout.period,
                "input_copies": source.layout.copies,
                "output_period": target.layout.period,
                "output_copies": target.layout.copies,
                "pixel_tiles": len(piece),
            },
        )
        for index, piece in enumerate(parts)
    ]


def _fills_bytes(layer: Pool) -> bool:
    """Whether every bit of its bytes is a channel's, so that all have the same parameters."""
    return len(layer.requantisation.multiplier) % LANE_CHANNELS == 0


def _instructions(
    layer: Pool,
    source: Placed,
    target: Placed,
    config: AcceleratorConfig,
    tiles: Sequence[Rectangle],
    starts: Sequence[int],
    fills: list[Instruction],
) -> list[Instruction]:
    layout, groups = source.layout, bank_groups(source, config)
    turns = target.layout.period * LANE_CHANNELS // layout.period
    pairs: list[tuple[Instruction, Instruction]] = []
    for tile in tiles:
        for first in range(min(turns, layout.planes)):
            number = -(-(layout.planes - first) // turns)
            channel = instruction(
                Opcode.CHANNEL,
                operation=ChannelOperation.MAX,
                planes=number,
                **channel_rectangle(source, layer.window, tile, config, first=first, every=turns),
            )
            group, bank = divmod(first * layout.period // LANE_CHANNELS, config.post_lanes)
            post = instruction(
                Opcode.POST,
                source=Source.CHANNEL,
                period=groups,
                packed=1,
                uniform=int(not starts),
                zero_point=0,
                low=-128,
                high=127,
                chunks=number,
                parameter_base=starts[first] if starts else 0,
                mask=copy_mask(target, config) << group,
                first_bank=bank,
                **post_rectangle(target, tile),
            )
            pairs.append((channel, post))
    return windows_in_turn(pairs, fills)
