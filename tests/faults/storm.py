"""A running system under faults: trainers, a supervisor with its broker and recording plugins, live readers, and the judgement."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from tests.conftest import ROOT
from tests.faults.board import STOP, Board
from tests.hosting.system import System
from tests.support import wait_for
from trainbus.bus import events
from trainbus.bus.client import Client
from trainbus.bus.config import BusConfig
from trainbus.bus.hosting.instance import read_running
from trainbus.bus.subscriber import Subscriber
from trainbus.errors import TrainbusError
from trainbus.testing.checker import Findings, HistoryChecker

RECORDER = """
class P:
    '''Writes down every event that it is given, before it is finished with it. Outside its home, which may be a full disk.'''
    @hookimpl
    def start(self, context):
        self.file = os.open(os.path.join(os.environ["SEEN"], context.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @hookimpl
    def on_event(self, event, context):
        if event.offset >= 0:
            os.write(self.file, b"%d %s %d\\n" % (event.offset, event.source.encode() or b"-", event.seq))
"""

HANG_SECONDS = 5.0
"""A publish() that took longer has blocked. The real figure is 5 us; a busy test machine may stop a process for a while."""


def recorder(before: str = "", after: str = "", *, hook: str = "def on_event") -> str:
    """The recording plugin with something else in its hook, before or after it has written."""
    source = RECORDER.replace("def on_event", hook)
    lines = source.splitlines()
    at = next(number for number, line in enumerate(lines) if "if event.offset >= 0" in line)
    indent = " " * 8
    lines[at:at] = [indent + line for line in before.splitlines()]
    return "\n".join([*lines, *(indent + line for line in after.splitlines())]) + "\n"


class Trainer:
    """A trainer process and its board."""

    def __init__(self, run: str, board: Path, *options: str, env: dict[str, str], tree: Path = ROOT) -> None:
        self.run = run
        self.board = Board(board)
        self.killed = False
        self.other_events = "--checkpoints" in options
        self.errors = board.with_suffix(".err").open("w+")
        command = [sys.executable, "-m", "tests.faults.trainer", str(board), run, *options]
        self.process = subprocess.Popen(command, cwd=tree, env=env, stdout=self.errors, stderr=self.errors)

    def words(self) -> str:
        """What it printed."""
        self.errors.seek(0)
        return self.errors.read()

    def wait_for_returned(self, count: int) -> None:
        """Until ``count`` calls of publish() came back."""

        def reached() -> bool:
            assert self.process.poll() is None, self.words()
            return self.board.returned >= count

        wait_for(reached, what=f"{count} events of {self.run}")

    def wait_for_more(self, count: int) -> None:
        """Until ``count`` further calls came back."""
        self.wait_for_returned(self.board.returned + count)

    def wait_for_seconds(self, seconds: float) -> None:
        """Training goes on for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            assert self.process.poll() is None, self.words()
            time.sleep(min(left, 0.1))

    def kill(self) -> None:
        """kill -9."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        self.errors.close()


class Follower:
    """A live reader of everything, in a thread."""

    def __init__(self, root: Path, **options: str) -> None:
        self.seen: list[tuple[int, str, int]] = []
        self._enough = threading.Event()
        self._root = root
        self._options = options
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            with Subscriber(root=self._root, **self._options) as subscriber:
                while not self._enough.is_set():
                    event = subscriber.next(0.1)
                    if event is not None:
                        self.seen.append((event.offset, event.source, event.seq))
        except BaseException as error:
            self.error = error
            raise

    def close(self) -> None:
        self._enough.set()
        self._thread.join(20.0)
        assert not self._thread.is_alive(), "the reader does not end"


class Storm(System):
    """`System` with trainers and judgement."""

    def __init__(self, root: Path, folder: Path) -> None:
        super().__init__(root)
        self.folder = folder
        self.config = folder / "trainbus.toml"
        self.trainers: list[Trainer] = []
        self.followers: list[Follower] = []
        self.recorders: dict[str, Path] = {}
        self.others: dict[str, int] = {}
        """Sources that are no trainers of ours, with the number of events that they published."""

    def configure(self, *plugins: str, bus: dict | None = None, **options: dict) -> None:
        super().configure(*plugins, bus=bus, **options)
        seen = Path(os.environ["SEEN"])
        self.recorders |= {name: seen / name for name in plugins if name in ("alpha", "beta")}

    def trainer(self, *options: str, run: str = "", root: Path | None = None, tree: Path = ROOT, **settings: object) -> Trainer:
        """Start a training process; the run's id is made from its number. ``tree`` holds the trainbus that it runs."""
        run = run or f"run-{len(self.trainers)}"
        bus = msgspec.json.encode(msgspec.convert(settings, BusConfig)).decode()
        board = self.folder / f"board-{len(self.trainers)}"
        env = {**os.environ, "TRAINBUS_HOME": str(root or self.root)}
        self.trainers.append(Trainer(run, board, "--settings", bus, *options, env=env, tree=tree))
        return self.trainers[-1]

    def follower(self, **options: str) -> Follower:
        """Start a live reader; ``options`` are those of `Subscriber`."""
        self.followers.append(Follower(self.root, **options))
        return self.followers[-1]

    def records(self) -> list[tuple[int, bytes]]:
        """The whole journal, as the broker gives it."""
        found: list[tuple[int, bytes]] = []
        with Client(root=self.root) as client:
            after, done = -1, False
            while not done:
                page = client.history(after)
                found += page.events
                after, done = page.next, page.done
        return found

    def seqs(self, source: str) -> list[int]:
        """The seqs of a source that the journal holds."""
        return [event.seq for _, event in self._decoded(self.records()) if event.source == source]

    def recorded(self, name: str) -> list[tuple[int, str, int]]:
        """What a recorder wrote down."""
        file = self.recorders[name]
        if not file.exists():
            return []
        whole = file.read_text().rpartition("\n")[0]  # the last line may be being written
        lines = [line.split() for line in whole.splitlines()]
        return [(int(offset), "" if source == "-" else source, int(seq)) for offset, source, seq in lines]

    def wait_for_journal(self, trainer: Trainer) -> None:
        """Until the journal holds everything that the trainer has published up to this call (or says that it is missing)."""
        target = trainer.board.returned

        def there() -> bool:
            with contextlib.suppress(TrainbusError), Client(root=self.root) as client:
                return any(s.source == trainer.board.source and s.expected >= target for s in client.status().sources)
            return False

        wait_for(there, 40.0, what=f"the journal to hold {target} events of {trainer.run}")

    def finish(self, trainer: Trainer) -> None:
        """Once it has found its broker again, let it end in order; everything that it published must then be acknowledged.

        Without the first part close() may meet a broker that has just been started, and leave the rest in the spool after half a second.
        """
        self.wait_for_journal(trainer)
        trainer.board.numbers[STOP] = 1
        code = trainer.process.wait(180)
        assert code == 0, f"exit code {code} (3: not everything is acknowledged)\n{trainer.words()}"

    def judge(self, *, at_least: int = 1) -> Findings:
        """`verdict`, which must be good.

        At least ``at_least`` events must have been there to judge: an empty history is always fine.
        """
        findings = self.verdict()
        for trainer in self.trainers:
            assert trainer.board.longest < HANG_SECONDS
        assert findings.ok, findings.explain()
        assert findings.published >= at_least, findings.explain()
        return findings

    def verdict(self, *, patience: float = 40.0) -> Findings:
        """Wait until every reader is through, then compare all that was published with the journal and the readers."""
        with Client(root=self.root) as client:
            head = client.status().head
        for name in self.recorders:
            wait_for(
                lambda name=name: max((one[0] for one in self.recorded(name)), default=-1) >= head, patience, what=f"{name} to reach {head}"
            )
        for follower in self.followers:
            wait_for(lambda follower=follower: follower.error or max((one[0] for one in list(follower.seen)), default=-1) >= head, patience)
            assert follower.error is None, follower.error
        records = self.records()
        decoded = self._decoded(records)
        checker = HistoryChecker()
        checker.journal(records)
        for trainer in self.trainers:
            seqs = [event.seq for _, event in decoded if event.source == trainer.board.source]
            returned = trainer.board.returned
            checker.published(trainer.board.source, returned + (trainer.killed and max(seqs, default=-1) == returned))
            steps = [(event.step, event.seq) for _, event in decoded if event.source == trainer.board.source and event.kind == "step"]
            assert trainer.other_events or all(step == seq - 1 for step, seq in steps)
        for source, count in self.others.items():
            checker.published(source, count)
        bodies = {(offset, event.source, event.seq): body for (offset, body), (_, event) in zip(records, decoded, strict=True)}
        for name in self.recorders:
            checker.reader(
                name, [(one[0], bodies.get(one, b"")) for one in self.recorded(name) if one[0] <= head], upto=head, at_least_once=True
            )
        for number, follower in enumerate(self.followers):
            seen = [one for one in list(follower.seen) if one[0] <= head]
            checker.reader(f"follower {number}", [(one[0], bodies.get(one, b"")) for one in seen], upto=head)
        return checker.check()

    @staticmethod
    def _decoded(records: list[tuple[int, bytes]]) -> list[tuple[int, events.AnyEvent]]:
        return [(offset, events.decode(body, offset)) for offset, body in records]

    def words(self) -> str:
        """What `trainbus up` printed, its children's output included."""
        return (self.root.parent / "up.out").read_text()

    def kill_everything(self) -> None:
        """kill -9 of the supervisor, the broker, all plugins and all trainers, as one stroke."""
        running = read_running(self.root)
        trainers = {trainer.process.pid for trainer in self.trainers if trainer.process.poll() is None}
        pids = {self.process.pid, self.broker_pid(), *trainers, *(plugin.pid for plugin in running.plugins if plugin.pid)}
        for number in (signal.SIGSTOP, signal.SIGKILL):  # first nobody gets the time to see another one's death
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        for trainer in self.trainers:
            if trainer.process.wait() < 0:
                trainer.killed = True
        self.process.wait()

    def close(self) -> None:
        for follower in self.followers:
            follower._enough.set()
        for trainer in self.trainers:
            trainer.close()
        super().close()
