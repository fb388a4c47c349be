"""The publisher in real processes and over real sockets: D1, D2, D3, D9."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.sending.conftest import SMALL, Disk
from tests.sending.stand_in import StandIn, wait_for
from trainbus.bus.config import BusConfig
from trainbus.bus.drain import spools
from trainbus.bus.events import Alert, Command, Event, Gap, Metric, Phase, Sample, Step
from trainbus.bus.publisher import Publisher

Make = Callable[..., Publisher]
Warnings = Callable[[str], int]


@pytest.fixture
def broker(root: Path) -> Iterator[StandIn]:
    with StandIn(root) as stand_in:
        yield stand_in


def steps(publisher: Publisher, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        publisher.publish(Step(step=number, metrics={"loss": 1.0}))


def step_numbers(broker: StandIn, source: str) -> list[int]:
    return [event.step for event in broker.events_of(source) if isinstance(event, Step)]


def run_python(code: str, root: Path, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRAINBUS_HOME": str(root)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=60, **options
    )


# --- events arrive -----------------------------------------------------------------------------------


def test_events_arrive_complete_numbered_and_in_order(make: Make, broker: StandIn) -> None:
    publisher = make(name="me", owner=True)
    steps(publisher, 5_000)
    assert publisher.flush(90)
    got = broker.events_of(publisher.source)
    assert [event.seq for event in got] == list(range(5_000)) == [event.step for event in got]
    assert {(event.run, event.source) for event in got} == {("run-1", publisher.source)}
    assert all(a.time <= b.time for a, b in pairwise(got))
    assert (broker.hellos[0].owner, broker.hellos[0].pid, broker.hellos[0].name) == (True, os.getpid(), "me")
    assert publisher.stats().acknowledged == 5_000


def test_an_event_of_another_run_keeps_its_run(make: Make, broker: StandIn) -> None:
    publisher = make()
    publisher.publish(Alert(run="other"))
    assert publisher.flush(90)
    assert broker.all[0].run == "other"


def test_a_broker_that_starts_later_is_found_by_its_connection_file(make: Make, root: Path) -> None:
    publisher = make()
    steps(publisher, 100)
    with StandIn(root) as broker:
        wait_for(lambda: publisher.stats().acknowledged == 100)
        assert step_numbers(broker, publisher.source) == list(range(100))


def test_a_broker_that_moves_to_another_port_is_followed(make: Make, root: Path) -> None:
    publisher = make()
    with StandIn(root):
        steps(publisher, 10)
        assert publisher.flush(90)
    with StandIn(root, journal="journal-2") as second:
        steps(publisher, 10, first=10)
        wait_for(lambda: step_numbers(second, publisher.source)[-10:] == list(range(10, 20)))


def test_a_broker_that_restarts_on_its_port_gets_each_event_once(make: Make, broker: StandIn) -> None:
    """D3: reconnection greets again, and goes on from what is committed."""
    publisher = make(router=broker.endpoint)
    for round_ in range(3):
        steps(publisher, 500, first=500 * round_)
        broker.stop()
        steps(publisher, 10, first=10_000 + round_)
        broker.start()
    wait_for(lambda: publisher.stats().acknowledged == 1_530)
    assert [event.seq for event in broker.events_of(publisher.source)] == list(range(1_530))


def test_lost_batches_are_sent_again_without_duplicates(make: Make, broker: StandIn) -> None:
    """D3: the stand-in takes each seq once and only in order; losing batches changes nothing in what it has."""
    publisher = make()
    broker.lose = 3
    for number in range(20):
        steps(publisher, 50, first=50 * number)
        publisher.flush(0.02)
    wait_for(lambda: publisher.stats().acknowledged == 1_000)
    assert step_numbers(broker, publisher.source) == list(range(1_000))


def test_heartbeats_tell_step_and_memory(make: Make, broker: StandIn) -> None:
    publisher = make()
    publisher.beat(step=7, state="training")
    wait_for(lambda: any(beat.step == 7 for beat in broker.beats))
    beat = broker.beats[-1]
    assert (beat.source, beat.state) == (publisher.source, "training")
    assert (beat.rss or 0) > 1_000_000


def test_commands_reach_the_owner_once(root: Path, make: Make, broker: StandIn) -> None:
    got: list[Command] = []
    make(owner=True, on_command=got.append)
    wait_for(lambda: broker.hellos)
    for identity in ("a", "a", "b"):
        broker.deliver(Command(id=identity, verb="pause"))
    wait_for(lambda: [command.id for command in got] == ["a", "b"])


def test_a_command_handler_that_raises_does_not_stop_the_publisher(make: Make, broker: StandIn, warnings: Warnings) -> None:
    def fail(command: Command) -> None:
        raise RuntimeError("boom")

    publisher = make(on_command=fail)
    wait_for(lambda: broker.hellos)
    broker.deliver(Command(id="a", verb="pause"))
    wait_for(lambda: warnings("on_command failed"))
    steps(publisher, 3)
    assert publisher.flush(90)


def test_flush_interval_zero_and_urgent_events_do_not_wait_for_the_tick(make: Make, broker: StandIn) -> None:
    """D1: with a tick of ten seconds an alert arrives all the same; with none, everything does."""
    slow = make(settings=BusConfig(spool_segment_bytes=65_536, flush_interval=10.0))
    wait_for(lambda: slow.stats().connected)
    slow.publish(Alert(id="x"))
    wait_for(lambda: broker.events_of(slow.source), seconds=8)
    immediate = make(settings=BusConfig(spool_segment_bytes=65_536, flush_interval=0))
    steps(immediate, 3)
    wait_for(lambda: len(broker.events_of(immediate.source)) == 3)


# --- D1: never blocks, never raises ------------------------------------------------------------------


def test_without_a_broker_everything_stays_in_the_spool(make: Make, root: Path) -> None:
    publisher = make()
    steps(publisher, 200)
    assert not publisher.flush(20)
    assert not publisher.close(20)
    (left,) = spools(root)
    assert (left.run, left.published, left.waiting, left.held) == ("run-1", 200, 200, False)


def test_close_does_not_wait_for_a_broker_that_is_dead(make: Make, broker: StandIn) -> None:
    """The stated time is an hour here; a stale connection file must not use it up."""
    publisher = make()
    steps(publisher, 10)
    assert publisher.flush(90)
    broker.stop()
    steps(publisher, 10)
    assert not publisher.close(3600)


def test_close_returns_after_its_timeout_when_the_broker_does_not_acknowledge(make: Make, broker: StandIn) -> None:
    publisher = make()
    wait_for(lambda: publisher.stats().connected)
    broker.mute = True
    steps(publisher, 10)
    assert not publisher.close(0.3)


def test_close_says_bye_and_removes_the_spool_when_everything_is_acknowledged(make: Make, broker: StandIn, root: Path) -> None:
    publisher = make()
    steps(publisher, 10)
    assert publisher.close(20)
    wait_for(lambda: broker.byes == [publisher.source])
    assert spools(root) == []
    assert publisher.close()


def test_a_full_disk_costs_no_event_while_a_broker_is_there_and_is_said_once(make: Make, broker: StandIn, warnings: Warnings) -> None:
    """D2: the ring in memory takes over."""
    publisher = make(allocate=Disk(full=True))
    broker.mute = True
    steps(publisher, 500)
    wait_for(lambda: warnings("only kept in memory"))
    broker.mute = False
    wait_for(lambda: publisher.stats().acknowledged == 500)
    assert step_numbers(broker, publisher.source) == list(range(500))
    assert warnings("only kept in memory") == 1


def test_a_really_full_disk_is_no_sigbus(root: Path) -> None:
    """D2: on a file system of 5 MiB; in a process of its own, which a SIGBUS would kill."""
    small = root / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(small)], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here; the tests with an injected ENOSPC stand for this one")
    try:
        done = run_python(
            """
            from trainbus.bus.config import BusConfig
            from trainbus.bus.publisher import Publisher
            from trainbus.bus.events import Step
            publisher = Publisher("full", settings=BusConfig(spool_segment_bytes=2**21, memory_events=1000))
            for number in range(100_000):
                publisher.publish(Step(step=number, metrics={"loss": 0.5}))
            stats = publisher.stats()
            assert stats.published == 100_000 and stats.errors == 0, stats
            assert stats.dropped > 0 and "No space" in stats.problem, stats
            publisher.close()
            """,
            small,
        )
        assert (done.returncode, done.stderr.count("can't be spooled")) == (0, 1), done.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_what_the_memory_ring_drops_is_declared_to_the_broker(make: Make, root: Path) -> None:
    """D2, D3: a full disk, no broker, more events than the ring holds."""
    publisher = make(allocate=Disk(full=True))
    steps(publisher, SMALL.memory_events + 250)
    stats = publisher.stats()
    assert (stats.dropped, stats.in_memory, stats.problem) == (250, SMALL.memory_events, "[Errno 28] No space left on device")
    with StandIn(root) as broker:
        wait_for(lambda: publisher.stats().acknowledged == stats.published)
        assert [(gap.first, gap.last) for gap in broker.gaps] == [(0, 249)]
        assert step_numbers(broker, publisher.source) == list(range(250, stats.published))


def test_a_spool_at_its_bound_goes_on_in_memory_and_returns_to_the_disk(make: Make, root: Path) -> None:
    publisher = make(settings=BusConfig(spool_segment_bytes=65_536, spool_bytes=131_072, memory_events=100_000))
    steps(publisher, 3_000)
    assert publisher.stats().in_memory > 0
    with StandIn(root) as broker:
        wait_for(lambda: publisher.stats().acknowledged == 3_000)
        assert step_numbers(broker, publisher.source) == list(range(3_000))
        steps(publisher, 10, first=3_000)
        wait_for(lambda: publisher.stats().in_memory == 0)
        assert publisher.stats().problem == ""


def test_a_home_that_can_not_be_written_costs_no_event(make: Make, root: Path, broker: StandIn) -> None:
    (root / "spool").write_text("a file where the directory should be")
    publisher = make()
    steps(publisher, 20)
    assert publisher.flush(90)
    assert step_numbers(broker, publisher.source) == list(range(20))


def test_publishing_after_close_is_ignored_and_said_once(make: Make, warnings: Warnings) -> None:
    publisher = make()
    publisher.close()
    steps(publisher, 3)
    assert warnings("published after close()") == 1
    assert publisher.stats().errors == 3


class Picky(Event, tag="picky"):
    """A kind of somebody else's, which can hold anything."""

    value: object = None


