"""Reads deliveries out of the bytes that RabbitMQ sends, in front of pika, at a fraction of what pika takes.

A delivery is a method frame, a header frame and as many body frames as its body needs. pika makes an object of each,
decodes all of it and calls several callbacks; here it becomes a tuple. Every other frame is pika's, unchanged and in
order: heartbeats, answers, the broker's closing words, and whatever is not as it should be.
"""

import struct
from collections.abc import Callable
from typing import Any

import pika
from pika.exceptions import BodyTooLongError, UnexpectedFrameError

# delivery tag, whether it was delivered before, routing key, the encoded properties, body
Delivery = tuple[int, bool, bytes, bytes, bytes]

METHOD, HEADER, BODY, HEARTBEAT, END = 1, 2, 3, 8, 0xCE
DELIVER = b"\x00\x3c\x00\x3c"  # class basic, method deliver
RECEIVE_BYTES = 256 * 1024
_KINDS = (METHOD, HEADER, BODY, HEARTBEAT)
_FRAME = struct.Struct(">BHI").unpack_from  # kind, channel, size of what is inside
_SIZE = struct.Struct(">4xQ").unpack_from  # of the body; then the properties
_TAG = struct.Struct(">QBB").unpack_from  # delivery tag, redelivered, length of the exchange's name


class Reader:
    """Bytes in, however they were cut; deliveries of one channel and all other frames out.

    A body lies here until it is complete, in the pieces in which its frames came.
    """

    def __init__(self) -> None:
        self.taken = 0  # bytes that have been read as frames, whoever they are for
        self._rest = b""  # of a frame that has not come completely
        self._broken = False  # then everything is pika's, which says what is wrong
        self._channel = 0
        self._method = self._properties = b""  # of the delivery that is coming
        self._size = self._missing = 0  # of its body
        self._pieces: list[bytes] = []

    def read(self, data: bytes) -> list[Delivery | bytes]:
        """What is complete with these bytes, in order; a frame that is no delivery's is bytes."""
        found: list[Delivery | bytes] = []
        start = 0
        while self._rest and start < len(data):  # only what the frame lacks: all of `data` would be copied with it
            piece = data[start : start + self._lacking()]
            start += len(piece)
            torn, self._rest = self._rest + piece, b""
            self._frames(torn, 0, found)
        if not self._rest:
            self._frames(data, start, found)
        return found

    def _lacking(self) -> int:
        """Bytes, of the head of the frame that has come in part, or of the frame."""
        have = len(self._rest)
        return 7 - have if have < 7 else 8 + _FRAME(self._rest)[2] - have

    def _frames(self, data: bytes, start: int, found: list[Delivery | bytes]) -> None:
        """Finds what is complete in `data` from `start` on, and keeps what is left."""
        begin, end = start, len(data)
        while start + 7 <= end:
            kind, channel, size = _FRAME(data, start)
            inside, last = start + 7, start + 7 + size
            if self._broken or kind not in _KINDS or (last < end and data[last] != END):
                self._broken = True
                break
            if last >= end:
                break
            if kind == BODY and self._missing and channel == self._channel:
                self._missing -= size
                if self._missing < 0:
                    raise BodyTooLongError(self._size - self._missing, self._size)
                self._pieces.append(data[inside:last])
                if not self._missing:
                    found.append(self._complete())
            elif kind == HEADER and self._method and not self._missing and channel == self._channel:
                self._size = self._missing = _SIZE(data, inside)[0]
                self._properties = data[inside + 12 : last]
                if not self._missing:
                    found.append(self._complete())
            elif kind == METHOD and data.startswith(DELIVER, inside):
                if self._method:
                    raise UnexpectedFrameError("a delivery within another")
                self._channel, self._method = channel, data[inside:last]
            else:
                found.append(data[start : last + 1])
            start = last + 1
        if self._broken and start < end:
            found.append(data[start:])
            start = end
        self._rest = data[start:]
        self.taken += start - begin

    def _complete(self) -> Delivery:
        method, self._method = self._method, b""
        pieces, self._pieces = self._pieces, []
        at = 5 + method[4]  # after the consumer's tag
        tag, redelivered, length = _TAG(method, at)
        return tag, redelivered & 1 == 1, method[at + 11 + length :], self._properties, b"".join(pieces)


class ReceivingConnection(pika.SelectConnection):
    """pika's connection, but that the deliveries of its one channel go to `receive`: all of one read at once.

    Private names of pika 1.4.0 that are used here, and nowhere else: `_on_data_available`, which is given what was
    received, and `_transport`, which reads `_MAX_RECV_BYTES` at once, 4 KiB if nothing is said.
    """

    def __init__(self, receive: Callable[[list[Delivery]], None], *arguments: Any, **more: Any) -> None:
        self._receive = receive
        self._reader = Reader()
        super().__init__(*arguments, **more)

    def read_much(self) -> None:
        self._transport._MAX_RECV_BYTES = RECEIVE_BYTES

    def _on_data_available(self, data_in: bytes) -> None:
        deliveries: list[Delivery] = []
        before = self._reader.taken
        for found in self._reader.read(data_in):
            if type(found) is tuple:
                deliveries.append(found)
                continue
            if deliveries:  # they came before it
                self._receive(deliveries)
                deliveries = []
            super()._on_data_available(found)
        # By this pika tells whether the connection is alive. Its own frames it has added itself: they count twice.
        self.bytes_received += self._reader.taken - before
        if deliveries:
            self._receive(deliveries)
