"""URLs as people write them: what is accepted, what is shown, and what never is."""

import pytest

from ninjait_pipelines.settings import SettingsError, validate
from ninjait_pipelines.urls import HIDDEN, parse, redacted, without_password
from ninjait_pipelines_tests.nowhere import NOWHERE

CANARY = "c4n4ry"


@pytest.mark.parametrize(
    ("name", "url", "shown"),
    [
        ("MONGODB_URL", "mongodb://u:p@h1:27017,h2:27017/db?replicaSet=rs", "mongodb://h1:27017,h2:27017/db"),
        ("MONGODB_URL", "mongodb://h1,h2,[::1]:27017/db", "mongodb://h1,h2,[::1]:27017/db"),
        ("MONGODB_URL", "mongodb+srv://u:p@cluster.example.com/db", "mongodb+srv://cluster.example.com/db"),
        (
            "DATABASE_URL",
            "postgresql://u:p@h1:5432,h2:5432/db?target_session_attrs=read-write",
            "postgresql://h1:5432,h2:5432/db",
        ),
        ("DATABASE_URL", "postgresql://u:p%40@[2001:db8::1]:5432/db", "postgresql://[2001:db8::1]:5432/db"),
        ("DATABASE_URL", "postgresql:///db?host=/run/postgresql", "postgresql:///db"),
        ("DATABASE_URL", "postgresql://%2Frun%2Fpostgresql/db", "postgresql://%2Frun%2Fpostgresql/db"),
        ("ARCHIVE_URL", "file:///srv/a@b/archive #1", "file:///srv/a@b/archive #1"),
        ("ARCHIVE_URL", "s3://bucket/pre@fix", "s3://bucket/pre@fix"),
        ("CLICKHOUSE_URL", "HTTPS://host", "https://host"),
    ],
)
def test_urls_that_are_accepted(name: str, url: str, shown: str) -> None:
    """A replica set and a primary with its standbys were "not a URL"."""
    assert validate({**NOWHERE, name: url})[name] == url
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("name", "url", "problem"),
    [
        ("CLICKHOUSE_URL", "http://h1:8123,h2:8123", "several hosts"),
        ("DRAGONFLY_URL", "redis://h1:6379,h2:6379/0", "several hosts"),
        ("CLICKHOUSE_URL", "https://host/clickhouse", "nothing would obey"),
        ("CLICKHOUSE_URL", "https://host?verify=false", "nothing would obey"),
        ("CLICKHOUSE_URL", f"https://user:{CANARY}@host", "nothing would obey"),
        ("DRAGONFLY_URL", "redis://host:6379/O1", "the database O1, and they have numbers"),  # it would be 0
        ("ARCHIVE_URL", "file://srv/archive", "the host srv, .* three slashes"),  # it would be /archive
        ("DATABASE_URL", "postgresql://host:99999/db", "not a URL"),
        ("MONGODB_URL", "mongodb://h1:27017,h2:port/db", "not a URL"),
        ("ARCHIVE_URL", f"s3://AKIA:{CANARY}@bucket/prefix", "AWS_SECRET_ACCESS_KEY"),  # it was a bucket's name
        ("ARCHIVE_URL", f"s3://bucket?secret_key={CANARY}", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_urls_that_nothing_would_obey_are_refused(name: str, url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} .*{problem}") as refused:
        validate({**NOWHERE, name: url})
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize("password", [f"{CANARY}{sign}tail" for sign in "/?# %"] + [f"12/{CANARY}", f"a@b/{CANARY}@x"])
@pytest.mark.parametrize("url", ["postgresql://u:{}@host:5432/db", "mongodb://u:{}@h1,h2/db", "redis://:{}@host/0"])
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(url: str, password: str) -> None:
    """PostgreSQL's client said `invalid percent-encoded token: "<the password>"`."""
    name = {"p": "DATABASE_URL", "m": "MONGODB_URL", "r": "DRAGONFLY_URL"}[url[0]]
    whole = url.format(password)
    assert CANARY not in without_password(whole)
    with pytest.raises(SettingsError, match=f"{name} is not a URL.*percent-encoded") as refused:
        validate({**NOWHERE, name: whole})
    assert CANARY not in str(refused.value)


def test_others_words_lose_what_the_url_hides() -> None:
    url = f"postgresql://ninjait:{CANARY}%2Fx@host/ninjait?sslpassword=pass-phrase&application_name=a"
    said = f'FATAL: no {CANARY}/x, no {CANARY}%2Fx; "pass-phrase" of user ninjait at host'
    assert redacted(said, url) == f'FATAL: no {HIDDEN}, no {HIDDEN}; "{HIDDEN}" of user ninjait at host'
    assert redacted("token abc of the user", "redis://abc@host") == f"token {HIDDEN} of the user"
    assert redacted("a password a b", "redis://:a@host") == f"{HIDDEN} password {HIDDEN} b"
    assert redacted("Port could not be cast to integer value as 'geh'", "redis://u:geh/eim@host").endswith(
        f"'{HIDDEN}'"
    )


def test_a_url_without_a_scheme_is_none() -> None:
    assert parse("localhost:6379") is None
    assert without_password("localhost:6379") == "..."
