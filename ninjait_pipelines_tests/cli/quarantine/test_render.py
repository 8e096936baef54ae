"""What `ninjait quarantine` prints: rows, a message with its errors highlighted, a rehearsal."""

import json
from typing import Any

import msgspec
import pytest

from ninjait_pipelines.cli.quarantine import render
from ninjait_pipelines.ingest.decode.message import decode, decode_nothing
from ninjait_pipelines.ingest.decode.model import Period
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.hold import hold_messages
from ninjait_pipelines.ingest.quarantine.query import ReasonSummary
from ninjait_pipelines.ingest.quarantine.replay import Rehearsal, RehearsedReplay
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import LOG
from ninjait_pipelines_tests.ingest.quarantine.helpers import (
    as_json,
    document_of,
    publish_bad,
)
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    ORG,
    REGISTRY,
    gzipped,
    message,
    metrics,
    sample,
)


def test_show_highlights_what_was_refused_and_raw_writes_every_byte(ninjait: Any, fleet: Stores) -> None:
    body = json.dumps(metrics(*(sample(n, cpu=-2 if n % 10 else 1) for n in range(1000)))).encode()
    broken = b'{"caf\xe9": "\x1b[2J'
    publish_bad(fleet, body, broken)
    ids = {document["reasons"][0]["reason"]: document["_id"] for document in query.select(fleet.mongodb)}
    shown = ninjait("quarantine", "show", ids["negative"]).stdout
    marks = [at for at, one in enumerate(shown.splitlines()) if one.strip() == "^" * len('"cpu": -2')]
    below = [shown.splitlines()[at - 1][shown.splitlines()[at].index("^") :] for at in marks]
    assert len(below) == 20
    assert all(one.startswith('"cpu": -2,') for one in below)
    assert "and 880 more: 880 of cpu: negative" in shown
    assert len(shown) < 8000
    assert "\x1b" not in ninjait("quarantine", "show", ids["invalid_utf8"]).stdout
    forged = message("agent.metrics", b"x", delivery_id="a\x1b[2J", content_type="a\nstate: replayed\u202e")
    hold_messages(fleet.mongodb, [(forged, decode(forged, REGISTRY, Period.at(NOW)))], "run", NOW, LOG)
    shown = ninjait("quarantine", "show", forged.copy_id).stdout
    assert not {"\x1b", "\u202e"} & set(shown)
    assert "state: replayed" not in shown.splitlines()
    assert ninjait("quarantine", "show", ids["negative"], "--raw").stdout_bytes == body
    assert ninjait("quarantine", "show", ids["invalid_utf8"], "--raw").stdout_bytes == broken


def test_dead_letters_are_one_group_however_many_words_are_said_of_them(ninjait: Any, fleet: Stores) -> None:
    letters = [message("agent.metrics", metrics(sample(n)), n) for n in range(3)]
    rejected = [(one, decode_nothing(one, "dead_letter", f"ValueError: at cpu {n}")) for n, one in enumerate(letters)]
    hold_messages(fleet.mongodb, rejected, "run", NOW, LOG)
    old = message("agent.metrics", b"x", 9)
    hold_messages(fleet.mongodb, [(old, decode_nothing(old, "dead_letter:of an earlier version"))], "run", NOW, LOG)
    (group,) = as_json(ninjait("quarantine", "list", "--reason", "dead_letter", "--json"))
    assert (group["messages"], group["points"]) == (3, 3)
    shown = ninjait("quarantine", "show", letters[1].copy_id).stdout
    assert "-> whole message: dead_letter: ValueError: at cpu 1\n" in shown
    assert "dead_letter:of an earlier version" in ninjait("quarantine", "list").stdout
    assert "dead_letter:of an earlier version" in ninjait("quarantine", "show", old.copy_id).stdout


def rehearsed(number: int, *reasons: str, body: bytes = b"{}") -> RehearsedReplay:
    return RehearsedReplay(f"q/{number}", f"id-{number}", f"metrics.{ORG}", 2, len(reasons), list(reasons), body)


def test_a_row_is_in_the_words_of_people() -> None:
    document = document_of(message("agent.metrics", metrics(sample(cpu=-2, memory=-1), sample(uptime="x"))))
    row = render.message_row(document)
    assert (row["reasons"], row["state"]) == ("negative, number_as_text", "quarantined")
    assert render.message_row(document | {"state": "replayed"})["state"] == "replayed"
    summary = ReasonSummary("negative", "agent.metrics", ORG, "2.4.1", 3, 4)
    assert list(render.group_row(summary, {ORG: "Aoraki"}).values()) == [
        "negative", "agent.metrics", "Aoraki", ORG, "2.4.1", 3, 4,
    ]  # fmt: skip
    assert render.group_row(summary, {})["organization"] is None


def test_json_has_the_body_with_escapes_and_nothing_that_is_packed() -> None:
    broken = message("agent.metrics", b'{"caf\xe9": 1')
    shown = render.message_json(document_of(broken), broken.body)
    assert (shown["body"], shown["state"]) == ('{"caf\\xe9": 1', "quarantined")
    assert not {"hosts", "summary"} & shown.keys()
    assert all("indexes" not in kind for kind in shown["reasons"])
    assert json.loads(msgspec.json.encode(shown, enc_hook=str))["_id"] == broken.copy_id


def test_a_long_message_is_shown_by_its_beginning_and_a_packed_one_unpacked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def printed(body: bytes, **fields: Any) -> str:
        one = message("agent.metrics", body, **fields)
        render.print_message(document_of(one) | {"trail": []}, body)
        return capsys.readouterr().out

    body = json.dumps(metrics(sample(cpu=-2), note="x" * render.MAX_CHARACTERS)).encode()
    shown = printed(body)
    assert f"the original bytes ({len(body):,}; --raw writes all of them) begin with:\n" in shown
    assert shown.endswith(body.decode()[: render.BEGINNING] + "...\n")
    small = json.dumps(metrics(sample(cpu=-2))).encode()
    packed = gzipped(small)
    assert f"original bytes ({len(packed)}, {len(small)} uncompressed):\n{small.decode()}\n" in printed(packed)


def test_problems_are_counted_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_problems(["gone", "no \x1b[2J field", "gone"])
    assert capsys.readouterr().out == "2 messages left: gone\n1 message left: no \\x1b[2J field\n"


def test_a_rehearsal_shows_the_body_of_a_single_message_only(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_rehearsal(Rehearsal([rehearsed(1, body=b'"\x1b[2J\xe9"')], 1, {"q/2": "gone"}))
    assert capsys.readouterr().out == (
        "would publish 1 message: 2 points accepted now, 0 rejected\n1 message left: gone\n"
        f'routing key metrics.{ORG}, body:\n"\\x1b[2J\\xe9"\n'
    )
    several = Rehearsal([rehearsed(1, "negative"), rehearsed(2, "negative", "not_json")], 1, {})
    render.print_rehearsal(several)
    assert capsys.readouterr().out == (
        "would publish 1 message: 4 points accepted now, 3 rejected\n"
        "2 would come back: negative\n1 would come back: not_json\n"
    )
    assert render.rehearsal_json(Rehearsal([rehearsed(1)], 1, {"q/2": "gone"})) == [
        {"id": "q/1", "message_id": "id-1", "routing_key": f"metrics.{ORG}", "accepted": 2, "rejected": 0,
         "reasons": [], "body": "{}"},
        {"id": "q/2", "problem": "gone"},
    ]  # fmt: skip
