"""Versions and backups: identical copies that appear whole or not at all."""

import json

import pytest

from tests.plugins.retention.support import killed_at, make, record
from trainbus.errors import ModelError
from trainbus.plugins.retention import backups, versions
from trainbus.plugins.retention.verify import digest_of


def tree(path, without=()):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name not in without}


def latest(directory):
    return str((directory / "latest").readlink())


def whole(path):
    """Every version that has its name is as its manifest says."""
    for version in versions.listed(path):
        assert versions.faults_of(path / version.name, version) == []
    return [version.name for version in versions.listed(path)]


@pytest.fixture
def source(tmp_path):
    return make(tmp_path / "out", 7, optimizer=100)


def test_a_promotion_makes_a_numbered_identical_copy_with_what_is_known_of_it(tmp_path, source):
    """Without the optimizer state unless it is asked for; `latest` leads to it."""
    known = record(source, 7, metrics={"accuracy": 0.9})
    first = versions.promote(source, tmp_path / "versions", record=known, who="ann", note="the first")
    second = versions.promote(source, tmp_path / "versions", record=known, with_optimizer=True)
    assert (first.name, first.step, first.checkpoint, first.who, first.note, first.metrics) == (
        "v001",
        7,
        "r@7",
        "ann",
        "the first",
        {"accuracy": 0.9},
    )
    assert sorted(tree(tmp_path / "versions/v001", (versions.MANIFEST,))) == ["config.json", "model.safetensors", "trainer_state.json"]
    assert tree(tmp_path / "versions/v002", (versions.MANIFEST,)) == tree(source, ("trainbus_checkpoint.json",))
    assert second.files["optimizer.pt"].xxh3 == digest_of(source / "optimizer.pt")
    assert latest(tmp_path / "versions") == "v002"
    assert whole(tmp_path / "versions") == ["v001", "v002"]


def test_a_version_is_a_copy_of_its_own(tmp_path, source):
    """What happens to the checkpoint afterwards doesn't touch it."""
    version = versions.promote(source, tmp_path / "versions")
    (source / "model.safetensors").write_bytes(b"ruined")
    assert versions.faults_of(tmp_path / "versions/v001", version) == []


def test_what_is_not_whole_is_not_promoted(tmp_path, source):
    """Nothing is left behind."""
    (source / "model.safetensors").write_bytes(b"ruined")
    with pytest.raises(ModelError, match="is not whole"):
        versions.promote(source, tmp_path / "versions")
    assert not (tmp_path / "versions").exists()


def test_a_disk_without_room_is_refused_before_anything_is_copied(tmp_path, source, monkeypatch):
    """It says how much is needed."""
    monkeypatch.setattr(versions.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ModelError, match="1,000 bytes free"):
        versions.promote(source, tmp_path / "versions")
    assert list((tmp_path / "versions").iterdir()) == []


def test_versions_are_ordered_by_number_and_numbers_are_never_used_again(tmp_path, source):
    """999 comes before 1000, and a deleted one leaves a hole."""
    directory = tmp_path / "versions"
    made = versions.promote(source, directory)
    for number in (999, 1000):
        (directory / "v001").rename(directory / f"v{number:03d}") if number == 999 else versions.promote(source, directory)
        manifest = directory / f"v{number:03d}" / versions.MANIFEST
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"name": f"v{number:03d}"}))
    assert [version.name for version in versions.listed(directory)] == ["v999", "v1000"]
    assert versions.the_version(directory, "latest").name == "v1000"
    assert versions.the_version(directory, "999").digest == made.digest
    versions.delete(directory, versions.the_version(directory, "v1000"), who="ann", reason="bad")
    assert latest(directory) == "v999"
    assert versions.promote(source, directory).name == "v1001"


def test_a_deleted_version_comes_back_and_a_copy_of_one_is_identical(tmp_path, source):
    """Round trip."""
    directory = tmp_path / "versions"
    version = versions.promote(source, directory)
    before = tree(directory / "v001")
    copied = versions.copy_out(directory, version, tmp_path / "elsewhere/model")
    assert tree(copied) == tree(directory / "v001", (versions.MANIFEST,))
    with pytest.raises(ModelError, match="exists already"):
        versions.copy_out(directory, version, copied)
    versions.delete(directory, version, who="ann", reason="by mistake")
    assert versions.listed(directory) == []
    trash = versions.trash_of(directory)
    assert trash.find("v001").entry.digest == version.digest
    trash.restore(trash.find("v001"))
    assert tree(directory / "v001") == before


