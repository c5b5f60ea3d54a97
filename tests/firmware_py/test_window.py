"""The window of outstanding requests, frame by frame."""

from popshift.firmware_py import framing
from popshift.firmware_py.window import FRAMES, Outstanding, Window
from popshift.hw import packet
from popshift.hw.packet import Frame, Type

FIRST = 250  # the numbers wrap within the window


def window(count: int, *, fifo_bytes: int = 256, answer_payload: int = 0) -> tuple[Window, list[Outstanding]]:
    result, requests = Window(fifo_bytes=fifo_bytes), []
    for index in range(count):
        frame = Frame((FIRST + index) % 256, Type.WRITE, index, bytes(20))
        requests.append(Outstanding(index, frame, framing.encode(frame), answer_payload))
        result.push(requests[-1])
    return result, requests


def answer(request: Outstanding) -> Frame:
    frame = request.frame
    return Frame(frame.sequence, frame.type | packet.ANSWER, frame.address, bytes(request.answer_payload))


def resend(sequence: int, expected: int) -> Frame:
    return Frame(sequence, packet.RESEND | packet.ANSWER, expected)


def test_answers_in_order_empty_the_window() -> None:
    outstanding, requests = window(10)
    for request in requests:
        assert outstanding and outstanding.oldest is request
        assert outstanding.accept(answer(request)) == ([request], [], True)
    assert not outstanding


def test_an_early_answer_asks_for_the_missing_ones_once() -> None:
    outstanding, requests = window(10)
    assert outstanding.accept(answer(requests[3])) == ([], requests[:3], True)
    assert outstanding.accept(answer(requests[4])) == ([], [], True)
    assert outstanding.accept(answer(requests[4])) == ([], [], False)
    assert outstanding.accept(answer(requests[0])) == ([requests[0]], [], True)
    assert outstanding.unanswered() == [*requests[1:3], *requests[5:]]
    assert outstanding.accept(answer(requests[5])) == ([], requests[1:3], True), "again after a time-out"
    assert outstanding.accept(answer(requests[2])) == ([], [], True)
    assert outstanding.accept(answer(requests[1])) == (requests[1:6], [], True)


def test_a_resend_goes_back_once() -> None:
    outstanding, requests = window(10)
    wanted = requests[2].frame.sequence
    assert outstanding.accept(resend(requests[3].frame.sequence, wanted)) == ([], requests[2:], False)
    assert outstanding.accept(resend(requests[4].frame.sequence, wanted)) == ([], [], False)
    outstanding.unanswered()
    assert outstanding.accept(resend(requests[4].frame.sequence, wanted)) == ([], requests[2:], False)


def test_a_stale_resend_is_ignored() -> None:
    outstanding, requests = window(10)
    outstanding.accept(answer(requests[6]))
    assert outstanding.accept(resend(0, requests[5].frame.sequence)) == ([], [], False)
    assert outstanding.accept(resend(0, requests[6].frame.sequence)) == ([], [], False)
    assert outstanding.accept(resend(0, requests[7].frame.sequence)) == ([], requests[7:], False)


def test_resends_for_numbers_that_are_not_outstanding_are_counted_until_the_next_answer() -> None:
    outstanding, requests = window(3)
    assert outstanding.accept(resend(FIRST, 100)) == ([], [], False)
    assert outstanding.accept(resend(FIRST, FIRST - 1)) == ([], [], False)
    assert outstanding.foreign_resends == 2
    outstanding.accept(answer(requests[0]))
    assert outstanding.foreign_resends == 0


def test_room() -> None:
    assert window(FRAMES - 1)[0].has_room(1000)
    assert not window(FRAMES)[0].has_room(1), "too many frames"
    assert window(0, fifo_bytes=16)[0].has_room(1040), "one request always goes"
    # One encoded request has 32 bytes, its answer more: from the second on they wait in the device's FIFO.
    assert len(window(1)[1][0].encoded) == 32
    for count, fits in ((8, True), (9, False)):
        outstanding, requests = window(count, answer_payload=100)
        assert requests[0].long_answer and outstanding.has_room(32) is fits
    for count in (8, 9, 20):
        assert window(count, answer_payload=20)[0].has_room(32), "answers as long as requests"
