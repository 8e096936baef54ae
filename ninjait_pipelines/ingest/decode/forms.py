"""Guesses the actual form of a message that could not be read as the expected one, to name it in the rejection.

Pure, and used only after reading has failed: no accepted message depends on these guesses.
"""

import re

# The first bytes of compressed data and of text in another encoding.
_MAGIC = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x8b": "gzip",
    b"\x78\x01": "zlib",
    b"\x78\x5e": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
    b"\xff\x06\x00\x00sNaPpY": "snappy",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\xff\xfe\x00\x00": "utf_32",
    b"\x00\x00\xfe\xff": "utf_32",
}
# UTF-16 with or without byte order mark; a MessagePack map whose first key is a name; collectd's binary protocol, whose
# packets begin with a part for host or time.
_BINARY = (
    (re.compile(rb"(?:\xff\xfe)?(?:[\x09-\x7e]\x00){3}|(?:\xfe\xff)?(?:\x00[\x09-\x7e]){3}"), "utf_16"),
    (re.compile(rb"(?:[\x81-\x8f]|\xde..|\xdf....)[\xa1-\xbf][a-z_]", re.DOTALL), "msgpack"),
    (re.compile(rb"\x00[\x00\x08]\x00[\x06-\xff]", re.DOTALL), "collectd_binary"),
)
_TEXT = (
    (re.compile(r"^PUT(?:VAL|NOTIF) ", re.MULTILINE), "collectd_command"),
    (re.compile(r"^# (?:HELP|TYPE) |^[a-zA-Z_:][\w:]*\{[^}\n]*\} +[-+\dNI]", re.MULTILINE), "prometheus_text"),
    (re.compile(r"^[\w.*-]+(?:;[\w.=;-]+)? +-?[\d.eE+-]+ +\d{9,13}\r?$", re.MULTILINE | re.ASCII), "graphite"),
)
_LINE = re.compile(r"\s*[^\s,=]+(?:,[^\s,=]+=[^\s,=]+)*\s+[^\s,=]+=[^\s=]", re.ASCII)
_EXAMINED_BYTES = 1024


def form_of(body: bytes) -> str | None:
    """The form of a body; None if it is none that senders are known to send by mistake."""
    if form := next((name for magic, name in _MAGIC.items() if body.startswith(magic)), None):
        return form
    start = body[:_EXAMINED_BYTES]
    if form := next((name for pattern, name in _BINARY if pattern.match(start)), None):
        return form
    text = start.decode(errors="replace").lstrip("\ufeff")
    if text.lstrip().startswith(("{", "[")):
        return _form_of_json(text)
    if form := next((name for pattern, name in _TEXT if pattern.search(text)), None):
        return form
    return "line_protocol" if _LINE.match(text) else None


def _form_of_json(text: str) -> str | None:
    """The sender's format, judging by the keys in the JSON."""
    if '"dsnames"' in text:
        return "collectd_json"
    if '"resourceMetrics"' in text:
        return "otlp_json"
    if '"fields"' in text and '"tags"' in text:
        return "telegraf_json"
    return "ninjait_json" if '"ninjait.' in text else "json"
