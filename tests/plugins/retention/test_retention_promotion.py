"""A version of each run's best checkpoint at a fixed hour: once a day, and nothing is merged before it has a backup."""

from datetime import datetime

import msgspec
import pytest

from tests.plugins.retention.support import complete, make, plugin_of, settle, started, wait_until, write
from trainbus.bus.events import Alert, Eval
from trainbus.plugins.retention import backups, versions
from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.verify import verify


def at(hour, minute=0, day=1):
    """A local time in nanoseconds since the epoch."""
    return int(datetime(2026, 3, day, hour, minute).timestamp()) * 10**9


@pytest.fixture
def night(tmp_path):
    """A plugin over a clock that the test turns; it promotes at three o'clock."""

    class Night:
        out = tmp_path / "out"
        now = at(2, 59)
        harness = None

        def start(self, **settings):
            config = {"promote_at": "03:00", "backup_to": str(tmp_path / "backup"), "min_age": 0, **settings}
            context = self.harness.context if self.harness else None
            self.harness = started(tmp_path, config, context, wall=lambda: self.now)
            self.out.mkdir(exist_ok=True)
            return self.harness

        def look(self):
            """One look, and what it began has ended."""
            settle(self.harness)
            daily = plugin_of(self.harness).keeper.watch.daily
            assert wait_until(lambda: not daily.working, 60)
            settle(self.harness)
            return [version.checkpoint for version in versions.listed(self.out / "versions")]

        def alerts(self):
            return [(event.rule, event.state) for event in self.harness.published if isinstance(event, Alert) and "promotion" in event.rule]

    return Night()


def test_the_best_checkpoint_becomes_a_version_with_a_backup_at_the_hour_and_once_a_day(night, tmp_path):
    """Not before, not again on that day, also after a restart; on the next day only what is new."""
    harness = night.start()
    harness.feed(*(write(night.out, step) for step in (1, 2, 3)), Eval(run="r", checkpoint="r@2", metrics={"loss": 0.1}))
    assert night.look() == []
    night.now = at(3)
    assert night.look() == ["r@2"]
    assert [backup.name for backup in backups.listed(str(tmp_path / "backup"))] == ["out-v001"]
    assert verify(night.out / "versions/v001").faults == ()
    harness.feed(Eval(run="r", checkpoint="r@3", metrics={"loss": 0.01}))
    assert night.look() == ["r@2"]
    harness.stop()
    night.start()
    assert night.look() == ["r@2"]
    night.now = at(3, day=2)
    assert night.look() == ["r@2", "r@3"]
    night.now = at(3, day=3)
    assert night.look() == ["r@2", "r@3"]


def test_an_hour_that_was_slept_through_is_made_up_for_but_not_by_who_has_only_just_begun(night):
    """The second is what a person who tries the setting in the afternoon means."""
    night.now = at(15)
    night.start(promote="newest").feed(write(night.out, 1), write(night.out, 2))
    assert night.look() == []
    night.harness.stop()
    night.now = at(9, day=2)
    night.start(promote="newest")
    assert night.look() == ["r@2"]


def test_a_backup_that_fails_keeps_the_merge_from_beginning_and_is_an_alert_until_it_is_mended(night, tmp_path, monkeypatch):
    """The merge is tried on the next day, once the adapter has its backup."""
    merges = []

    def merge(source, target):
        merges.append(source)
        for name in ("model.safetensors", "config.json"):
            (target / name).write_bytes((whole / name).read_bytes())

    monkeypatch.setattr("trainbus.plugins.retention.promotion.merge_adapter", merge)
    whole = make(tmp_path / "elsewhere", 1)
    path = make(night.out, 7, marker=False)
    (path / "model.safetensors").rename(path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text("{}")
    (tmp_path / "backup").write_text("in the way")
    harness = night.start()
    harness.feed(complete(path, 7))
    night.look()
    night.now = at(3)
    assert night.look() == []
    assert merges == []
    assert night.alerts() == [("promotion_failed", "raised")]
    (tmp_path / "backup").unlink()
    night.now = at(3, day=2)
    assert night.look() == ["r@7"]
    assert merges == [path]
    assert night.alerts()[-1] == ("promotion_failed", "cleared")
    assert {backup.name for backup in backups.listed(str(tmp_path / "backup"))} == {"r-checkpoint-7", "out-v001"}


def test_a_checkpoint_that_is_being_deleted_is_not_promoted(night):
    """Who holds the opposite side of the lease goes first."""
    night.start().feed(write(night.out, 1))
    night.look()
    night.harness.context.leases["r@1"] = ["exclusive"]
    night.now = at(3)
    assert night.look() == []
    assert night.alerts() == [("promotion_failed", "raised")]


@pytest.mark.parametrize("table", [{"promote_at": "03:00"}, {"promote_at": "25:00", "backup_to": "b"}, {"promote": "any"}])
def test_a_wrong_hour_or_one_without_a_place_for_backups_is_refused(table):
    """Before anything starts."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, RetentionConfig)
