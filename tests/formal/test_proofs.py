"""Proofs of the stream and FIFO blocks, of the framing, and of the command unit's address checks."""

import contextlib

import pytest
from tests.formal.proofs import CommandProof, FifoStreams, QueueProof, ReceiverProof
from tests.formal.prove import prove

from popshift.hw.config import load_config
from popshift.hw.link.stage import Stage

SMALL = load_config("tiny").replace(
    activation_depth=100, weight_depth=70, parameter_depth=37, program_depth=70
)


def test_a_stage_is_a_queue_of_one_for_ever():
    proof = QueueProof(Stage(8), 1)
    prove(proof, proof.inputs, cycles=10, for_ever=True)


@pytest.mark.parametrize("capacity", [4, 3])
def test_the_fifo_is_a_queue(capacity):
    """And one of four places is not one of three."""
    proof = QueueProof(FifoStreams(4), capacity)
    refuted = pytest.raises(AssertionError, match="not proved") if capacity < 4 else contextlib.nullcontext()
    with refuted:
        prove(proof, proof.inputs, cycles=20)


def test_the_receiver_holds_frames_and_always_listens_again():
    proof = ReceiverProof()
    prove(proof, proof.inputs, cycles=40)


@pytest.mark.parametrize("wrong", ["", "weight_depth", "activation_depth"])
def test_nothing_is_written_but_what_a_frame_addresses(wrong):
    """And a claim about smaller memories than there are is found to be false."""
    claimed = SMALL.replace(**{wrong: getattr(SMALL, wrong) - 1}) if wrong else SMALL
    proof = CommandProof(SMALL, claimed)
    refuted = pytest.raises(AssertionError, match="not proved") if wrong else contextlib.nullcontext()
    with proof.in_place(), refuted:
        prove(proof, proof.inputs, cycles=CommandProof.LONGEST + 2, any_start="*opened")
