"""What goes wrong, and that each message becomes what the simulator says of it."""

from datetime import UTC, datetime, timedelta

from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Decoded, Period, SenderRegistry
from ninjait_pipelines.ingest.ledger import outcome_of
from ninjait_pipelines.local.fleet.simulate import (
    BAD_DEVICES,
    BAD_MESSAGES,
    BAD_METRICS,
    BAD_SAMPLES,
    Options,
    Published,
)
from ninjait_pipelines.local.fleet.simulate.mischief import Delivery, in_order_of_delivery
from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines_tests.local.fleet.simulate.fleets import FLEET, WEEK, all_of, of, organization, samples


def test_laptops_that_were_away_deliver_late_and_in_order() -> None:
    # With this seed one of the few laptops is away for longer than a day.
    messages = all_of(Options(seed=2, away=1, broken=0, duplicates=0, resent=0), WEEK)
    newest, latest = datetime.min.replace(tzinfo=UTC), timedelta()
    by_device: dict[str, list[datetime]] = {}
    for one in of(messages, "agent.metrics"):
        points = samples([one])
        by_device.setdefault(points[0][0], []).extend(moment for _, moment in points)
        latest = max(latest, newest - points[-1][1])
        newest = max(newest, points[-1][1])
    assert latest > timedelta(days=1), "some come more than a day late"
    assert all(times == sorted(times) for times in by_device.values())


def test_every_message_becomes_what_the_tally_says() -> None:
    """Against the decoder that ingest really uses, for every kind of bad input."""
    messages = all_of(Options(broken=0.2, duplicates=0.05, resent=0.05))
    devices = {device.id: one.id for one in FLEET for device in one.devices}
    registry, period = SenderRegistry(frozenset(one.id for one in FLEET), devices), Period.at(datetime.now(UTC))
    kinds, seen = set(), set()
    for one in messages:
        sent = one.message
        if one.outcome == "duplicate":
            assert (sent.queue, sent.message_id) in seen
            continue
        assert (sent.queue, sent.message_id) not in seen
        seen.add((sent.queue, sent.message_id))
        kinds.add(one.kind)
        decoded = decode(
            Message(sent.queue, sent.routing_key, sent.body, sent.content_type, sent.message_id, "1", "1", 1, 0),
            registry,
            period,
        )
        assert (outcome_of(decoded), str(decoded.message_id)) == (one.outcome, sent.message_id), (one.kind, decoded)
        assert decoded.points_accepted == one.points + one.resent_points, (one.kind, decoded)
        if one.outcome == "partly_quarantined":
            assert decoded.points_rejected == one.bad_points, (one.kind, decoded)
        if one.outcome != "written":
            assert reason(decoded) == REASONS.get(one.kind, one.kind)
    assert kinds == {"good", "resent", *BAD_SAMPLES, *BAD_MESSAGES, *BAD_DEVICES, *BAD_METRICS}


REASONS = {"true_as_number": "boolean_as_number", "nan": "not_finite", "infinite": "not_finite"}


def reason(decoded: Decoded) -> str:
    (found,) = {rejection.reason for rejection in decoded.rejections}
    return found


def test_a_fleet_of_one_device_has_no_kinds_that_need_two_organizations() -> None:
    one = [organization(1, 1, "UTC")]
    kinds = {published.kind for published in all_of(Options(broken=1), fleet=one)}
    assert not kinds & {"device_of_another_organization", "not_of_its_routing_key", "good"}


def delivery(number: int, made_at: float, delivered_at: float) -> Delivery:
    return made_at, delivered_at, Published(Outgoing("platform.logs", "log.info", b"", str(number)), "written", "good")


def test_what_is_held_back_comes_in_its_turn_and_in_the_order_in_which_it_was_made() -> None:
    made = [
        [delivery(1, 0, 0), delivery(2, 0, 15)],  # a duplicate
        [delivery(3, 5, 20)],  # without a connection until 20
        [delivery(4, 10, 20)],
        [delivery(5, 15, 15)],
        [delivery(6, 20, 20)],
        [delivery(7, 21, 90)],
        [delivery(8, 22, 80)],
    ]
    order = [int(one.message.message_id) for one in in_order_of_delivery(made)]
    assert order == [1, 2, 5, 3, 4, 6, 8, 7]
    assert list(in_order_of_delivery([])) == []
