"""Rounding of inputs, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
from example_program import layout
from hypothesis import given
from hypothesis import strategies as st

from popshift.firmware_py.tensors import dequantise, quantise, quantise_input, quantise_inputs
from popshift.hw.errors import InputError

IMAGE = layout("image", 0)


def test_ties_go_away_from_zero() -> None:
    values = [-2.5, -1.5, -0.5, -0.49999999999999994, 0.49999999999999994, 0.5, 1.5, 2.5]
    assert quantise(values, 1.0, 0).tolist() == [-3, -2, -1, 0, 0, 1, 2, 3]
    assert quantise(values, 1.0, 10).tolist() == [7, 8, 9, 10, 10, 11, 12, 13], (
        "rounded before the zero point"
    )
    assert quantise([0.25, 0.75], 0.5, 0).tolist() == [1, 2]


def test_clamps_at_both_ends() -> None:
    assert quantise([1e30, -1e30, 127.4, 127.5, -128.5], 1.0, 0).tolist() == [127, -128, 127, 127, -128]
    assert quantise([0.0], 0.1, -128).tolist() == [-128]


@given(
    st.floats(-1e4, 1e4),
    st.sampled_from([0.5, 0.125, 2.0, 1.0]),
    st.integers(-128, 127),
)
def test_agrees_with_exact_fractions(value: float, scale: float, zero_point: int) -> None:
    exact = Fraction(value) / Fraction(scale)
    magnitude = int(abs(exact) + Fraction(1, 2))
    expected = min(max((magnitude if exact >= 0 else -magnitude) + zero_point, -128), 127)
    assert int(quantise(value, scale, zero_point)) == expected


def test_dequantise_is_the_inverse_on_every_integer() -> None:
    integers = np.arange(-128, 128, dtype=np.int8)
    for scale, zero_point in [(0.0078125, -128), (0.1, 3), (1 / 3, 127)]:
        real = dequantise(integers, scale, zero_point)
        np.testing.assert_array_equal(quantise(real, scale, zero_point), integers, strict=True)
    assert dequantise(integers, 0.5, -3)[128] == 1.5


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_inputs_are_quantised(dtype: type) -> None:
    values = np.linspace(-5, 5, 120).reshape(2, 3, 5, 4).astype(dtype)
    result = quantise_input(IMAGE, values)
    np.testing.assert_array_equal(result, quantise(values, 0.5, -3), strict=True)


def test_int8_inputs_are_taken_as_they_are_and_vectors_get_their_shape() -> None:
    values = np.arange(-60, 60, dtype=np.int8).reshape(2, 3, 5, 4)
    np.testing.assert_array_equal(quantise_input(IMAGE, values), values, strict=True)
    vector = layout("v", 0, (7, 1, 1))
    flat = np.arange(21, dtype=np.int8).reshape(3, 7)
    np.testing.assert_array_equal(quantise_input(vector, flat), flat.reshape(3, 7, 1, 1), strict=True)
    np.testing.assert_array_equal(quantise_input(vector, flat.reshape(3, 7, 1, 1)), flat.reshape(3, 7, 1, 1))
    sequence = layout("s", 0, (3, 1, 20))
    lines = values.reshape(2, 3, 20)
    np.testing.assert_array_equal(quantise_input(sequence, lines), lines[:, :, None], strict=True)
    with pytest.raises(
        InputError, match=r"\(n, 3, 1, 20\) or \(n, 3, 20\), not \(3, 20\); put the batch first"
    ):
        quantise_input(sequence, lines[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.zeros((3, 5, 4)),
            r"input image: the shape must be \(n, 3, 5, 4\), not \(3, 5, 4\); put the batch first",
        ),
        (
            np.zeros((2, 3, 4, 5)),
            r"the shape must be \(n, 3, 5, 4\), not \(2, 3, 4, 5\); give what the network was compiled for",
        ),
        (np.float64(1), r"the shape must be .* not \(\)"),
        (np.zeros((0, 3, 5, 4)), "the batch is empty"),
        (
            np.zeros((1, 3, 5, 4), np.uint8),
            r"the dtype must be float .* or int8 .*, not uint8; .* / 0.5\) \+ -3",
        ),
        (np.zeros((1, 3, 5, 4), complex), "not complex128"),
        (np.zeros((1, 3, 5, 4), object), "not object"),
    ],
)
def test_other_inputs_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantise_input(IMAGE, values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(bad: float) -> None:
    values = np.zeros((2, 3, 5, 4), np.float32)
    values[1, 2, 0, 3] = bad
    with pytest.raises(InputError, match=rf"the value at index \(1, 2, 0, 3\) is {bad}; remove NaN"):
        quantise_input(IMAGE, values)


def test_several_inputs_go_by_name() -> None:
    other = layout("other", 0, (2, 1, 1))
    image, vector = np.zeros((2, 3, 5, 4)), np.zeros((2, 2))
    assert set(quantise_inputs([IMAGE, other], {"image": image, "other": vector})) == {"image", "other"}
    assert set(quantise_inputs([IMAGE], image)) == {"image"}
    with pytest.raises(
        InputError, match="the network has 2 inputs; give a mapping of image, other to arrays"
    ):
        quantise_inputs([IMAGE, other], image)
    with pytest.raises(InputError, match="the inputs must be image, other, not image"):
        quantise_inputs([IMAGE, other], {"image": image})
    with pytest.raises(InputError, match=r"differ in batch size \(image: 2, other: 1\)"):
        quantise_inputs([IMAGE, other], {"image": image, "other": vector[:1]})
