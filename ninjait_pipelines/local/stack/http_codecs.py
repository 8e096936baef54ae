"""Content encodings of HTTP bodies, piece by piece: what clickhouse-connect and curl negotiate with ClickHouse."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Any

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class Lz4Encoder:
    """The frame's header goes out with the first piece, so that an empty body is a valid frame too."""

    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameCompressor()
        self._header: bytes | None = self._frame.begin()

    def compress(self, data: bytes | memoryview, /) -> bytes:
        header, self._header = self._header or b"", None
        return header + self._frame.compress(data)

    def flush(self) -> bytes:
        header, self._header = self._header or b"", None
        return header + self._frame.flush()


class Plain:
    """No encoding: a body that may end anywhere."""

    eof = True
    unused_data = b""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        return bytes(data)

    def decompress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


ENCODERS: dict[str, Callable[[], Any]] = {
    "lz4": Lz4Encoder,
    "zstd": lambda: zstd.ZstdCompressor(level=1),
    "gzip": lambda: zlib.compressobj(level=1, wbits=31),
    "deflate": lambda: zlib.compressobj(level=1),
}
DECODERS: dict[str, Callable[[], Any]] = {
    "": Plain,
    "identity": Plain,
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "deflate": zlib.decompressobj,
}
DECODE_ERRORS = (zlib.error, zstd.ZstdError, RuntimeError, EOFError)


def negotiate(accept_encoding: str) -> str | None:
    """The first encoding that the client names and we have."""
    for item in accept_encoding.split(","):
        name, _, quality = item.strip().partition(";")
        if name.strip().lower() in ENCODERS and quality.replace(" ", "") not in ("q=0", "q=0.0"):
            return name.strip().lower()
    return None
