"""What a message is that cannot be read as what it should be: the name of its form, for the reason it is refused for.

Pure, and asked only once reading has failed: nothing good ever depends on these guesses.
"""

import re

# What begins with these bytes is no text, or text in another encoding.
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
# UTF-16 with or without its mark, a map of MessagePack that begins with a name, collectd's binary parts (host, time).
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
_LOOKED_AT = 1024


def form_of(body: bytes) -> str | None:
    """The form of a body; None where it is none of those that senders are known to send."""
    if found := next((name for magic, name in _MAGIC.items() if body.startswith(magic)), None):
        return found
    start = body[:_LOOKED_AT]
    if found := next((name for pattern, name in _BINARY if pattern.match(start)), None):
        return found
    text = start.decode(errors="replace").lstrip("\ufeff")
    if text.lstrip().startswith(("{", "[")):
        return _of_json(text)
    if found := next((name for pattern, name in _TEXT if pattern.search(text)), None):
        return found
    return "line_protocol" if _LINE.match(text) else None


def _of_json(text: str) -> str | None:
    """Whose JSON it is, by the names in it."""
    if '"dsnames"' in text:
        return "collectd_json"
    if '"resourceMetrics"' in text:
        return "otlp_json"
    if '"fields"' in text and '"tags"' in text:
        return "telegraf_json"
    return "ninjait_json" if '"ninjait.' in text else "json"
