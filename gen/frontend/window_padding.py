"""Padding that depends on the size of the image."""

from dataclasses import replace

from popshift.gen.graph import Window

Padding = tuple[int, int, int, int]
"""Rows above and below, columns to the left and right."""
NO_PADDING: Padding = (0, 0, 0, 0)


def same_padding(window: Window, height: int, width: int) -> Padding:
    """(top, bottom, left, right) with which there is an output for every `stride` pixels; what is odd goes
    below and to the right: TensorFlow's SAME, ONNX's SAME_UPPER, PyTorch's "same".
    """
    pairs: list[int] = []
    for size, kernel, stride, dilation in zip(
        (height, width), window.kernel, window.stride, window.dilation, strict=True
    ):
        total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
        pairs += [total // 2, total - total // 2]
    return (pairs[0], pairs[1], pairs[2], pairs[3])


def ceiled(window: Window, height: int, width: int) -> Window:
    """A pooling's window with ``ceil_mode``, with as much padding below and to the right as its last
    position takes, which must begin inside.
    """
    top, bottom, left, right = window.padding
    after = []
    axes = zip((height, width), (top, left), (bottom, right), window.stride, strict=True)
    for axis, (length, before, own, stride) in enumerate(axes):
        extent = window.dilation[axis] * (window.kernel[axis] - 1) + 1
        last = -(-(length + before + own - extent) // stride)
        if last * stride >= length + before:
            last -= 1
        after.append(max(own, last * stride + extent - length - before))
    return replace(window, padding=(top, after[0], left, after[1]))
