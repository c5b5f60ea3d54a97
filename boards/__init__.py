"""Boards: one small file each, one line here."""

from popshift.boards.board import Board
from popshift.boards.colorlight import COLORLIGHT_I5, COLORLIGHT_I9
from popshift.boards.icebreaker import ICEBREAKER
from popshift.boards.orangecrab import ORANGECRAB_25F
from popshift.boards.tang_nano import TANG_NANO_9K, TANG_NANO_20K
from popshift.boards.ulx3s import ULX3S_12F, ULX3S_85F
from popshift.hw.errors import InputError, did_you_mean

BOARDS = {
    board.name: board
    for board in (
        ULX3S_12F,
        ULX3S_85F,
        ICEBREAKER,
        ORANGECRAB_25F,
        COLORLIGHT_I5,
        COLORLIGHT_I9,
        TANG_NANO_9K,
        TANG_NANO_20K,
    )
}


def board(name: str) -> Board:
    """A board by name.

    Raises
    ------
    InputError: no such board; the known ones are named.
    """
    if name not in BOARDS:
        hint = did_you_mean(name, BOARDS)
        raise InputError(f"unknown board {name!r}", remedy=f"{hint}choose from {', '.join(BOARDS)}")
    return BOARDS[name]


__all__ = ["BOARDS", "Board", "board"]
