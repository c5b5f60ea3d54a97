"""Operators the accelerator does not run: why, and what would help, for those a user is likely to meet."""

_ACTIVATION = (
    "this activation is not supported: it is not piecewise linear between two limits",
    "use ReLU, ReLU6 or Hardtanh instead",
)
_LOSSY = ("this activation is not supported by this version", "use ReLU, ReLU6 or Hardtanh instead")
_ARITHMETIC = (
    "arithmetic on activations is not supported by this version",
    "put constants into the neighbouring layer's weights, or prepare the input on the host",
)
_MOVE = (
    "moving data between dimensions is not supported",
    "train the network in the order that its layers take",
)
_JOIN = ("joining tensors is not supported by this version", "use one branch")
_NORM = ("normalising with statistics of the sample is not supported", "use batch norm behind a convolution")
_RESIZE = (
    "resizing is not supported by this version",
    "resize the input on the host, or use pooling and strides",
)
_RECURRENT = ("recurrent layers are not supported", "use convolutions over time")
_PRODUCT = (
    "a product of two activations, or with a plain matrix, is not supported",
    "use nn.Linear with constant weights",
)
_DECOMPOSED = (
    "the program was decomposed after its export",
    "save it as torch.export.export returns it, without run_decompositions",
)

REFUSALS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("sigmoid", "tanh", "gelu", "silu", "hardswish", "mish", "softplus", "elu", "selu"), _ACTIVATION
    ),
    **dict.fromkeys(("leaky_relu", "prelu", "hardsigmoid", "rrelu"), _LOSSY),
    **dict.fromkeys(
        ("add", "sub", "mul", "div", "rsub", "neg", "pow", "exp", "sqrt", "abs", "sum"), _ARITHMETIC
    ),
    **dict.fromkeys(("permute", "transpose", "t", "movedim", "pixel_shuffle", "flip", "roll"), _MOVE),
    **dict.fromkeys(("cat", "concat", "stack"), _JOIN),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), _NORM),
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d", "interpolate"), _RESIZE),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _RECURRENT),
    **dict.fromkeys(("matmul", "mm", "bmm", "einsum"), _PRODUCT),
    "scaled_dot_product_attention": ("attention is not supported", "use a network of convolutions"),
    **dict.fromkeys(("convolution", "addmm", "max_pool2d_with_indices"), _DECOMPOSED),
    **dict.fromkeys(("_log_softmax", "_softmax"), _DECOMPOSED),
    **dict.fromkeys(
        ("conv_transpose2d", "conv_transpose1d"), ("transposed convolution is not supported", _RESIZE[1])
    ),
    "conv3d": ("three-dimensional convolution is not supported", "use Conv2d"),
    "select": ("taking a part of a tensor is not supported", "cut the input on the host, or use strides"),
    "argmax": ("it is left to the host", "end the network before it"),
}
UNKNOWN = ("this operator is not supported", "remove it, or replace it with supported layers")
