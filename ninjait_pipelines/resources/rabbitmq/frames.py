"""pika's connection, with deliveries read before they reach pika, at a fraction of its cost, and bad headers tolerated.

A delivery is a method frame, a header frame and as many body frames as its body needs. pika makes an object of each,
decodes all of it and calls several callbacks; here it becomes a tuple. pika gets every other frame, unchanged and in
order: heartbeats, answers, the broker's reason for closing, and malformed bytes.

Private names of pika 1.4 are used in this module only: `_on_data_available`, which gets the bytes received,
`_transport` and its `_MAX_RECV_BYTES`, `_read_frame` and `_frame_buffer`.
"""

import struct
from collections.abc import Callable
from typing import Any

import pika
import pika.frame
from pika.exceptions import BodyTooLongError, UnexpectedFrameError

# delivery tag, whether it is a redelivery, routing key, encoded properties, body
Delivery = tuple[int, bool, bytes, bytes, bytes]

METHOD, HEADER, BODY, HEARTBEAT, END = 1, 2, 3, 8, 0xCE
DELIVER = b"\x00\x3c\x00\x3c"  # class basic, method deliver
RECEIVE_BYTES = 256 * 1024
UNREADABLE = "ninjait-unreadable"  # in place of headers that cannot be decoded; never sent
_KINDS = (METHOD, HEADER, BODY, HEARTBEAT)
_FRAME = struct.Struct(">BHI").unpack_from  # kind, channel, size of the payload
_SIZE = struct.Struct(">4xQ").unpack_from  # size of the body; the properties follow
_TAG = struct.Struct(">QBB").unpack_from  # delivery tag, redelivered, length of the exchange's name


class Reader:
    """Bytes in, cut anywhere; deliveries of one channel and all other frames out.

    A body stays here until it is complete, in the pieces its frames brought.
    """

    def __init__(self) -> None:
        self.taken = 0  # bytes of complete frames, of either kind
        self._rest = b""  # the beginning of an incomplete frame
        self._broken = False  # malformed: from here on pika gets everything, and reports what is wrong
        self._channel = 0
        self._method = self._properties = b""  # of the delivery being read
        self._size = self._missing = 0  # of its body
        self._pieces: list[bytes] = []

    def read(self, data: bytes) -> list[Delivery | bytes]:
        """What these bytes complete, in order: deliveries as tuples, any other frame as bytes."""
        found: list[Delivery | bytes] = []
        start = 0
        while self._rest and start < len(data):  # only what the frame lacks, lest all of `data` be copied
            piece = data[start : start + self._lacking()]
            start += len(piece)
            torn, self._rest = self._rest + piece, b""
            self._frames(torn, 0, found)
        if not self._rest:
            self._frames(data, start, found)
        return found

    def _lacking(self) -> int:
        """How many bytes are missing: of the incomplete frame's header, then of the frame."""
        have = len(self._rest)
        return 7 - have if have < 7 else 8 + _FRAME(self._rest)[2] - have

    def _frames(self, data: bytes, start: int, found: list[Delivery | bytes]) -> None:
        """Appends what is complete in `data` from `start` on, and keeps the rest."""
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


class LenientProperties(pika.BasicProperties):
    """Properties that pika can read, and those it cannot, such as a time after the year 9999, without their headers.

    pika would drop the connection, and again at every redelivery.
    """

    def decode(self, encoded: bytes, offset: int = 0) -> Any:
        try:
            return super().decode(encoded, offset)
        except Exception as error:  # noqa: BLE001 -- any of them, too deep a nesting included
            start = offset + 2
            for flag in (self.FLAG_CONTENT_TYPE, self.FLAG_CONTENT_ENCODING):
                if struct.unpack_from(">H", encoded, offset)[0] & flag:
                    start += 1 + encoded[start]
            end = start + 4 + struct.unpack_from(">I", encoded, start)[0]
            super().decode(encoded[offset:start] + bytes(4) + encoded[end:])
            self.headers = {UNREADABLE: f"{type(error).__name__}: {error}"}
            return self


class LenientConnection(pika.SelectConnection):
    """pika's connection, with LenientProperties in every content header it reads."""

    def _read_frame(self) -> Any:
        buffer = self._frame_buffer
        if len(buffer) >= 7 and buffer[0] == HEADER:
            _, channel, size = _FRAME(buffer)
            end = 7 + size
            if len(buffer) > end and buffer[end] == END:
                properties = LenientProperties().decode(buffer[19:end])
                return end + 1, pika.frame.Header(channel, _SIZE(buffer, 7)[0], properties)
        return super()._read_frame()


class ReceivingConnection(LenientConnection):
    """Passes the deliveries of its one channel to `receive`: all of one read in one call."""

    def __init__(self, receive: Callable[[list[Delivery]], None], *arguments: Any, **keywords: Any) -> None:
        self._receive = receive
        self._reader = Reader()
        super().__init__(*arguments, **keywords)

    def read_large_pieces(self) -> None:
        """Reads RECEIVE_BYTES at once instead of 4 KiB."""
        self._transport._MAX_RECV_BYTES = RECEIVE_BYTES

    def _on_data_available(self, data_in: bytes) -> None:
        deliveries: list[Delivery] = []
        before = self._reader.taken
        for found in self._reader.read(data_in):
            if type(found) is tuple:
                deliveries.append(found)
                continue
            if deliveries:  # they came first
                self._receive(deliveries)
                deliveries = []
            super()._on_data_available(found)
        # pika judges by this count whether the connection is alive. It has added its own frames: those count twice.
        self.bytes_received += self._reader.taken - before
        if deliveries:
            self._receive(deliveries)
