"""`trainbus checkpoints` on a live run through its bus and on bare directories."""

import json
import os
import subprocess
import sys

import pytest

import trainbus
from tests.plugins.retention.support import in_trash, make
from trainbus.bus.client import Client
from trainbus.cli.app import run
from trainbus.trainer_node.checkpoints import seal

NOW = ("--set", "min_age=0")


@pytest.fixture
def cli(capsys):
    """Runs a command; gives exit code and output, parsed where it is JSON."""

    def call(*arguments):
        capsys.readouterr()
        code = run(["checkpoints", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if "--json" in arguments else captured.out + captured.err

    return call


@pytest.fixture
def bare(tmp_path):
    """What a Hugging Face trainer left: numbers that sort wrongly as text, a log with evaluations, one directory unfinished."""
    out = tmp_path / "bare"
    for step in (80, 999, 1000, 1200):
        path = make(out, step, marker=False, optimizer=100)
        log = [{"step": step, "loss": 10 / step}, {"step": step, "eval_loss": abs(step - 999)}]
        (path / "trainer_state.json").write_text(
            json.dumps({"global_step": step, "log_history": log, "best_model_checkpoint": str(out / "checkpoint-80")})
        )
        os.utime(path / "trainer_state.json", (step, step))
    (out / "checkpoint-1300").mkdir()
    (out / "checkpoint-1300/model.safetensors").write_bytes(b"being written")
    (out / "README.md").write_text("mine")
    return out


def steps(rows):
    return [row["step"] for row in rows]


def here(out):
    return sorted((path.name for path in out.glob("checkpoint-*")), key=lambda name: int(name.split("-")[1]))


def test_a_bare_directory_is_listed_in_the_order_of_numbers_with_metrics_and_reasons(cli, bare):
    """Metrics are those of the trainer's log; what is unfinished is named and left alone."""
    code, found = cli("list", bare, *NOW, "--json")
    assert code == 0
    assert steps(found["checkpoints"]) == [80, 999, 1000, 1200]
    assert found["checkpoints"][1]["metrics"] == {"loss": 10 / 999, "eval_loss": 0.0}
    assert "best by eval_loss (0)" in found["checkpoints"][1]["reasons"]
    assert found["checkpoints"][0]["reasons"][0] == "the trainer calls it its best"
    assert found["unfinished"] == [str(bare / "checkpoint-1300")]
    _, text = cli("list", bare)
    assert text.index("999") < text.index("1,000")
    assert "checkpoint-1300 is no whole checkpoint" in text


def test_a_plan_says_what_goes_how_much_it_frees_and_changes_nothing(cli, bare):
    """Bytes add up."""
    before = sorted(bare.rglob("*"))
    code, found = cli("plan", bare, *NOW, "--set", "keep_newest=1", "--json")
    assert code == 0
    assert steps(found["delete"]) == [1000]
    assert steps(found["keep"]) == [80, 999, 1200]
    size = sum(file.stat().st_size for file in (bare / "checkpoint-1000").iterdir())
    assert found["frees"] == found["delete"][0]["frees"] == size
    assert found["disks"][0]["free"] > 0
    _, text = cli("plan", bare, *NOW, "--set", "keep_newest=1")
    assert "1 of 4 would go" in text
    assert "free" in text
    assert sorted(bare.rglob("*")) == before


def test_prune_asks_and_a_no_or_an_unknown_option_deletes_nothing(bare, trainbus_home):
    """Nor does --json without --yes."""
    for arguments, answer, code in (([], "n\n", 130), (["--bogus", "--yes"], "", 2), (["--json"], "", 0), ([], "", 130)):
        command = [sys.executable, "-m", "trainbus", "checkpoints", "prune", str(bare), *NOW, "--set", "keep_newest=1", *arguments]
        done = subprocess.run(command, input=answer, capture_output=True, text=True, check=False)
        assert done.returncode == code, done
        assert here(bare) == ["checkpoint-80", "checkpoint-999", "checkpoint-1000", "checkpoint-1200", "checkpoint-1300"]
        assert in_trash(bare) == []


def test_prune_moves_into_the_trash_with_a_digest_in_the_ledger_and_restore_brings_back(cli, bare):
    """What is not called a checkpoint is not touched."""
    code, found = cli("prune", bare, *NOW, "--set", "keep_newest=1", "--yes", "--json")
    assert (code, steps(found["delete"]), found["held_back"]) == (0, [1000], {})
    assert here(bare) == ["checkpoint-80", "checkpoint-999", "checkpoint-1200", "checkpoint-1300"]
    assert (bare / "README.md").exists()
    _, entries = cli("ledger", bare, "--json")
    assert [(entry["action"], entry["step"], len(entry["digest"])) for entry in entries] == [("trashing", 1000, 32)]
    _, trash = cli("list", bare, "--trash", "--json")
    assert [thing["restorable"] for thing in trash] == [True]
    assert cli("restore", bare / "checkpoint-1000")[0] == 0
    assert here(bare)[2] == "checkpoint-1000"
    assert steps(cli("plan", bare, *NOW, "--set", "keep_newest=1", "--json")[1]["delete"]) == []
    assert cli("restore", "1000", "--in", bare)[0] == 4
    assert cli("list", bare, "--trash", "--json")[1] == []


def test_173_checkpoints_in_three_tiers_free_exactly_what_then_lies_in_the_trash(cli, tmp_path):
    """The case of the superseded system, on a disk."""
    out, config = tmp_path / "out", tmp_path / "trainbus.toml"
    for step in range(100, 17_301, 100):
        make(out, step, marker=False, optimizer=step)
    tiers = "tiers = [{ count = 20 }, { count = 20, every = 200 }, { every = 1000 }]"
    config.write_text(f"[plugin.retention]\nmin_age = 0\nkeep_newest = 1\nkeep_best = []\nkeep = [{{ policy = 'tiers', {tiers} }}]\n")
    code, found = cli("prune", out, "--config", config, "--yes", "--quick", "--json")
    expected = [*range(1_000, 11_001, 1_000), *range(11_400, 15_201, 200), *range(15_400, 17_301, 100)]
    assert (code, len(found["delete"]), steps(found["keep"])) == (0, 122, expected)
    assert here(out) == [f"checkpoint-{step}" for step in expected]
    assert all(row["reasons"] for row in [*found["keep"], *found["delete"]])
    assert found["frees"] == sum(file.stat().st_size for file in (out / ".trash").rglob("checkpoint-*/*"))


def test_prune_can_delete_for_good_at_once(cli, bare):
    """When the disk is full now."""
    assert cli("prune", bare, *NOW, "--set", "keep_newest=1", "--yes", "--empty")[0] == 0
    assert in_trash(bare) == []
    assert cli("restore", bare / "checkpoint-1000")[0] == 4
    assert [entry["action"] for entry in cli("ledger", bare, "--json")[1]] == ["trashing", "emptying", "emptied"]


def test_a_pin_holds_until_it_is_taken_away(cli, bare):
    """By path, or by step and directory."""
    assert cli("pin", bare / "checkpoint-1000", "--reason", "for the paper")[0] == 0
    _, found = cli("prune", bare, *NOW, "--set", "keep_newest=1", "--yes", "--json")
    assert steps(found["delete"]) == []
    assert any(reason.endswith("for the paper") for row in found["keep"] for reason in row["reasons"])
    assert cli("unpin", "1000", "--in", bare)[0] == 0
    assert steps(cli("plan", bare, *NOW, "--set", "keep_newest=1", "--json")[1]["delete"]) == [1000]
    assert cli("pin", bare / "checkpoint-5")[0] == 4


def test_nothing_is_pruned_while_the_newest_is_not_whole(cli, bare):
    """It may be the last hope."""
    (bare / "checkpoint-1200/model.safetensors").write_bytes(b"torn")
    code, found = cli("prune", bare, *NOW, "--set", "keep_newest=1", "--yes", "--json")
    assert code == 8
    assert "checkpoint-1200, is not whole" in found["error"]["problem"]
    assert "checkpoint-1000" in here(bare)


def test_verify_names_what_is_broken_and_its_exit_code_tells(cli, bare):
    """All of a directory, or one model."""
    assert cli("verify", bare)[0] == 0
    (bare / "checkpoint-999/model.safetensors").write_bytes(b"torn")
    code, found = cli("verify", bare, "--json")
    assert (code, [bool(one["faults"]) for one in found]) == (8, [False, True, False, False])
    assert cli("verify", bare / "checkpoint-1000")[0] == 0
    assert cli("verify", bare / "checkpoint-999", "--quick")[0] == 8


def test_policies_of_the_configuration_file_hold_here_too(cli, bare, tmp_path):
    """One place says what is kept; nested policies are checked as any setting."""
    config = tmp_path / "trainbus.toml"
    config.write_text(
        "[plugin.retention]\nmin_age = 0\nkeep_newest = 1\nkeep = [{policy = 'tiers', tiers = [{count = 2}, {every = 1000}]}]\n"
    )
    assert steps(cli("plan", bare, "--config", config, "--json")[1]["delete"]) == []
    config.write_text("[plugin.retention]\nkeep = [{policy = 'newest', cuont = 2}]\n")
    code, found = cli("plan", bare, "--config", config, "--json")
    assert code == 2
    assert "cuont" in found["error"]["problem"]


@pytest.fixture
def live(broker, tmp_path):
    """A run that is running, with four sealed checkpoints that the bus knows."""
    out = tmp_path / "live"
    with trainbus.init("live", run="live-1") as made:
        for step in (9, 10, 80, 100):
            path = make(out, step, marker=False)
            marker = seal(path, run="live-1", name="live", step=step)
            assert made.checkpoint(path, step=step, digest=marker.digest) == marker.id
        assert made.flush(20)
        yield out


ONE = (*NOW, "--set", "keep_newest=1")


def test_a_live_run_is_pruned_through_its_bus_and_the_bus_is_told(cli, live):
    """A leased checkpoint stays; by run and by directory the same."""
    with Client() as client:
        leased = next(event.id for event in client.events(kinds=["checkpoint"]) if event.step == 10)
        with client.lease(leased, "examiner", "shared", 30.0, "being evaluated"):
            _, by_run = cli("plan", "live", *ONE, "--json")
            _, by_directory = cli("plan", live, *ONE, "--json")
            assert steps(by_run["delete"]) == steps(by_directory["delete"]) == [9, 80]
            assert ["leased by examiner: being evaluated"] in [row["reasons"] for row in by_run["keep"]]
            code, _ = cli("prune", "live", *ONE, "--yes", "--json")
        assert code == 0
        assert here(live) == ["checkpoint-10", "checkpoint-100"]
        told = [(event.step, event.state, event.reason) for event in client.events(kinds=["checkpoint"]) if event.state == "deleted"]
        assert told == [(step, "deleted", "not among the newest 1, not best by loss, eval_loss, accuracy") for step in (9, 80)]
    assert cli("restore", "checkpoint-9", "--in", "live")[0] == 0
    assert here(live) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    with Client() as client:
        last = list(client.events(kinds=["checkpoint"]))[-1]
    assert (last.step, last.state) == (9, "complete")


def test_a_lease_that_is_taken_while_a_person_thinks_holds_its_checkpoint_back(live):
    """Pins, leases and the disk are read again when the answer has come."""
    command = [sys.executable, "-m", "trainbus", "checkpoints", "prune", "live", *ONE]
    pruning = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    asked = b""
    while not asked.endswith(b"[y/N]: "):
        asked += pruning.stderr.read(1)
    with Client() as client:
        leased = next(event.id for event in client.events(kinds=["checkpoint"]) if event.step == 9)
        with client.lease(leased, "examiner", "shared", 30.0, "just now"):
            output, _ = pruning.communicate(b"y\n", 60)
    assert b"Move 3 of 4 into the trash?" in asked
    assert b"2 checkpoints" in output
    assert pruning.returncode == 0
    assert here(live) == ["checkpoint-9", "checkpoint-100"]


def test_without_its_bus_a_directory_that_trainbus_wrote_is_not_pruned(cli, tmp_path):
    """Somebody may be reading; --without-bus is a person's word."""
    out = tmp_path / "out"
    for step in (1, 2):
        seal(make(out, step, marker=False), run="r", name="r", step=step)
    code, found = cli("prune", out, *ONE, "--yes", "--json")
    assert (code, found["error"]["code"]) == (3, "unreachable")
    assert here(out) == ["checkpoint-1", "checkpoint-2"]
    assert cli("list", out)[0] == 0
    assert cli("prune", "some-run", *ONE, "--yes")[0] == 3
    assert cli("prune", out, *ONE, "--yes", "--without-bus")[0] == 0
    assert here(out) == ["checkpoint-2"]


def test_versions_and_backups_from_the_command_line(cli, bare, tmp_path):
    """Promote with a backup, delete, restore: identical."""
    backup = ("--set", f"backup_to={tmp_path}/backup")
    directory = bare / "versions"
    code, made = cli("promote", bare / "checkpoint-1000", *backup, "--json")
    assert (code, made["version"]["name"], made["backup"]["name"]) == (0, "v001", "bare-v001")
    assert cli("versions", "list", directory, "--verify")[0] == 0
    assert cli("versions", "restore", directory, "latest", tmp_path / "copy")[0] == 0
    assert (tmp_path / "copy/model.safetensors").read_bytes() == (bare / "checkpoint-1000/model.safetensors").read_bytes()
    assert cli("versions", "delete", directory, "1", *backup, "--yes")[0] == 0
    assert cli("versions", "list", directory, "--json")[1] == []
    assert cli("versions", "restore", directory, "1")[0] == 0
    assert cli("backups", "verify", tmp_path / "backup")[0] == 0
    assert cli("backups", "restore", tmp_path / "backup", "bare-v001", tmp_path / "back")[0] == 0
    assert cli("backups", "prune", tmp_path / "backup", "--days", "0", "--keep", "1", "--yes")[0] == 0
    assert [one["name"] for one in cli("backups", "list", tmp_path / "backup", "--json")[1]] == ["bare-v001"]


def test_an_address_that_nobody_can_use_is_a_sentence_and_not_a_fault(cli, bare):
    """Of a kind that does not exist, or whose package is not installed."""
    for address in ("nosuch://x/y", "adl://x/y"):
        code, text = cli("backups", "make", bare / "checkpoint-1000", address)
        assert (code, f"{address} can't be used" in text) == (8, True)


def test_a_checkpoint_comes_out_of_the_trash_by_its_step(cli, bare):
    """As it is named everywhere else."""
    assert cli("prune", bare, *ONE, "--yes")[0] == 0
    assert cli("restore", "1000", "--in", bare)[0] == 0
    assert "checkpoint-1000" in here(bare)


def test_the_last_whole_copy_of_a_model_is_never_deleted_not_even_with_yes(cli, bare, tmp_path):
    """The checkpoint that it came from was a copy as long as it was there."""
    assert cli("promote", bare / "checkpoint-1000")[0] == 0
    (bare / "checkpoint-1000/model.safetensors").write_bytes(b"gone bad")
    code, text = cli("versions", "delete", bare / "versions", "1", "--yes")
    assert code == 8
    assert "last whole copy" in text
    assert (bare / "versions/v001").is_dir()
    (tmp_path / "file").write_text("no directory")
    assert cli("versions", "delete", bare / "versions", "1", "--yes", "--set", f"backup_to={tmp_path}/file/x")[0] != 0
    assert (bare / "versions/v001").is_dir()
