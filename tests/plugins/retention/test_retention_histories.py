"""Any history of saves, metrics, leases, pins, crashes and settings, on a real disk: the protected set is never deleted."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.plugins.retention.support import complete, make, record, settle, started
from trainbus.bus.events import Checkpoint, Eval, RunStarted
from trainbus.plugins.retention.pins import Pin, pin, unpin
from trainbus.plugins.retention.trash import Trash
from trainbus.plugins.retention.verify import verify

configs = st.fixed_dictionaries(
    {
        "dry_run": st.just(False),
        "min_age": st.just(0),
        "interval": st.just(0.1),
        "trash_bytes_per_second": st.just(1e12),
        "keep_newest": st.integers(1, 3),
        "keep_best": st.just([{"metric": "accuracy", "direction": "max"}]),
        "keep_every": st.sampled_from([0, 3]),
        "max_bytes": st.sampled_from([0, 400, 900]),
        "thin": st.sampled_from(["never", "limits", "always"]),
        "thin_keep_newest": st.just(1),
        "trash_grace": st.sampled_from([0, 3600]),
    }
)


class Histories(RuleBasedStateMachine):
    """What a person would check: what is in its place, and what can still be restored."""

    @initialize(config=configs)
    def begin(self, config):
        self.place = Path(tempfile.mkdtemp())
        self.out = self.place / "out"
        self.config = config
        self.harness = started(self.place, config)
        self.step, self.accuracy, self.resumed = 0, {}, None
        self.pinned, self.leased = set(), set()

    def path(self, step):
        return self.out / f"checkpoint-{step}"

    def in_place(self):
        return {int(path.name.split("-")[1]) for path in self.out.glob("checkpoint-*")}

    @rule(optimizer=st.sampled_from([0, 200]), accuracies=st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=4))
    def save(self, optimizer, accuracies):
        for accuracy in accuracies:
            self.step += 1
            metrics = {} if accuracy is None else {"accuracy": accuracy}
            if accuracy is not None:
                self.accuracy[self.step] = accuracy
            self.harness.feed(complete(make(self.out, self.step, optimizer=optimizer), self.step, metrics=metrics))

    @precondition(lambda self: self.step)
    @rule(data=st.data(), accuracy=st.floats(0, 1))
    def measure(self, data, accuracy):
        step = data.draw(st.integers(1, self.step))
        self.accuracy[step] = accuracy
        self.harness.feed(Eval(run="r", checkpoint=f"r@{step}", metrics={"accuracy": accuracy}))

    @precondition(lambda self: self.in_place())
    @rule(data=st.data())
    def hold(self, data):
        step = data.draw(st.sampled_from(sorted(self.in_place())))
        if data.draw(st.booleans()):
            pin(self.path(step), Pin(who="ann"))
            self.pinned.add(step)
        else:
            self.harness.context.leases[f"r@{step}"] = ["shared"]
            self.leased.add(step)
        self.save(0, [None] * 3)
        self.look()

    @precondition(lambda self: self.pinned or self.leased)
    @rule(data=st.data())
    def release(self, data):
        step = data.draw(st.sampled_from(sorted(self.pinned | self.leased)))
        unpin(self.path(step))
        self.harness.context.leases.pop(f"r@{step}", None)
        self.pinned.discard(step)
        self.leased.discard(step)

    @precondition(lambda self: self.in_place())
    @rule(data=st.data())
    def resume(self, data):
        self.resumed = data.draw(st.sampled_from(sorted(self.in_place())))
        self.harness.feed(RunStarted(run="r", resumed_from=f"r@{self.resumed}"))
        self.save(0, [None] * 3)
        self.look()

    @rule()
    def crash(self):
        """The process is gone; its durable state and the disk stay. (The stop hook saves nothing: it only ends threads.)"""
        self.harness.stop()
        self.harness = started(self.place, self.config, self.harness.context)

    @precondition(lambda self: self.in_place())
    @rule(data=st.data())
    def die_between_the_rename_and_the_telling(self, data):
        """As a kill -9 leaves it."""
        free = self.in_place() - self.pinned - self.leased - {self.step, self.resumed, self.best()}
        if free:
            step = data.draw(st.sampled_from(sorted(free)))
            Trash(self.out, who="retention").put(record(self.path(step), step), reason="before the kill")
            self.crash()

    @rule()
    def look(self):
        settle(self.harness)
        self.check()

    def best(self):
        """The newest of the best of those that ever were and can still be had."""
        there = self.in_place() | {thing.entry.step for thing in Trash(self.out).contents() if not thing.emptying and not thing.thinned}
        scores = {step: score for step, score in self.accuracy.items() if step in there}
        return max(scores, key=lambda step: (scores[step], step)) if scores else None

    def check(self):
        here = self.in_place()
        protected = self.pinned | self.leased | ({self.step} if self.step else set())
        protected |= {self.resumed} if self.resumed else set()
        protected |= {self.best()} if self.best() else set()
        assert protected <= here, (protected, here)
        told = {event.step for event in self.harness.published if isinstance(event, Checkpoint) and event.state == "deleted"}
        assert set(range(1, self.step + 1)) - here <= told

    @invariant()
    def nothing_half_looks_whole(self):
        if not hasattr(self, "out"):
            return
        for path in self.out.glob("checkpoint-*"):
            assert verify(path).faults == ()
        for thing in Trash(self.out).contents():
            if not thing.emptying and not thing.thinned and thing.place.is_dir() and self.config["trash_grace"]:
                assert verify(thing.place).faults == ()

    def teardown(self):
        if hasattr(self, "harness"):
            self.harness.stop()
            shutil.rmtree(self.place)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
