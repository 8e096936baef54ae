"""The settings as one typed object, and which values are refused. Of URLs: test_urls.py."""

from datetime import date

import pytest

from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.settings import REQUIRED, SettingsError, Thresholds, load, thresholds, validate
from ninjait_pipelines_tests.nowhere import NOWHERE

CANARY = "c4n4ry-0f-the-test"
SET = {"QUARANTINE_LIMIT_MIB": "0512", "HOSTS_WITHOUT_ORGANIZATION": "on", "PIPELINE_START": "2026-01-31"}


def test_values_are_typed_and_the_variables_stay_as_they_were_written() -> None:
    settings = validate({**NOWHERE, **SET, "PATH": "/usr/bin", "AWS_REGION": ""})
    assert (settings.quarantine_limit_mib, settings.hosts_without_organization) == (512, True)
    assert settings.pipeline_start == date(2026, 1, 31)
    assert settings.aws_region is None
    assert dict(settings) == {**NOWHERE, **SET}


def test_unset_ones_have_defaults_and_are_no_variables() -> None:
    settings = validate(NOWHERE)
    assert (settings.quarantine_limit_mib, settings.hosts_without_organization) == (1024, False)
    assert (settings.pipeline_start, settings.influxdb_bucket) == (date(2024, 1, 1), "metrics")
    assert not SET.keys() & settings.keys()


def test_they_are_those_that_are_given_and_none_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """pydantic-settings reads the environment unless it is told not to: a staging URL beside a local password."""
    monkeypatch.setenv("RABBITMQ_URL", "amqp://staging")
    monkeypatch.setenv("CLICKHOUSE_USER", "staging")
    assert validate(NOWHERE).rabbitmq_url is None
    with pytest.raises(SettingsError, match="CLICKHOUSE_USER is not set"):
        validate({name: value for name, value in NOWHERE.items() if name != "CLICKHOUSE_USER"})


def test_one_error_names_every_problem_and_no_secret() -> None:
    """A field that is wrong does not hide what is wrong between two others."""
    wrong = {
        "CLICKHOUSE_USER": "",
        "CLICKHOUSE_PASSWORD": CANARY,
        "DATABASE_URL": f"mysql://user:{CANARY}@host/db",
        "QUARANTINE_LIMIT_MIB": "much",
        "INFLUXDB_URL": "http://host",
    }
    with pytest.raises(SettingsError) as caught:
        validate({**NOWHERE, **wrong})
    *problems, advice = str(caught.value).splitlines()
    named = ["CLICKHOUSE_USER", "DATABASE_URL", "QUARANTINE_LIMIT_MIB", "INFLUXDB_TOKEN", "INFLUXDB_ORG"]
    assert [problem.split()[0] for problem in problems] == named
    assert "ninjait up" in advice
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None, "pydantic's own error quotes the values"


def test_no_secret_is_shown() -> None:
    settings = validate({**NOWHERE, "CLICKHOUSE_PASSWORD": CANARY, "DATABASE_URL": f"postgresql://u:{CANARY}@host/db"})
    shown = f"{settings!r} {settings}"
    assert "DATABASE_URL" in shown
    assert CANARY not in shown


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is not set"):
        validate({**NOWHERE, name: ""})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DATABASE_URL", "mysql://user:hidden@host/db", "starts with 'mysql'"),
        ("DRAGONFLY_URL", "localhost:6379", "DRAGONFLY_URL starts with"),
        ("CLICKHOUSE_URL", "http://host:port", "is not a URL"),
        ("MONGODB_URL", "mongodb://", "names no host"),
        ("RABBITMQ_URL", "rabbitmq://host", "RABBITMQ_URL starts with 'rabbitmq'"),
        ("INFLUXDB_URL", "http://host", "INFLUXDB_TOKEN is not set, and INFLUXDB_URL needs it"),
        ("AWS_ACCESS_KEY_ID", "key", "AWS_SECRET_ACCESS_KEY is not set"),
        ("PIPELINE_START", "20260131", "PIPELINE_START is not a date such as 2026-01-31 but '20260131': the first day"),
        ("PIPELINE_START", "0001-01-01", "PIPELINE_START is not a date such as 2026-01-31 but '0001-01-01': "),
        ("PIPELINE_START", "9999-12-31", "PIPELINE_START is not a date such as 2026-01-31 but '9999-12-31': "),
        ("PIPELINE_START", "2026-02-30", "PIPELINE_START is not a date such as 2026-01-31 but '2026-02-30': "),
        ("QUARANTINE_LIMIT_MIB", "1.5", "QUARANTINE_LIMIT_MIB is not a whole number above 0 but '1.5': "),
        ("RUN_EXECUTOR", "dagster.none", r"RUN_EXECUTOR names nothing that can be imported \(.*none.*\): what"),
        ("RUN_EXECUTOR", "no_such.executor", r"RUN_EXECUTOR names nothing that can be imported \(.*no_such"),
        ("RUN_EXECUTOR", "os.getcwd", "RUN_EXECUTOR names no executor but a builtin_function_or_method: what executes"),
        ("HOSTS_WITHOUT_ORGANIZATION", "yes", "HOSTS_WITHOUT_ORGANIZATION is neither on nor off but 'yes': on if "),
    ],
)
def test_a_wrong_variable_is_named_without_its_secrets(name: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        validate({**NOWHERE, name: value})
    assert "hidden" not in str(caught.value)


def test_settings_are_never_mixed(tmp_path) -> None:
    """A staging URL beside the local stack's password would be worse than an error."""
    (tmp_path / "settings.env").write_text("\n".join(f"{name}={value}" for name, value in NOWHERE.items()))
    assert dict(load({}, tmp_path)) == NOWHERE
    with pytest.raises(SettingsError, match="DATABASE_URL is not set"):
        load({"CLICKHOUSE_URL": "http://staging:8123"}, tmp_path)


@pytest.mark.parametrize("value", ["0", "101", "-1", "1.5", "ten", "\u0663", "1" * 5000])
def test_a_threshold_out_of_bounds_is_named_with_its_value_and_what_it_may_be(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validate({**NOWHERE, "LATE_HOURS_MAX_RUNS": value})
    meaning = "runs of `roll_up_late_hours` that are queued or active at the same time"
    expected = f"LATE_HOURS_MAX_RUNS is not a whole number from 1 to 100 but {value!r}: {meaning}."
    assert str(caught.value).splitlines()[0] == expected


def test_thresholds_are_those_of_the_environment_and_an_empty_one_is_not_set() -> None:
    found = thresholds({"LATE_HOURS_MAX_RUNS": "3", "COMPARED_DAYS": "", "OUTAGE_REPLAYS": "0"})
    assert found.model_dump() == {**Thresholds().model_dump(), "late_hours_max_runs": 3, "outage_replays": 0}


def test_every_threshold_is_in_its_own_bounds_and_used() -> None:
    """One that nothing reads would be turned at night, and change nothing."""
    defaults = Thresholds().model_dump()
    assert thresholds({name.upper(): str(value) for name, value in defaults.items()}).model_dump() == defaults
    source = "".join(path.read_text() for path in (ROOT / "ninjait_pipelines").rglob("*.py"))
    assert [name for name in defaults if f"THRESHOLDS.{name}" not in source] == []
