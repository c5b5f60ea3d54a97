"""A picture of the array's rows: which tap each holds."""

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

MOST_TILES = 12
MOST_ROWS = 64
_CELL_WIDTH, _CELL_HEIGHT, _MARGIN_LEFT, _MARGIN_TOP = 62, 19, 52, 22


def tap_grid(taps: NDArray[np.int64], kernel: tuple[int, int]) -> Markup:
    """Rows of the array from top to bottom, K tiles from left to right.

    Parameters
    ----------
    taps: from `popshift.gen.mapping.tiling.assign_taps`, (K tiles, rows).
    kernel: (rows, columns) of the convolution's kernel; each of its places has a colour.
    """
    shown = taps[:MOST_TILES, :MOST_ROWS]
    width = _MARGIN_LEFT + len(shown) * _CELL_WIDTH + (70 if len(taps) > MOST_TILES else 0)
    height = _MARGIN_TOP + shown.shape[1] * _CELL_HEIGHT + 2
    parts = [_text(_MARGIN_LEFT + i * _CELL_WIDTH + 2, 14, f"K tile {i}", "soft") for i in range(len(shown))]
    for row in range(shown.shape[1]):
        y = _MARGIN_TOP + row * _CELL_HEIGHT
        parts.append(_text(0, y + 13, f"row {row}", "soft"))
        parts += [
            _cell(_MARGIN_LEFT + i * _CELL_WIDTH, y, int(tile[row]), kernel) for i, tile in enumerate(shown)
        ]
    if len(taps) > MOST_TILES:
        x = _MARGIN_LEFT + len(shown) * _CELL_WIDTH + 6
        parts.append(_text(x, _MARGIN_TOP + 13, f"… {len(taps) - MOST_TILES} more", "soft"))
    return Markup(
        '<svg width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" font-size="11">{2}</svg>'
    ).format(width, height, Markup("").join(parts))


def _cell(x: int, y: int, tap: int, kernel: tuple[int, int]) -> Markup:
    box = Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="2" {}/>')
    size = x, y, _CELL_WIDTH - 3, _CELL_HEIGHT - 3
    if tap < 0:
        return box.format(*size, Markup('class="line"'))
    channel, place = divmod(tap, kernel[0] * kernel[1])
    hue = round(360 * place / (kernel[0] * kernel[1]))
    paint = Markup('style="fill:hsl({} 65% 50% / .38)"').format(hue)
    ky, kx = divmod(place, kernel[1])
    return box.format(*size, paint) + _text(x + 5, y + 12, f"c{channel}  {ky},{kx}")


def _text(x: int, y: int, text: str, kind: str = "") -> Markup:
    return Markup('<text x="{}" y="{}" class="{}" xml:space="preserve">{}</text>').format(x, y, kind, text)
