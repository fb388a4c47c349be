"""Policies: what an alert sets off, once, or would have."""

import math

import pytest

from tests.plugins.anomaly.feeding import SECOND, steps
from trainbus.bus.events import Alert, CommandResult, Memory, Step, System
from trainbus.plugins.anomaly.plugin import AnomalyPlugin
from trainbus.testing.context import MemoryContext, PluginHarness


def started(*actions, context=None, rules=None):
    config = {"actions": list(actions), "figures": {"enabled": False}, "rules": rules or {}}
    harness = PluginHarness(AnomalyPlugin(), config=config, context=context)
    harness.start()
    return harness


def sent(harness):
    return [(command.run, command.verb, command.arguments) for command in harness.context.commands]


def broken(*, last=math.nan):
    values = [1.0 + 0.001 * (number % 7) for number in range(40)]
    return steps([*values, last, last], learning_rate=[1e-4] * 42)


def test_without_a_policy_nothing_is_done():
    """Off by default."""
    harness = started()
    harness.feed(*broken())
    assert sent(harness) == []


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"do": "pause"}, ("r", "pause", {})),
        ({"do": "stop", "rules": ["non_finite"]}, ("r", "stop", {})),
        ({"do": "save"}, ("r", "save", {})),
        ({"do": "evaluate"}, ("r", "evaluate", {})),
        ({"do": "set_learning_rate", "factor": 0.5}, ("r", "set", {"learning_rate": 5e-5})),
    ],
)
def test_a_policy_sends_its_command_once_and_the_alert_tells_it(policy, expected):
    """The reason names the rule; the second NaN asks for nothing again."""
    harness = started(policy)
    alerts = [event for event in harness.feed(*broken()) if isinstance(event, Alert)]
    assert sent(harness) == [expected]
    assert "non_finite" in harness.context.commands[0].reason
    told = [alert for alert in alerts if alert.evidence.get("actions")]
    assert told[0].state == "updated"
    assert told[0].message.startswith("Asked for: ")


def test_a_dry_run_tells_what_it_would_have_done():
    """And does nothing."""
    harness = started({"do": "stop", "dry_run": True})
    alerts = [event for event in harness.feed(*broken()) if isinstance(event, Alert)]
    assert sent(harness) == []
    assert [alert.message for alert in alerts if alert.evidence.get("actions")] == ["Dry run: would have asked for: stop."]


@pytest.mark.parametrize(("policy", "said"), [({"dry_run": True}, "Dry run: would have asked for: set learning_rate = 5e-05."), ({}, None)])
def test_every_action_is_an_event_of_its_own(policy, said):
    """One that is taken is its command; one that is not is a result of a command that nobody was sent."""
    harness = started({"do": "set_learning_rate", **policy})
    results = [event for event in harness.feed(*broken()) if isinstance(event, CommandResult)]
    assert [one.reason for one in results] == ([said] if said else [])
    assert len(sent(harness)) == (not said)
    if said:
        assert (results[0].run, results[0].verb, results[0].state) == ("r", "set", "refused")
        assert results[0].result["alert"].startswith("non_finite:loss:r:")


def test_w_01_stop_on_divergence_half_the_rate_on_a_doubled_loss_and_pause_when_memory_is_nearly_full():
    """The three wishes as policies: a dry run lists them, live each happens once."""
    policies = [
        {"do": "stop", "rules": ["divergence"]},
        {"do": "set_learning_rate", "rules": ["loss_spike"], "severities": ["warning"], "min_score": 1.0},
        {"do": "pause", "rules": ["memory_full"]},
    ]
    calm = [1.0 + 0.001 * (number % 7) for number in range(60)]
    losses = [*calm, 2.5, *calm, *[3.0] * 80]
    memory = [System(run="r", time=500 * SECOND + number, memory=Memory(total=100, used=95)) for number in range(5)]
    expected = [("r", "set", {"learning_rate": 5e-5}), ("r", "stop", {}), ("r", "pause", {})]
    for dry in (True, False):
        harness = started(*(policy | {"dry_run": dry} for policy in policies), rules={"memory_full": {"enabled": True}})
        published = harness.feed(*steps(losses, learning_rate=[1e-4] * len(losses)), *memory)
        assert sent(harness) == ([] if dry else expected)
        listed = [(one.run, one.verb, one.result["arguments"]) for one in published if isinstance(one, CommandResult)]
        assert listed == (expected if dry else [])


def test_a_policy_may_ask_for_a_rule_a_severity_or_a_size():
    """A spike of +100 % halves the learning rate, a smaller one doesn't."""
    policy = {"do": "set_learning_rate", "rules": ["loss_spike"], "severities": ["warning"], "min_score": 1.0}
    for last, expected in ((1.5, []), (2.5, [("r", "set", {"learning_rate": 5e-5})])):
        harness = started(policy)
        harness.feed(*broken(last=last))
        assert sent(harness) == expected


def test_without_a_known_learning_rate_the_alert_says_that_nothing_was_done():
    """No rate was ever logged."""
    harness = started({"do": "set_learning_rate"})
    alerts = [event for event in harness.feed(Step(run="r", step=1, time=SECOND, metrics={"loss": math.nan})) if isinstance(event, Alert)]
    assert sent(harness) == []
    assert "not known" in alerts[-1].message


def test_a_restart_repeats_no_action():
    """What was done is in the state."""
    context = MemoryContext()
    feed = broken()
    started({"do": "pause"}, context=context).feed(*feed[:-1])
    again = started({"do": "pause"}, context=context)
    again.feed(feed[-1])
    assert sent(again) == [("r", "pause", {})]


def test_a_policy_that_may_act_again_waits_its_pause():
    """Two incidents, 60 steps apart."""
    values = [1.0 + 0.001 * (number % 7) for number in range(40)]
    for pause, count in ((500, 1), (50, 2)):
        harness = started({"do": "save", "severities": ["warning"], "once": False, "pause": pause})
        harness.feed(*steps([*values, 3.0, *values, *values[:20], 3.0, *values]))
        assert len(sent(harness)) == count


def test_one_incident_sets_off_one_action_however_often_it_is_updated():
    """Also where a policy may act again at once."""
    values = [1.0 + 0.001 * (number % 7) for number in range(40)]
    harness = started({"do": "save", "severities": ["warning"], "once": False, "pause": 0})
    published = harness.feed(*steps([*values, 3.0, 6.0, 12.0, 30.0]))
    assert len([event for event in published if isinstance(event, Alert)]) > 3
    assert len(sent(harness)) == 1