@pytest.mark.parametrize(
    "event",
    [
        Picky(value=object()),
        Picky(value=2**70),
        Step(step="five"),  # type: ignore[arg-type]
        Metric(name=b"\xff"),  # type: ignore[arg-type]
        Phase(name="x" * 2_000_000),
    ],
    ids=["object", "huge integer", "wrong type", "bytes", "larger than a segment"],
)
def test_an_event_that_can_not_be_kept_leaves_a_gap_in_its_place(make: Make, broker: StandIn, warnings: Warnings, event: Event) -> None:
    """D1, D3: publish does not raise, the journal says what is missing and why, and readers get nothing that they can't read."""
    publisher = make()
    steps(publisher, 1)
    publisher.publish(event)
    publisher.publish(event)
    steps(publisher, 1)
    assert publisher.flush(90)
    got = broker.events_of(publisher.source)
    assert [type(event) for event in got] == [Step, Gap, Gap, Step]
    assert isinstance(got[1], Gap)
    assert (got[1].missing_source, got[1].first_seq, got[1].last_seq) == (publisher.source, 1, 1)
    assert type(event).__name__ in got[1].reason
    assert warnings("event is lost") == 1


def test_lone_surrogates_arrive_escaped(make: Make, broker: StandIn) -> None:
    """Broken JSON files hold them; they must not cost the sample."""
    publisher = make()
    publisher.publish(Sample(prompt="\U0001f600 \ud83d", answer="ok"))
    assert publisher.flush(90)
    (sample,) = broker.all
    assert isinstance(sample, Sample)
    assert (sample.prompt, sample.answer, sample.seq) == ("\U0001f600 \\ud83d", "ok", 0)


