"""D7: a training process that falls silent is a lost run, with what is known of why; one that comes back is not."""

from __future__ import annotations

import pytest

from tests.broker.broker_bench import body, step
from trainbus.bus import events, wire


def run_started(bench, source: str = "s", run: str = "r", **hello) -> None:
    bench.hello(source, run, owner=True, host="node7", pid=4242, **hello)
    bench.publish(source, body(events.RunStarted(name=run, host="node7", pid=4242), source, 0, run), step(source, 1, run))


def ends(bench) -> list[events.RunEnded]:
    return bench.history(kinds=["run_ended"])


def alerts(bench) -> list[events.Alert]:
    return bench.history(kinds=["alert"])


def test_d7_a_silent_owner_is_a_lost_run_with_what_is_known_of_why(bench):
    run_started(bench)
    bench.say(wire.Beat(source="s", step=41, rss=3 * 2**30))
    bench.tick(14.5)
    assert ends(bench) == []
    bench.tick(1.0)
    (ended,) = ends(bench)
    assert (ended.outcome, ended.run, ended.step) == ("lost", "r", 41)
    for known in ("last step 41", "3,072 MiB", "node7", "4242", "no sign of life for 15 s"):
        assert known in ended.reason
    (alert,) = alerts(bench)
    assert (alert.id, alert.rule, alert.severity, alert.state) == ("lost_run:r:s", "lost_run", "critical", "raised")
    assert bench.run().state == "lost"
    bench.tick(60)
    assert len(ends(bench)) == 1, "it is said once"


@pytest.mark.parametrize("sign", ["beat", "events", "duplicate"])
def test_d7_any_message_is_a_sign_of_life(bench, sign):
    run_started(bench)
    for seq in range(2, 10):
        bench.tick(10)
        match sign:
            case "beat":
                bench.say(wire.Beat(source="s"))
            case "events":
                bench.publish("s", step("s", seq), first=seq)
            case "duplicate":
                bench.publish("s", step("s", 1), first=1)
    assert ends(bench) == []


def test_d7_a_run_that_is_heard_again_is_not_lost_any_more(bench):
    run_started(bench)
    bench.tick(16)
    assert bench.run().state == "lost"
    bench.publish("s", step("s", 2), first=2)
    raised, cleared = alerts(bench)
    assert (raised.id, raised.state, cleared.id, cleared.state) == (cleared.id, "raised", raised.id, "cleared")
    assert bench.run().state == "running"
    bench.tick(16)
    assert len(ends(bench)) == 2, "and it can be lost again"


def test_d7_a_new_process_of_the_same_run_takes_the_loss_back(bench):
    """The trainer crashed and was started again: a new source, the same run."""
    run_started(bench)
    bench.tick(16)
    bench.hello("s2", owner=True)
    bench.commit()
    assert [alert.state for alert in alerts(bench)] == ["raised", "cleared"]
    assert bench.run().state == "running"


def test_d7_a_restarted_process_replaces_the_one_before_it(bench):
    """Its predecessor's silence means nothing from then on."""
    run_started(bench)
    bench.tick(10)
    bench.hello("s2", owner=True)
    for _ in range(4):
        bench.say(wire.Beat(source="s2"))
        bench.tick(10)
    assert ends(bench) == []


def test_d7_bye_ends_liveness_also_across_a_restart_of_the_broker(bench):
    run_started(bench)
    bench.say(wire.Bye(source="s"))
    bench.tick(60)
    bench.restart()
    bench.tick(60)
    assert ends(bench) == []


def test_d7_a_run_that_has_ended_is_never_lost(bench):
    run_started(bench)
    bench.publish("s", body(events.RunEnded(outcome="completed"), "s", 2), first=2)
    bench.tick(60)
    bench.restart()
    bench.tick(60)
    (ended,) = ends(bench)
    assert (ended.outcome, bench.run().state) == ("completed", "completed")


def test_d7_other_publishers_may_be_silent(bench):
    """A plugin that has nothing to say is no training process."""
    bench.hello("plugin", owner=False)
    bench.publish("plugin", step("plugin", 0))
    bench.tick(60)
    assert ends(bench) == []


def test_d7_draining_a_dead_source_neither_revives_nor_loses_its_run(bench):
    """Somebody else sends what the dead process left: its run stays lost, and the drainer owes no signs of life."""
    run_started(bench)
    bench.tick(16)
    bench.hello("s", owner=True, draining=True, peer=b"drainer")
    bench.publish("s", step("s", 2), first=2, peer=b"drainer")
    bench.tick(60)
    assert bench.run().state == "lost"
    assert len(ends(bench)) == 1


def test_d7_a_drained_end_says_that_the_run_was_not_lost_after_all(bench):
    """The process had ended in order while the broker was away; only its last words came late."""
    run_started(bench)
    bench.tick(16)
    bench.hello("s", draining=True)
    bench.publish("s", body(events.RunEnded(outcome="completed"), "s", 2), first=2)
    assert bench.run().state == "completed"
    assert [alert.state for alert in alerts(bench)] == ["raised", "cleared"]


def test_d7_after_a_restart_of_the_broker_running_runs_get_the_whole_time_before_they_are_lost(bench):
    """Also those that are never heard again: they may have died together with the broker."""
    run_started(bench)
    bench.tick(10)
    bench.restart()
    bench.tick(14)
    assert ends(bench) == []
    bench.tick(2)
    (ended,) = ends(bench)
    assert ended.outcome == "lost"
    assert "not heard since the broker started" in ended.reason
    assert "node7" in ended.reason


def test_d7_a_loss_survives_a_restart_and_can_be_taken_back_after_it(bench):
    run_started(bench)
    bench.tick(16)
    bench.restart()
    bench.tick(60)
    assert len(ends(bench)) == 1
    bench.hello("s", owner=True)
    bench.commit()
    assert bench.run().state == "running"
    assert [alert.state for alert in alerts(bench)] == ["raised", "cleared"]


def test_d7_after_a_pause_of_the_broker_itself_nobody_is_lost_at_once(bench):
    """SIGSTOP or a suspended machine: the signs of life lie unread in the socket."""
    run_started(bench)
    bench.now += 3_600
    bench.tick()
    assert ends(bench) == []
    bench.tick(14)
    assert ends(bench) == []
    bench.tick(2)
    assert len(ends(bench)) == 1


def test_d7_an_owner_that_never_sent_an_event_can_be_lost(bench):
    bench.hello("s", run="silent", owner=True)
    bench.tick(16)
    assert bench.run("silent").state == "lost"


def test_status_tells_each_source_its_silence_and_its_last_figures(bench):
    run_started(bench)
    bench.say(wire.Beat(source="s", step=9, rss=77))
    bench.tick(4)
    (status,) = bench.ask(wire.Status(), wire.BrokerStatus).sources
    assert (status.source, status.run, status.host, status.pid, status.owner) == ("s", "r", "node7", 4242, True)
    assert (status.expected, status.state, status.last_step, status.rss, status.silent_for) == (2, "live", 9, 77, 4.0)
    bench.tick(16)
    assert bench.ask(wire.Status(), wire.BrokerStatus).sources[0].state == "lost"
