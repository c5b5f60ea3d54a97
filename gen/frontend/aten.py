"""Which handler takes which ATen operator.

A handler gets the importer and the call; it emits float operators and returns the value the call produces,
or raises `UnsupportedError`.
"""

from collections.abc import Callable
from typing import Any

from popshift.gen.frontend import aten_convolution, aten_elementwise, aten_pooling, aten_sums
from popshift.gen.frontend.operands import Call, Importer
from popshift.gen.graph import Pooling

Handler = Callable[[Importer, Call], Any]
SPELLINGS = {"_native_batch_norm_legit_no_training": "batch_norm"}
"""ATen names that stand for a handler's operator; the first is what functionalisation makes of batch norm."""
HANDLERS: dict[str, Handler] = {
    "conv2d": aten_convolution.convolution(3),
    "conv1d": aten_convolution.convolution(2),
    "linear": aten_convolution.linear,
    "batch_norm": aten_convolution.batch_norm,
    "max_pool2d": aten_pooling.max_pool(3),
    "max_pool1d": aten_pooling.max_pool(2),
    "avg_pool2d": aten_pooling.average_pool(3),
    "avg_pool1d": aten_pooling.average_pool(2),
    "adaptive_avg_pool2d": aten_pooling.adaptive_pool(3, Pooling.AVERAGE),
    "adaptive_avg_pool1d": aten_pooling.adaptive_pool(2, Pooling.AVERAGE),
    "adaptive_max_pool2d": aten_pooling.adaptive_pool(3, Pooling.MAX),
    "adaptive_max_pool1d": aten_pooling.adaptive_pool(2, Pooling.MAX),
    "mean": aten_pooling.mean,
    "add": aten_sums.add,
    "slice": aten_sums.slice_of,
    "ge": aten_elementwise.not_negative,
    "where": aten_elementwise.where,
    "pad": aten_elementwise.pad,
    "constant_pad_nd": aten_elementwise.pad,
    **dict.fromkeys(
        ("relu", "relu6", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max"), aten_elementwise.activation
    ),
    **dict.fromkeys(
        ("flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze"), aten_elementwise.reshape
    ),
    **dict.fromkeys(
        ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), aten_elementwise.unchanged
    ),
    **dict.fromkeys(
        ("contiguous", "clone", "detach", "alias", "to", "lift_fresh_copy"), aten_elementwise.unchanged
    ),
    **dict.fromkeys(("softmax", "log_softmax"), aten_elementwise.softmax),
}
