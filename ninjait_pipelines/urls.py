"""URLs of stores: what they are made of, how they may be shown, and how what they hide stays out of others' words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

# An @, / ? or # in a password that was not percent-encoded would end the host elsewhere for every reader. So an @ may
# stand in the user info only, and there is no fragment.
_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?P<user_info>[^/?#\s]*)@)?(?P<hosts>[^@/?#\s]*)"
    r"(?P<path>/[^@?#\s]*)?(?:\?(?P<query>[^@#\s]*))?",
    re.I,
)
# These have no user info, and an @ in a folder's name is a letter like any other.
_WITHOUT_USER = re.compile(r"(?P<scheme>file|s3)://(?P<hosts>[^/?#]*)(?P<path>/.*)?", re.I)
_HOST = re.compile(r"(?:\[[0-9a-f:.%]+\]|[^\s\[\]:,@/?#]+)(?::(?P<port>[0-9]{1,5}))?", re.I)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|credential|key|authmechanismproperties", re.I)
HIDDEN = "***"
# Shorter secrets are only replaced where they stand alone: "a" is in every word.
SURE_LENGTH = 6
_known: set[str] = set()


@dataclass(frozen=True)
class Url:
    """The parts of a URL as they stand there, percent-encoded. `hosts` may be several, with ports: h1:5432,h2:5432."""

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
    """The parts of a URL; None where it cannot be told which they are, as with a password that is not encoded."""
    found = _WITHOUT_USER.fullmatch(url) or _URL.fullmatch(url)
    if found is None:
        return None
    parts = {"user_info": "", "query": ""} | {name: text or "" for name, text in found.groupdict().items()}
    parts["scheme"] = parts["scheme"].lower()
    result = Url(**parts)
    hosts = [_HOST.fullmatch(host) for host in result.host_names]
    if result.scheme not in ("file", "s3") and not all(host and int(host["port"] or 0) < 65536 for host in hosts):
        return None
    return None if _BAD_ESCAPE.search(result.user_info) else result


def without_password(url: str) -> str:
    """`url` as it may be shown: scheme, hosts, ports and path. Only its scheme, where it is no proper URL."""
    parts = parse(url)
    if parts is None:
        scheme = re.match(r"[a-z][a-z0-9+.-]*(?=://)", url, re.I)
        return f"{scheme[0]}://..." if scheme else "..."
    return parts.shown


def options_of(url: str) -> dict[str, str]:
    """The options in a URL's query; none where it is no proper URL."""
    parts = parse(url)
    return dict(parse_qsl(parts.query)) if parts else {}


# What a server that is none of ours may quote: HTTP's header, of which a secret is one part, in another spelling.
_AUTHORIZATION = re.compile(r"(authorization\W+\w+\s+)[^\s\"'\\]+", re.I)


def remember(*secrets: str) -> None:
    """Secrets of this process (passwords, tokens, URLs that have one), which `redacted` then takes out of any text."""
    _known.update(filter(None, secrets))


def redacted(text: str, url: str = "") -> str:
    """`text` without the secrets of `url` and without those that are remembered, as they stand there and decoded."""
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
    """What may not be shown of a URL; of any other secret, all of it."""
    scheme, separator, rest = value.partition("://")
    if not separator:
        yield value
    elif (parts := parse(value)) is not None:
        user, colon, password = parts.user_info.partition(":")
        yield password if colon else user
        yield from (text for name, text in parse_qsl(parts.query) if _SECRET_NAME.search(name))
    elif scheme not in ("file", "s3"):
        # Nobody can tell where the password ends: every piece of it may be one.
        yield from re.split(r"[/@:?#&=,\s]+", rest)
        yield rest
