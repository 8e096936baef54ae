"""Encodings of HTTP bodies, a piece at a time, against each format's own library."""

import random
import zlib
from collections.abc import Callable

import lz4.frame
import pytest

from ninjait_pipelines.local.stack.http_codecs import DECODE_ERRORS, DECODERS, ENCODERS, negotiate, zstd

READ: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.decompress,
    "zstd": zstd.decompress,
    "gzip": lambda body: zlib.decompress(body, wbits=31),
    "deflate": zlib.decompress,
}
RANDOM = random.Random(7)
PIECES = (b"", b"a", b"x" * 200_000, RANDOM.randbytes(100_000), b"\n")


def encoded(name: str, *pieces: bytes) -> bytes:
    encoder = ENCODERS[name]()
    return b"".join(bytes(encoder.compress(memoryview(piece))) for piece in pieces) + encoder.flush()


def test_every_encoding_that_is_offered_can_be_read_back() -> None:
    assert READ.keys() == ENCODERS.keys() == DECODERS.keys() - {"", "identity"}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("pieces", [PIECES, (), (b"",)], ids=["pieces", "nothing", "an empty piece"])
def test_pieces_are_one_body(name: str, pieces: tuple[bytes, ...]) -> None:
    """An empty result is a body too: its frame was without a beginning."""
    assert READ[name](encoded(name, *pieces)) == b"".join(pieces)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_body_is_read_in_whatever_pieces_it_comes(name: str) -> None:
    body, decoder, read = encoded(name, *PIECES), DECODERS[name](), b""
    for start in range(0, len(body), 997):
        assert not decoder.eof
        read += decoder.decompress(body[start : start + 997])
    assert (read, decoder.eof, decoder.unused_data or b"") == (b"".join(PIECES), True, b"")


@pytest.mark.parametrize("name", ENCODERS)
def test_a_torn_body_has_no_end_and_what_follows_a_whole_one_is_kept(name: str) -> None:
    body = encoded(name, *PIECES)
    torn = DECODERS[name]()
    torn.decompress(body[:-1])
    assert not torn.eof
    two = DECODERS[name]()
    assert two.decompress(body + body) == b"".join(PIECES)
    assert (two.eof, two.unused_data) == (True, body)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_body_of_something_else_is_an_error_of_the_known_kinds(name: str) -> None:
    with pytest.raises(DECODE_ERRORS):
        DECODERS[name]().decompress(b"SELECT 1 FORMAT JSON")


@pytest.mark.parametrize("name", ["", "identity"])
def test_without_an_encoding_a_body_may_end_anywhere(name: str) -> None:
    decoder = DECODERS[name]()
    assert [decoder.decompress(piece) for piece in (b"a", b"", b"b")] == [b"a", b"", b"b"]
    assert (decoder.eof, decoder.unused_data) == (True, b"")


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None),
        ("identity", None),
        ("br", None),
        ("br, gzip", "gzip"),
        ("lz4, gzip", "lz4"),
        ("GZIP;q=0.5, lz4", "gzip"),
        ("gzip;q=0, zstd", "zstd"),
        ("gzip; q=0.0", None),
        (",, deflate ", "deflate"),
    ],
)
def test_the_first_encoding_that_both_have_is_chosen(accepted: str, chosen: str | None) -> None:
    assert negotiate(accepted) == chosen