def test_a_signal_handler_may_publish_at_any_moment(make: Make, broker: StandIn) -> None:
    """D1: the handler interrupts publish() in the same thread, where a plain lock would wait for itself."""
    publisher = make()
    fired = 0

    def handler(*_: object) -> None:
        nonlocal fired
        fired += 1
        publisher.publish(Metric(name="signal", value=float(fired)))

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        count = 0
        while fired < 200:
            steps(publisher, 50, first=count)
            count += 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert publisher.flush(90)
    got = broker.events_of(publisher.source)
    assert [event.seq for event in got] == list(range(count + fired))
    assert step_numbers(broker, publisher.source) == list(range(count))
    values = sorted(event.value for event in got if isinstance(event, Metric))  # a handler may interrupt a handler
    assert values == [float(n + 1) for n in range(fired)]


def test_an_interrupt_within_publish_leaves_numbering_whole(make: Make, broker: StandIn) -> None:
    """Ctrl-C passes through publish(); afterwards every seq is there once."""

    class Interrupt(BaseException):
        pass

    def handler(*_: object) -> None:
        raise Interrupt

    publisher = make()
    before = signal.signal(signal.SIGALRM, handler)
    interrupts = 0
    try:
        while interrupts < 100:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0003 + interrupts % 7 * 0.00005)
                while True:
                    publisher.publish(Step(step=1, metrics={"loss": 1.0}))
            except Interrupt:
                interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert publisher.flush(90)
    assert [event.seq for event in broker.events_of(publisher.source)] == list(range(publisher.stats().published))
    assert publisher.stats().errors == 0


