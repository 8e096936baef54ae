"""URLs of stores: their parts, what may be shown of them, and how secrets are kept out of other programs' messages."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

# Clients disagree about where the host ends if a password contains @ / ? or # unencoded. So @ is accepted only after
# the user info, and a fragment is not accepted.
_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?P<user_info>[^/?#\s]*)@)?(?P<hosts>[^@/?#\s]*)"
    r"(?P<path>/[^@?#\s]*)?(?:\?(?P<query>[^@#\s]*))?",
    re.I,
)
# These have neither user info nor options (a key in them would be shown), and a folder's name may contain @.
_WITHOUT_USER = re.compile(r"(?P<scheme>file|s3)://(?P<hosts>[^@:/?#]*)(?P<path>/.*)?", re.I)
_HOST = re.compile(r"(?:\[[0-9a-f:.%]+\]|[^\s\[\]:,@/?#]+)(?::(?P<port>[0-9]{1,5}))?", re.I)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|credential|key|authmechanismproperties", re.I)
HIDDEN = "***"
# Shorter secrets are only replaced where they stand alone: "a" is in every word.
SURE_LENGTH = 6
_known: set[str] = set()


@dataclass(frozen=True)
class Url:
    """The parts of a URL, still percent-encoded. `hosts` may be several, with ports: h1:5432,h2:5432."""

    scheme: str
    user_info: str
    hosts: str
    path: str
    query: str

    @property
    def shown(self) -> str:
        """Scheme, hosts, ports and path: what may be shown."""
        return f"{self.scheme}://{self.hosts}{self.path}"

    @property
    def host_names(self) -> list[str]:
        """Each host with its port."""
        return self.hosts.split(",") if self.hosts else []


def parse(url: str) -> Url | None:
    """The parts of a URL; None if they are ambiguous, as with a password that is not percent-encoded."""
    plain = re.match("file:|s3:", url, re.I)
    found = (_WITHOUT_USER if plain else _URL).fullmatch(url)
    if found is None:
        return None
    parts = {"user_info": "", "query": ""} | {name: text or "" for name, text in found.groupdict().items()}
    parts["scheme"] = parts["scheme"].lower()
    result = Url(**parts)
    hosts = [_HOST.fullmatch(host) for host in result.host_names]
    if not plain and not all(host and int(host["port"] or 0) < 65536 for host in hosts):
        return None
    return None if _BAD_ESCAPE.search(result.user_info) else result


def without_password(url: str) -> str:
    """What may be shown of `url`: scheme, hosts, ports and path. Only the scheme, if it is not a valid URL."""
    parts = parse(url)
    if parts is None:
        scheme = re.match(r"[a-z][a-z0-9+.-]*(?=://)", url, re.I)
        return f"{scheme[0]}://..." if scheme else "..."
    return parts.shown


def options_of(url: str) -> dict[str, str]:
    """The options in a URL's query; empty if it is not a valid URL."""
    parts = parse(url)
    return dict(parse_qsl(parts.query)) if parts else {}


# A server may quote HTTP's header, which has the secret in another encoding.
_AUTHORIZATION = re.compile(r"(authorization\W+\w+\s+)[^\s\"'\\]+", re.I)


def remember(*secrets: str) -> None:
    """Registers secrets (passwords, tokens, URLs with either), which `redacted` then removes from any text."""
    _known.update(filter(None, secrets))


def redacted(text: str, url: str = "") -> str:
    """`text` without the secrets of `url` and the remembered ones, in their percent-encoded and decoded forms."""
    secrets = {part for one in (url, *_known) for part in _secrets(one)}
    for secret in sorted(secrets, key=len, reverse=True):
        pattern = re.escape(secret)
        if len(secret) < SURE_LENGTH:
            pattern = rf"(?<!\w){pattern}(?!\w)"
        text = re.sub(pattern, HIDDEN, text)
    return _AUTHORIZATION.sub(rf"\1{HIDDEN}", text)


def _secrets(value: str) -> Iterator[str]:
    for part in _hidden_parts(value):
        yield from {part, unquote(part)} - {""}


def _hidden_parts(value: str) -> Iterator[str]:
    """The secret parts of a URL; any other value is secret as a whole."""
    scheme, separator, rest = value.partition("://")
    if not separator:
        yield value
    elif (parts := parse(value)) is not None:
        user, colon, password = parts.user_info.partition(":")
        yield password if colon else user
        yield from (text for name, text in parse_qsl(parts.query) if _SECRET_NAME.search(name))
    elif scheme != "file":
        # It is unclear where the password ends: every piece may be part of it.
        yield from re.split(r"[/@:?#&=,\s]+", rest)
        yield rest
