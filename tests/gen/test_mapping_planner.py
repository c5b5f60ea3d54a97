"""The memory planner: no overlap, reuse, and a refusal that names the peak."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popshift.gen.mapping.planner import DoesNotFitError, Lifetime, peak_step, plan


def test_buffers_are_reused_when_their_time_is_over():
    chain = [Lifetime(f"t{step}", 100, step, step + 1) for step in range(10)]
    offsets = plan(chain, 200)
    assert set(offsets.values()) == {0, 100}


def test_a_gap_is_filled():
    buffers = [
        Lifetime("long", 50, 0, 9),
        Lifetime("early", 100, 0, 1),
        Lifetime("top", 60, 1, 9),
        Lifetime("late", 90, 2, 9),
    ]
    offsets = plan(buffers, 210)
    assert offsets["late"] == offsets["early"]


def test_exactly_full_fits_and_one_word_less_does_not():
    buffers = [Lifetime("a", 60, 0, 1), Lifetime("b", 40, 1, 2), Lifetime("c", 30, 2, 3)]
    assert plan(buffers, 100)
    with pytest.raises(DoesNotFitError) as caught:
        plan(buffers, 99)
    assert (caught.value.step, caught.value.needed) == (1, 100)
    assert [buffer.name for buffer in caught.value.peak] == ["a", "b"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 12), st.integers(0, 6)), min_size=1, max_size=14)
)
def test_buffers_alive_together_never_overlap(entries):
    buffers = [
        Lifetime(f"t{index}", words, first, first + length)
        for index, (words, first, length) in enumerate(entries)
    ]
    offsets = plan(buffers, sum(buffer.words for buffer in buffers))
    for index, one in enumerate(buffers):
        for other in buffers[:index]:
            if one.first <= other.last and other.first <= one.last:
                a, b = offsets[one.name], offsets[other.name]
                assert a + one.words <= b or b + other.words <= a, (one, other)
    _, peak = peak_step(buffers)
    used = max(offsets[buffer.name] + buffer.words for buffer in buffers)
    assert used >= sum(buffer.words for buffer in peak)
