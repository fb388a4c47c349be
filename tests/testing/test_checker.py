"""The history checker: silent on histories that keep the contract, and loud, in words, on each way to break it."""

from __future__ import annotations

import pytest

from trainbus.bus.events import Alert, Gap, RunEnded, Step, encode
from trainbus.testing.checker import HistoryChecker

COUNT = 6


def step(seq, source="s", run="a"):
    return encode(Step(run=run, source=source, seq=seq, step=seq))


BODIES = {seq: step(seq) for seq in range(COUNT)}
HISTORY = list(enumerate(BODIES.values()))


def check(journal=HISTORY, delivered=None, **reader):
    checker = HistoryChecker()
    checker.published("s", COUNT, BODIES)
    checker.journal(journal)
    checker.reader("reader", journal if delivered is None else delivered, **reader)
    return checker.check()


def without(records, *places):
    return [record for place, record in enumerate(records) if place not in places]


def swapped(records, one, other):
    records = list(records)
    records[one], records[other] = records[other], records[one]
    return records


def test_a_whole_history_is_fine_and_counted():
    findings = check()
    assert findings.ok
    assert (findings.published, findings.journaled, findings.delivered) == (COUNT, COUNT, {"reader": COUNT})
    assert findings.explain().startswith("Nothing lost, nothing twice, all in order: 6 published, 6 in the journal")


def test_events_of_nobody_in_particular_do_not_disturb():
    """The broker's own events have no seq; other sources were not declared; heartbeats have no offset."""
    journal = [*HISTORY, (6, encode(RunEnded(run="a", outcome="lost"))), (7, encode(Alert(run="a", source="plugin", seq=40)))]
    assert check(journal, [*journal, (-1, b"heartbeat")]).ok


def renumbered(bodies):
    return list(enumerate(bodies))


GAP = encode(Gap(missing_source="s", first_seq=2, last_seq=3, reason="disk full"))


@pytest.mark.parametrize(
    ("journal", "kind", "text"),
    [
        (renumbered(step(seq) for seq in (0, 1, 4, 5)), "lost", "seqs 2 to 3 of source s: published, not there"),
        (renumbered(step(seq) for seq in (0, 1, 2, 2, 3, 4, 5)), "duplicated", "seq 2 of source s"),
        (renumbered(step(seq) for seq in (0, 2, 1, 3, 4, 5)), "disordered", "seq 1 of source s (offset 2) comes after seq 2"),
        (renumbered(step(seq) for seq in range(7)), "invented", "only 6 were published"),
        (renumbered([*list(BODIES.values())[:5], encode(Step(run="a", source="s", seq=5, step=99))]), "changed", "seq 5"),
        (renumbered([*BODIES.values(), b"\xc1"]), "unreadable", "offset 6"),
        (renumbered([*BODIES.values(), GAP]), "invented", "gap event says that seq 2"),
        (swapped(HISTORY, 4, 5), "disordered", "offset 4 comes after 5"),
        ([*HISTORY, HISTORY[-1]], "duplicated", "offset 5 is there twice"),
    ],
)
def test_what_the_journal_did_wrong_is_named(journal, kind, text):
    findings = check(journal)
    assert kind in {finding.kind for finding in findings.findings}
    assert any(finding.where == "journal" and text in finding.what for finding in findings.findings), findings.explain()
    assert text in findings.explain()


def test_a_gap_event_explains_what_is_missing_and_nothing_more():
    """Events 2 and 3 are excused; that 5 is missing as well is not."""
    excused = check(renumbered([step(0), step(1), GAP, step(4), step(5)]))
    assert excused.ok
    assert excused.explained == 2
    findings = check(renumbered([step(0), step(1), GAP, step(4)]))
    assert [finding.kind for finding in findings.findings] == ["lost"]
    assert "seq 5 of source s" in findings.explain()


@pytest.mark.parametrize(
    ("delivered", "kind", "text"),
    [
        (without(HISTORY, 2, 3), "lost", "offsets 2 to 3 (2 of them) are in the journal and were never delivered"),
        (without(HISTORY, 5), "lost", "offsets 5"),
        ([*HISTORY, HISTORY[0]], "duplicated", "offset 0 was delivered again"),
        (swapped(HISTORY, 1, 2), "disordered", "offset 1 came after 2"),
        ([*HISTORY, (99, b"?")], "invented", "offset 99"),
        ([*HISTORY[:5], (5, b"?")], "changed", "offset 5"),
    ],
)
def test_what_a_reader_was_denied_or_given_twice_is_named(delivered, kind, text):
    findings = check(delivered=delivered)
    assert [finding.kind for finding in findings.findings] == [kind]
    assert text in findings.explain()
    assert "reader" in findings.explain()


def test_a_reader_owes_only_what_it_asked_for():
    """Filters and the range from where it began to where it ended."""
    journal = renumbered(
        [step(0), step(1), step(2), step(3), step(4), step(5), step(0, "other", run="b"), encode(Alert(source="p", seq=0))]
    )
    assert check(journal, journal[2:5], kinds=["step"], after=1, upto=4).ok
    assert check(journal, journal[6:7], runs=["b"]).ok
    assert not check(journal, journal[5:7], runs=["b"]).ok


def test_a_plugin_may_get_events_again_but_never_skip_one():
    """At least once: after a crash they come again from the cursor on. Moving the cursor before the hook has run loses the one between."""
    assert check(delivered=[*HISTORY[:4], *HISTORY[2:]], at_least_once=True).ok
    assert not check(delivered=[*HISTORY[:4], *HISTORY[2:]]).ok
    findings = check(delivered=[*HISTORY[:3], *HISTORY[4:]], at_least_once=True)
    assert {finding.kind for finding in findings.findings} == {"disordered", "lost"}


def test_many_findings_are_counted_and_the_first_are_spelt_out():
    findings = check(delivered=[record for record in HISTORY for _ in range(20)])
    assert len(findings.findings) == COUNT * 19
    assert "and 94 more" in findings.explain()


def test_a_finding_says_how_many_events_it_is_about():
    """A range of lost events is one finding in words and several in the count."""
    findings = check(journal=without(HISTORY, 1, 2, 4), delivered=without(HISTORY, 0, 1, 2, 4))
    assert [finding.count for finding in findings.findings if finding.where == "journal"] == [2, 1]
    assert findings.count("lost", where="journal") == 3
    assert findings.count("lost") == 4
    assert findings.count("duplicated") == 0
