"""Frames to bytes and back: COBS with a zero byte behind every frame."""

from cobs import cobs

from popshift.hw import packet

DELIMITER = bytes([packet.DELIMITER])
MAX_WIRE_BYTES = packet.MAX_FRAME + packet.MAX_FRAME // 254 + 2
"""Bytes of the longest frame on the wire: COBS adds one byte to every 254, then the delimiter."""


def encode(frame: packet.Frame) -> bytes:
    """The bytes that carry `frame`, delimiter included."""
    return cobs.encode(frame.body()) + DELIMITER


def wire_bytes(payload: int) -> int:
    """Most bytes that a frame with `payload` bytes of payload takes on the wire."""
    body = packet.HEADER.size + payload + packet.CRC_BYTES
    return body + body // 254 + 2


class FrameReader:
    """Finds the frames in a stream of bytes, however it is cut.

    Attributes
    ----------
    damaged: frames dropped so far because COBS, length or CRC was wrong. Empty frames (two delimiters in a
        row) are not counted: senders use them to end what may have come before.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._rest = b""

    def feed(self, data: bytes) -> list[packet.Frame]:
        """The good frames that `data` completes."""
        *whole, self._rest = (self._rest + data).split(DELIMITER)
        # No frame is longer: noise, which must not fill the memory.
        self._rest = self._rest[: MAX_WIRE_BYTES + 1]
        frames = []
        for encoded in filter(None, whole):
            frame = _decode(encoded)
            if frame is None:
                self.damaged += 1
            else:
                frames.append(frame)
        return frames


def _decode(encoded: bytes) -> packet.Frame | None:
    try:
        return packet.Frame.parse(cobs.decode(encoded))
    except cobs.DecodeError:
        return None
