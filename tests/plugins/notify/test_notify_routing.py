"""Which message goes where, and when; without a network."""

from datetime import datetime, timedelta

import msgspec
import pytest

from trainbus.bus.events import Alert, RunEnded
from trainbus.plugins.notify.config import NotifyConfig
from trainbus.plugins.notify.message import of_alert
from trainbus.plugins.notify.routing import Outgoing, due, message_of, route

NOON = datetime.fromisoformat("2026-05-04T12:00:00+00:00")


def config(**settings):
    channels = [{"name": "desk", "type": "desktop"}, {"name": "phone", "type": "desktop"}]
    return msgspec.convert({"channels": channels, "repeat": 0.0, **settings}, NotifyConfig)


def alert(number=1, *, severity="warning", rule="loss_spike", state="raised", run="r", at=NOON):
    return Alert(
        id=f"{rule}:{number}", rule=rule, severity=severity, state=state, run=run, step=number, message="The loss jumped.",
        advice="Look at the batch.", time=int(at.timestamp() * 1e9),
    )  # fmt: skip


def deliver(settings, *events, state=None, at=NOON):
    state, made = state or Outgoing(), []
    for event in events:
        message = message_of(event, state)
        if message is not None:
            over = isinstance(event, Alert) and event.state == "cleared"
            made += [(one.channel, one.message.rule) for one in route(message, settings, state, at, over=over)]
    return made


def test_without_routes_warnings_and_ends_go_everywhere_and_notes_nowhere():
    """The plainest configuration works."""
    ended = RunEnded(run="r", outcome="failed", time=int(NOON.timestamp() * 1e9))
    assert deliver(config(), alert(), alert(2, severity="info"), ended) == [
        ("desk", "loss_spike"), ("phone", "loss_spike"), ("desk", "run_failed"), ("phone", "run_failed"),
    ]  # fmt: skip


def test_routes_choose_by_severity_rule_run_and_outcome():
    """A message takes every route that fits, a channel only once."""
    routes = [
        {"channels": ["phone"], "severities": ["critical"]},
        {"channels": ["phone"], "rules": ["non_*"], "outcomes": ["lost"]},
        {"channels": ["desk"], "runs": ["exp-*"], "outcomes": []},
    ]
    settings = config(routes=routes)
    assert deliver(settings, alert(1), alert(2, severity="critical", rule="non_finite")) == [("phone", "non_finite")]
    assert deliver(settings, alert(3, run="exp-1")) == [("desk", "loss_spike")]
    for outcome, expected in (("lost", [("phone", "run_lost")]), ("stopped", []), ("completed", [("phone", "run_completed")])):
        assert deliver(settings, RunEnded(run="exp-1", outcome=outcome, time=int(NOON.timestamp() * 1e9))) == expected


def test_an_alert_is_told_once_and_again_only_when_it_gets_more_severe():
    """Updates of the same severity are no news; nor is the same event twice."""
    state = Outgoing()
    settings = config(routes=[{"channels": ["desk"]}])
    events = [
        alert(),
        alert(),
        alert(state="updated"),
        alert(state="updated", severity="critical"),
        alert(state="updated", severity="critical"),
    ]
    assert deliver(settings, *events, state=state) == [("desk", "loss_spike")] * 2
    assert deliver(settings, alert(state="cleared"), state=state) == []


def test_that_an_alert_is_over_is_told_where_a_route_wants_it():
    """And only when it was told before."""
    settings = config(routes=[{"channels": ["desk"], "cleared": True}])
    assert deliver(settings, alert(state="cleared")) == []
    assert deliver(settings, alert(), alert(state="cleared")) == [("desk", "loss_spike")] * 2


def test_the_same_rule_on_the_same_run_is_not_told_again_for_a_while():
    """Another run is; a more severe one is, too."""
    settings, state = config(routes=[{"channels": ["desk"]}], repeat=900.0), Outgoing()
    assert (
        deliver(settings, alert(1), alert(2), alert(3, run="other"), alert(4, severity="critical"), state=state)
        == [("desk", "loss_spike")] * 3
    )
    later = NOON + timedelta(seconds=901)
    assert deliver(settings, alert(5, at=later), state=state, at=later) == [("desk", "loss_spike")]


def test_more_than_the_limit_becomes_one_summary_when_there_is_room_again():
    """Twelve alerts, a limit of ten: ten, then one with the two that are left."""
    settings, state = config(routes=[{"channels": ["desk"]}], limit=10, period=600.0), Outgoing()
    assert len(deliver(settings, *(alert(number) for number in range(12)), state=state)) == 10
    assert list(due(settings, state, NOON + timedelta(seconds=599))) == []
    (summed,) = due(settings, state, NOON + timedelta(seconds=601))
    assert summed.message.title == "2 messages came faster than the limit"
    assert list(due(settings, state, NOON + timedelta(seconds=602))) == []


@pytest.mark.parametrize(
    ("begin", "end", "quiet_at", "loud_at"), [("22:00", "07:00", "02:00", "07:00"), ("13:00", "14:00", "13:59", "14:00")]
)
def test_quiet_hours_hold_back_all_but_critical_and_end_in_a_summary(begin, end, quiet_at, loud_at):
    """Over midnight, too. The worst stands first."""
    settings, state = config(routes=[{"channels": ["desk"]}], quiet_from=begin, quiet_until=end), Outgoing()
    night = datetime.fromisoformat(f"2026-05-05T{quiet_at}:00+00:00")
    events = [alert(1, at=night), alert(2, rule="overfit", at=night), alert(3, rule="nan", severity="critical", at=night)]
    assert deliver(settings, *events, state=state, at=night) == [("desk", "nan")]
    assert list(due(settings, state, night)) == []
    (summed,) = due(settings, state, datetime.fromisoformat(f"2026-05-05T{loud_at}:00+00:00"))
    assert summed.message.title == "2 messages in quiet hours"


def test_history_is_not_told():
    """A plugin that starts at the beginning of a journal wakes nobody."""
    assert deliver(config(max_age=3600.0), alert(at=NOON - timedelta(hours=2))) == []


def test_a_message_names_rule_run_step_and_advice():
    """In two lines."""
    message = of_alert(alert(1200))
    assert message.title == "warning: loss_spike in r at step 1,200"
    assert message.text == "The loss jumped.\nLook at the batch."


def test_the_state_comes_back_from_storage():
    """As msgpack has it."""
    settings, state = config(routes=[{"channels": ["desk"]}], limit=1), Outgoing()
    deliver(settings, alert(1), alert(2), state=state)
    again = msgspec.convert(msgspec.msgpack.decode(msgspec.msgpack.encode(msgspec.to_builtins(state))), Outgoing)
    assert again == state
    assert deliver(settings, alert(1), state=again) == []
