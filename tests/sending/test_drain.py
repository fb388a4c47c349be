"""Orphaned spools are sent by somebody else (D4)."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sending.stand_in import StandIn, wait_for
from trainbus.bus.drain import DrainReport, drain_orphans, orphans, spools
from trainbus.bus.events import Step
from trainbus.bus.publisher import Publisher
from trainbus.errors import UnreachableError

Make = Callable[..., Publisher]


def abandon(make: Make, count: int, **options) -> str:
    """A publisher that ends while nobody listens: as after kill -9, its spool is all there is."""
    publisher = make(router="tcp://127.0.0.1:9", **options)
    for number in range(count):
        publisher.publish(Step(step=number, metrics={"loss": 1.0}))
    assert not publisher.close(0.0)
    return publisher.source


def test_orphans_are_sent_wholly_and_removed(make: Make, root: Path) -> None:
    """D4: each event once, as its own source, without passing for a living owner."""
    sources = {abandon(make, 3_000, owner=True, name="me"): 3_000, abandon(make, 1): 1}
    said: list[DrainReport] = []
    with StandIn(root) as broker:
        reports = drain_orphans(root, progress=said.append)
        for source, count in sources.items():
            assert [event.step for event in broker.events_of(source)] == list(range(count))
        assert all(hello.draining and not hello.owner for hello in broker.hellos)
        assert broker.byes == []
    assert {(report.source, report.acknowledged, report.done) for report in reports} == {(s, n, True) for s, n in sources.items()}
    assert said[-1].acknowledged == said[-1].published
    assert spools(root) == []


def test_a_living_publisher_is_left_alone(make: Make, root: Path) -> None:
    publisher = make(router="tcp://127.0.0.1:9")
    publisher.publish(Step(step=1))
    with StandIn(root) as broker:
        assert orphans(root) == []
        assert drain_orphans(root) == []
        assert broker.hellos == []
    (mine,) = spools(root)
    assert (mine.held, mine.waiting) == (True, 1)


def test_the_next_publisher_drains_in_the_background(make: Make, root: Path) -> None:
    source = abandon(make, 100)
    with StandIn(root) as broker:
        make()
        wait_for(lambda: len(broker.events_of(source)) == 100)
        wait_for(lambda: orphans(root) == [])


def test_what_the_broker_has_already_is_not_sent_twice(make: Make, root: Path) -> None:
    """D3: the drained copy of a spool that was acknowledged without its owner hearing of it."""
    source = abandon(make, 100)
    shutil.copytree(root / "spool" / source, root / "copy")
    with StandIn(root) as broker:
        drain_orphans(root)
        shutil.move(root / "copy", root / "spool" / source)
        (report,) = drain_orphans(root)
        assert report.done
        assert len(broker.events_of(source)) == 100
    assert spools(root) == []


def test_without_a_broker_orphans_stay_and_the_error_says_what_to_do(make: Make, root: Path) -> None:
    assert drain_orphans(root) == []
    abandon(make, 10)
    with pytest.raises(UnreachableError, match="trainbus up"):
        drain_orphans(root)
    (report,) = drain_orphans(root, "tcp://127.0.0.1:9", patience=0.2)
    assert (report.done, report.acknowledged) == (False, 0)
    assert "acknowledged nothing" in report.problem
    assert len(orphans(root)) == 1


def test_a_publisher_that_is_never_done_drains_all_the_same(make: Make, root: Path) -> None:
    """D4: in a busy training some event is always on its way; what dead processes left does not wait for a pause."""
    source = abandon(make, 100)
    enough = threading.Event()
    with StandIn(root) as broker:
        busy = make()

        def train() -> None:
            while not enough.is_set():
                for _ in range(200):
                    busy.publish(Step(step=1, metrics={}))
                enough.wait(0.0001)

        training = threading.Thread(target=train)
        training.start()
        try:
            wait_for(lambda: len(broker.events_of(source)) == 100)
        finally:
            enough.set()
            training.join()


def test_an_interrupted_drain_goes_on_where_it_was(make: Make, root: Path) -> None:
    source = abandon(make, 5_000)
    stop = threading.Event()
    with StandIn(root) as broker:
        broker.take = 1
        (first,) = drain_orphans(root, progress=lambda _: stop.set(), stop=stop)
        broker.take = None
        assert not first.done
        assert 0 < first.acknowledged < 5_000
        (left,) = spools(root)
        assert left.waiting == 5_000 - first.acknowledged
        (second,) = drain_orphans(root)
        assert second.done
        assert [event.step for event in broker.events_of(source)] == list(range(5_000))


def test_two_drainers_share_the_work_and_send_nothing_twice(make: Make, root: Path) -> None:
    for _ in range(6):
        abandon(make, 200)
    reports: list[DrainReport] = []
    with StandIn(root) as broker:
        threads = [threading.Thread(target=lambda: reports.extend(drain_orphans(root))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        drain_orphans(root)  # one may have looked away while the other looked
        assert len(broker.all) == 1_200
        assert len(broker.bodies) == 6
    assert spools(root) == []


def test_a_damaged_spool_is_listed_and_reported_and_the_others_are_drained(make: Make, root: Path) -> None:
    bad, good = abandon(make, 10), abandon(make, 10)
    (root / "spool" / bad / "meta").write_bytes(b"nonsense")
    assert {(info.source, bool(info.problem)) for info in spools(root)} == {(bad, True), (good, False)}
    with StandIn(root):
        reports = {report.source: report for report in drain_orphans(root)}
    assert "no readable spool" in reports[bad].problem
    assert reports[good].done


def test_events_that_were_only_in_the_memory_of_a_dead_process_are_declared(make: Make, root: Path) -> None:
    """D3: the spool counts what was published, so that the end of it can't be lost in silence."""
    source = abandon(make, 10)
    (segment,) = (root / "spool" / source).glob("*.seg")
    content = segment.read_bytes()
    segment.write_bytes(content[: len(content) - 30])
    with StandIn(root) as broker:
        (report,) = drain_orphans(root)
        assert report.done
        assert [(gap.first, gap.last) for gap in broker.gaps] == [(9, 9)]