def test_a_damaged_version_is_not_copied_out(tmp_path, source):
    """Nothing appears at the place."""
    version = versions.promote(source, tmp_path / "versions")
    (tmp_path / "versions/v001/config.json").write_text('{"model_type": "other"}')
    assert versions.faults_of(tmp_path / "versions/v001", version) == ["config.json has changed"]
    with pytest.raises(ModelError, match=r"damaged: config\.json has changed"):
        versions.copy_out(tmp_path / "versions", version, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_merge_that_fails_leaves_nothing(tmp_path, source):
    """Neither a version nor a partial one."""

    def broken(_, target):
        (target / "model.safetensors").write_bytes(b"half")
        raise OSError("no memory")

    with pytest.raises(OSError, match="no memory"):
        versions.promote(source, tmp_path / "versions", merge=broken)
    assert list((tmp_path / "versions").iterdir()) == []


def test_a_kill_at_any_step_of_a_promotion_leaves_whole_versions_only(tmp_path):
    """The next promotion clears away what was left and takes the next number."""
    number, killed = 0, True
    while killed:
        number += 1
        place = tmp_path / str(number)
        path = make(place / "out", 7)
        killed = killed_at(number, lambda place=place, path=path: versions.promote(path, place / "versions"))
        before = whole(place / "versions")
        versions.promote(path, place / "versions")
        assert whole(place / "versions") == [*before, f"v{len(before) + 1:03d}"]
        assert latest(place / "versions") == f"v{len(before) + 1:03d}"
        assert not [left for left in (place / "versions").iterdir() if left.name.startswith(".partial")]
    assert number > 20


def test_a_kill_at_any_step_of_a_backup_leaves_complete_ones_only(tmp_path):
    """Doing it again completes it."""
    number, killed = 0, True
    while killed:
        number += 1
        place = tmp_path / str(number)
        path = make(place / "out", 7)
        address = str(place / "backup")
        killed = killed_at(number, lambda path=path, address=address: backups.back_up(path, address))
        for backup in backups.listed(address):
            assert backups.check(address, backup.name) == backup
        backups.back_up(path, address)
        assert [backup.name for backup in backups.listed(address)] == ["checkpoint-7"]
        assert backups.check(address, "checkpoint-7").bytes > 0
    assert number > 20


@pytest.mark.parametrize("address", ["path", "file", "memory"])
def test_a_backup_restores_to_identical_files(tmp_path, source, address):
    """On a path and on any fsspec address."""
    where = {"path": str(tmp_path / "b"), "file": f"file://{tmp_path}/b", "memory": f"memory://{tmp_path.name}"}[address]
    made = backups.back_up(source, where)
    assert [backup.name for backup in backups.listed(where)] == ["checkpoint-7"]
    assert backups.back_up(source, where) == made
    assert backups.check(where, "checkpoint-7") == made
    backups.restore(where, "checkpoint-7", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source, ("trainbus_checkpoint.json",))
    backups.remove(where, "checkpoint-7")
    assert backups.listed(where) == []


def test_a_damaged_or_missing_backup_is_found_and_not_restored(tmp_path, source):
    """One byte is enough."""
    address = str(tmp_path / "b")
    backups.back_up(source, address)
    file = tmp_path / "b/checkpoint-7/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match=r"damaged: model\.safetensors has changed"):
        backups.check(address, "checkpoint-7")
    with pytest.raises(ModelError, match="damaged"):
        backups.restore(address, "checkpoint-7", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    with pytest.raises(ModelError, match="no complete backup"):
        backups.check(address, "checkpoint-8")


def test_another_model_never_replaces_a_backup_of_that_name(tmp_path, source):
    """Two runs both have a checkpoint-7."""
    address = str(tmp_path / "b")
    backups.back_up(source, address)
    other = make(tmp_path / "other", 7)
    (other / "config.json").write_text('{"model_type": "other"}')
    (other / "trainbus_checkpoint.json").unlink()
    with pytest.raises(ModelError, match="the backup of something else"):
        backups.back_up(other, address)
    assert backups.back_up(other, address, name="other").name == "other"


def test_old_backups_go_and_the_newest_stay_whatever_their_age(tmp_path, source):
    """Thirty days by default."""
    address = str(tmp_path / "b")
    for name in ("one", "two", "three"):
        backups.back_up(source, address, name=name)
    now = backups.listed(address)[-1].created + 31 * 86_400 * 10**9
    assert [backup.name for backup in backups.old_ones(address, days=30, keep=2, now=now)] == ["one"]
    assert backups.old_ones(address, days=30, keep=2, now=now - 2 * 86_400 * 10**9) == []