def test_many_threads_may_publish(make: Make, broker: StandIn) -> None:
    publisher = make()

    def work(worker: int) -> None:
        for number in range(500):
            publisher.publish(Step(step=number, rank=worker))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert publisher.flush(90)
    got = broker.events_of(publisher.source)
    assert [event.seq for event in got] == list(range(4_000))
    for worker in range(8):
        assert [event.step for event in got if event.rank == worker] == list(range(500))


def test_the_owner_thread_survives_an_unexpected_error(
    make: Make, broker: StandIn, warnings: Warnings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = make()
    wait_for(lambda: publisher.stats().connected)
    real, failures = os.read, iter(range(1))

    def read(fd: int, size: int) -> bytes:
        if next(failures, None) is not None:
            raise RuntimeError("boom")
        return real(fd, size)

    monkeypatch.setattr("trainbus.bus.sender.os.read", read)
    wait_for(lambda: warnings("unexpected error"))
    steps(publisher, 5)
    assert publisher.flush(90)


# --- D2: kill -9 -------------------------------------------------------------------------------------


def test_a_training_begins_without_a_file_descriptor_and_is_connected_once_there_are_some(root: Path) -> None:
    """D1: no error, and no abort by libzmq, which ends the process when it finds no descriptor for its threads."""
    program = """
import os, resource, sys, time
from pathlib import Path
import trainbus
begin = trainbus.init
before = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, before[1]))
run = begin("x", run="x")
for step in range(100):
    run.step(step, loss=1.0)
time.sleep(0.7)  # the thread has met the broker's address by now, if it runs
resource.setrlimit(resource.RLIMIT_NOFILE, before)
end = time.monotonic() + 60
while run.stats().acknowledged < run.stats().published and time.monotonic() < end:
    time.sleep(0.02)
print(run.close(timeout=120.0), run.stats().dropped, run._publisher.source)
"""
    with StandIn(root) as broker:
        environment = {**os.environ, "TRAINBUS_HOME": str(root)}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        settled, dropped, source = done.stdout.split()
        assert (settled, dropped) == ("True", "0"), done.stderr
        assert [event.step for event in broker.events_of(source) if event.kind == "step"] == list(range(100))


@pytest.mark.parametrize("count", [0, 1, 5_000])
def test_kill_9_right_after_the_last_call_loses_nothing(root: Path, count: int) -> None:
    """D2: what publish() returned from is there after kill -9, and can be sent by somebody else."""
    done = run_python(
        f"""
        import os, signal
        from trainbus.bus.publisher import Publisher
        from trainbus.bus.events import Step
        publisher = Publisher("killed")
        for number in range({count}):
            publisher.publish(Step(step=number, metrics={{"loss": 0.5}}))
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        root,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = spools(root)
    assert (left.run, left.published, left.waiting, left.held) == ("killed", count, count, False)
    from trainbus.bus.drain import drain_orphans

    with StandIn(root) as broker:
        (report,) = drain_orphans(root)
        assert report.done
        assert step_numbers(broker, left.source) == list(range(count))


def test_a_process_that_just_ends_flushes_at_exit(root: Path, broker: StandIn) -> None:
    done = run_python(
        """
        from trainbus.bus.publisher import Publisher
        from trainbus.bus.events import Step
        publisher = Publisher("ends")
        for number in range(100):
            publisher.publish(Step(step=number))
        """,
        root,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(broker.all) == 100
    assert spools(root) == []


# --- D9: fork ----------------------------------------------------------------------------------------


def test_a_forked_child_publishes_nothing_and_says_so_once(make: Make, broker: StandIn) -> None:
    """D9: the child's copy is a no-op, the parent goes on, its spool stays its own."""
    publisher = make()
    steps(publisher, 10)
    read, write = os.pipe()

    def work() -> None:
        logging.getLogger("trainbus").addHandler(logging.StreamHandler(os.fdopen(write, "w")))
        steps(publisher, 5)
        publisher.close()
        os._exit(0 if publisher.forked else 1)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(20)
    os.close(write)
    said = os.read(read, 65_536).decode()
    os.close(read)
    assert child.exitcode == 0
    assert said.count("forked process") == 1
    steps(publisher, 10, first=10)
    assert publisher.flush(90)
    assert step_numbers(broker, publisher.source) == list(range(20))


def test_a_child_may_make_a_publisher_of_its_own(make: Make, broker: StandIn, root: Path) -> None:
    inherited = make()

    def work() -> None:
        own = Publisher("child", root=root, settings=SMALL)
        steps(own, 5)
        os._exit(0 if own.close(90) and inherited.forked else 1)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert len([event for event in broker.all if event.run == "child"]) == 5


def test_a_spool_is_an_orphan_only_once_its_owner_is_dead_even_while_a_forked_child_lives(root: Path) -> None:
    """D4, D9: the child neither keeps the lock of a dead parent nor loses that of a living one."""
    code = textwrap.dedent(
        """
        import os, sys, time
        from trainbus.bus.publisher import Publisher
        from trainbus.bus.events import Step
        publisher = Publisher("parent")
        publisher.publish(Step(step=1))
        child = os.fork()
        if child == 0:
            os.write(1, b"forked\\n")  # in one piece, beside the parent's
            time.sleep(60)
            os._exit(0)
        os.write(1, b"%d\\n" % child)
        sys.stdin.read()
        """
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = {process.stdout.readline().strip() for _ in range(2)}  # only then the child has let go of what is not its own
    (child,) = (int(word) for word in said if word.isdigit())
    try:
        (left,) = spools(root)
        assert left.held
        process.kill()
        process.wait()
        os.kill(child, 0)
        (left,) = spools(root)
        assert (left.held, left.waiting) == (False, 1)
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def test_an_idle_publisher_hears_of_a_restarted_broker(make: Make, broker: StandIn) -> None:
    """Nothing is unacknowledged, so nothing times out: the connection itself says that it is new."""
    publisher = make(router=broker.endpoint)
    steps(publisher, 1)
    assert publisher.flush(90)
    greeted = len(broker.hellos)
    broker.stop()
    broker.start()
    wait_for(lambda: len(broker.hellos) > greeted)
    deadline = time.monotonic() + 90
    while not publisher.stats().connected:
        assert time.monotonic() < deadline
