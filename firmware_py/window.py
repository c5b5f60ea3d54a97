"""The host's window of outstanding requests: which may be sent, which must be repeated. It does no I/O.

The device executes requests in the order of their sequence numbers (`popshift.hw.packet`) and answers in that
order, so:

* an answer to a later request proves that every earlier one was executed: only its answer was lost, and
  repeating the request brings it back (`Window.accept` returns these);
* a RESEND that names an unanswered request proves that this request never arrived: it and all behind it,
  which the device refused, are sent again (go back N), once for each loss however many RESENDs it causes.
"""

from collections import deque
from dataclasses import dataclass

from popshift.firmware_py import framing
from popshift.hw import packet

SEQUENCES = 1 << packet.SEQUENCE_BITS
FRAMES = 32
"""Most requests outstanding; far fewer than the 128 numbers that the device takes for repetitions."""


@dataclass(slots=True)
class Outstanding:
    """A request that has been sent and not yet been taken off the window.

    ``index`` is the caller's number for it, ``answer_payload`` the bytes of payload that its answer must
    have. ``answer`` is the device's frame, as soon as it came.
    """

    index: int
    frame: packet.Frame
    encoded: bytes
    answer_payload: int
    answer: packet.Frame | None = None
    repeated: bool = False
    """Whether it has been repeated since the last time-out, so that no loss is repaired twice."""

    @property
    def answer_bytes(self) -> int:
        """Bytes of the answer on the wire."""
        return framing.wire_bytes(self.answer_payload)

    @property
    def long_answer(self) -> bool:
        """Whether answering takes longer than the request took: requests behind it pile up meanwhile."""
        return self.answer_bytes > len(self.encoded)


class Window:
    """Requests in the order of their sequence numbers; the first is the oldest that has no answer yet.

    Parameters
    ----------
    fifo_bytes: what the device can take in while it is busy answering.
    frames: most requests outstanding, 1 .. 64.
    """

    def __init__(self, *, fifo_bytes: int, frames: int = FRAMES) -> None:
        self._frames = frames
        self._fifo_bytes = fifo_bytes
        self._requests: deque[Outstanding] = deque()
        self.foreign_resends = 0
        """RESENDs that asked for a number which is not outstanding, since the last answer."""

    def __bool__(self) -> bool:
        return bool(self._requests)

    @property
    def oldest(self) -> Outstanding:
        return self._requests[0]

    @property
    def wire_bytes(self) -> int:
        """Bytes that the outstanding requests and their answers take on the wire."""
        return sum(len(request.encoded) + request.answer_bytes for request in self._requests)

    def has_room(self, encoded_bytes: int) -> bool:
        """Whether one more request of this size may be sent now without overrunning the device."""
        if len(self._requests) >= self._frames:
            return False
        waiting, behind_long_answer = 0, False
        for request in self._requests:
            if behind_long_answer:
                waiting += len(request.encoded)
            behind_long_answer |= request.long_answer
        return not behind_long_answer or waiting + encoded_bytes <= self._fifo_bytes

    def push(self, request: Outstanding) -> None:
        """Add the next request; it must carry the next sequence number."""
        self._requests.append(request)

    def accept(self, answer: packet.Frame) -> tuple[list[Outstanding], list[Outstanding], bool]:
        """Take a frame from the device.

        Returns
        -------
        finished: requests that leave the window, in order, each with its answer.
        repeat: requests that must be sent again now, in order.
        news: whether the frame answers a request that had no answer; False for stale frames and for RESENDs.
        """
        if answer.type == packet.RESEND | packet.ANSWER:
            return [], self._resend(answer.address), False
        place = (answer.sequence - self.oldest.frame.sequence) % SEQUENCES if self._requests else SEQUENCES
        if place >= len(self._requests) or not _answers(answer, self._requests[place]):
            return [], [], False
        self._requests[place].answer = answer
        self.foreign_resends = 0
        finished = []
        while self._requests and self._requests[0].answer:
            finished.append(self._requests.popleft())
        skipped = [] if finished else [self._requests[earlier] for earlier in range(place)]
        return finished, self._once(skipped), True

    def unanswered(self) -> list[Outstanding]:
        """After a time-out: everything to send again."""
        waiting = [request for request in self._requests if not request.answer]
        for request in waiting:
            request.repeated = False
        return waiting

    def _resend(self, expected: int) -> list[Outstanding]:
        place = (expected - self.oldest.frame.sequence) % SEQUENCES if self._requests else SEQUENCES
        if place >= len(self._requests):
            self.foreign_resends += 1
            return []
        behind = [self._requests[later] for later in range(place, len(self._requests))]
        if any(request.answer for request in behind) or behind[0].repeated:
            return []  # stale: the device has got further since, or the repetition is already under way
        behind[0].repeated = True
        return behind

    def _once(self, requests: list[Outstanding]) -> list[Outstanding]:
        chosen = [request for request in requests if not (request.answer or request.repeated)]
        for request in chosen:
            request.repeated = True
        return chosen


def _answers(answer: packet.Frame, request: Outstanding) -> bool:
    if request.answer or answer.address != request.frame.address:
        return False
    if answer.type == packet.REFUSED | packet.ANSWER:
        return True
    return answer.type == request.frame.type | packet.ANSWER and len(answer.payload) == request.answer_payload
