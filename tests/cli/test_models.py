"""`trainbus models`: every checkpoint by name, looked at, saved and deleted through the guards of retention."""

from __future__ import annotations

import json

import pytest

import trainbus
from tests.plugins.retention.support import in_trash, make, safetensors
from trainbus.bus.client import Client
from trainbus.cli.app import run
from trainbus.cli.models_named import named_model
from trainbus.trainer_node.checkpoints import seal

OLD = ("--set", "plugin.retention.min_age=0")


@pytest.fixture
def cli(capsys):
    """Runs a command; gives exit code and output, parsed where it is JSON."""

    def call(*arguments):
        capsys.readouterr()
        code = run(["models", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if "--json" in arguments else captured.out + captured.err

    return call


@pytest.fixture
def bare(tmp_path):
    """Checkpoints of another trainer: the newest is not the best."""
    out = tmp_path / "bare"
    for step, loss in ((80, 0.9), (999, 0.1), (1000, 0.2)):
        path = make(out, step, marker=False, optimizer=100)
        log = [{"step": step, "eval_loss": loss}]
        (path / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))
    return out


@pytest.fixture
def live(broker, tmp_path):
    """A run of the bus with three checkpoints; the second is measured later, by an evaluation, as the best."""
    out = tmp_path / "live"
    with trainbus.init("live", run="live-1") as training:
        for step in (10, 20, 30):
            path = make(out, step, marker=False, optimizer=50)
            marker = seal(path, run="live-1", name="live", step=step)
            training.checkpoint(path, step=step, digest=marker.digest, loss=1.0 / step)
            training.eval(step, dataset="gsm8k", checkpoint=marker.id, accuracy=0.9 if step == 20 else 0.1)
    assert training.close(timeout=20)
    return out


def place_of(name, **options):
    with named_model(name, **options) as found:
        return found.place


def test_a_checkpoint_of_a_run_is_known_by_step_latest_and_best_also_without_the_runs_name(live):
    """The run that was heard of last is meant where none is running; a beginning of the id is enough."""
    assert place_of("latest") == place_of("live:latest") == place_of("live-1") == place_of("30") == str(live / "checkpoint-30")
    assert place_of("live-1:best:accuracy") == place_of("best:gsm8k/accuracy") == str(live / "checkpoint-20")
    assert place_of("best:loss") == str(live / "checkpoint-30")
    assert place_of(str(live / "checkpoint-10")) == place_of(f"{live}:10") == str(live / "checkpoint-10")


def test_what_is_used_is_leased_and_so_it_can_not_be_deleted(live, cli):
    """By whatever name it was opened; the refusal says who holds it, and nothing has changed."""
    for name in ("live:10", str(live / "checkpoint-10")):
        with named_model(name, reason="inference") as found, Client() as client:
            assert [lease.resource for lease in client.leases()] == [found.record.id]
            code, told = cli("delete", "live:10", "--protected", "--yes", *OLD)
            assert code == 4
            assert "inference" in told
        with Client() as client:
            assert client.leases() == []
    assert (live / "checkpoint-10").is_dir()


def test_list_shows_all_runs_with_what_one_would_ask_for(live, cli):
    """The first column is understood by the other commands."""
    code, rows = cli("list", "--json")
    assert code == 0
    assert [(row["name"], row["kind"]) for row in rows] == [("live-1:10", "model"), ("live-1:20", "model"), ("live-1:30", "model")]
    assert "best:accuracy" in rows[1]["marks"]
    assert "latest" in rows[2]["marks"]
    assert rows[1]["metrics"]["gsm8k/accuracy"] == 0.9
    assert all(cli("info", row["name"], "--json")[1]["record"]["path"] == row["path"] for row in rows)
    assert "live-1:20" in cli("list")[1]


def test_a_bare_directory_needs_no_bus_and_its_names_can_be_asked_for_again(bare, cli):
    """Without a bus the name of a run is refused with what to do."""
    _, rows = cli("list", bare, "--json")
    assert [(row["name"], row["marks"]) for row in rows] == [
        (f"{bare}:80", []),
        (f"{bare}:999", ["best:eval_loss"]),
        (f"{bare}:1000", ["latest"]),
    ]
    assert place_of(f"{bare}:best") == place_of(rows[1]["name"]) == str(bare / "checkpoint-999")
    code, told = cli("info", "latest")
    assert code == 3
    assert "trainbus up" in told


def test_info_tells_what_a_model_and_an_adapter_are_without_loading_them(tmp_path, cli):
    """Parameters come from the heads of the safetensors, the base from the adapter's own note."""
    base = make(tmp_path, 0, marker=False, name="base")
    (base / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"], "vocab_size": 7, "max_position_embeddings": 9}')
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(safetensors(1, 12))
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["v", "q"], "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    model = cli("info", base, "--json")[1]["model"]
    assert (model["kind"], model["parameters"], model["types"], model["vocabulary"]) == ("model", 64, {"U8": 64}, 7)
    told = cli("info", adapter, "--json")[1]["model"]
    assert (told["kind"], told["parameters"], told["architecture"]) == ("adapter", 12, "Qwen3ForCausalLM")
    assert told["adapter"] == {"base": str(base), "base_found": True, "type": "LORA", "rank": 4, "alpha": 8.0, "targets": ["q", "v"]}
    text = cli("info", adapter)[1]
    assert "LORA rank 4, alpha 8, on q, v" in text
    (base / "config.json").unlink()
    assert "not on this machine" in cli("info", adapter)[1]


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("nowhere/at/all", 8, "There is no folder nowhere/at/all"),
        ("owner/name", 4, "is no folder and no checkpoint here"),
        ("live-1:11", 4, "Its newest steps: 10, 20, 30."),
        ("lve-1", 4, "Did you mean `live-1`?"),
        ("live-1:best:bleu", 4, "Metrics that are known: "),
    ],
)
def test_a_wrong_name_is_answered_with_what_there_is(live, cli, name, code, says):
    """Paths, steps, runs and metrics."""
    got, told = cli("info", name)
    assert got == code
    assert says in told


def test_delete_puts_into_the_trash_tells_the_bus_and_restore_brings_back(live, cli):
    """What only a policy keeps is deleted, and it is said that it was kept."""
    code, told = cli("delete", "live-1:10", "--reason", "a typo", "--yes", *OLD)
    assert code == 0, told
    assert "kept by retention: number 3 of the newest 5" in told
    assert not (live / "checkpoint-10").exists()
    assert len(in_trash(live)) == 1
    with Client() as client:
        states = [(event.step, event.state, event.reason) for event in client.events(kinds=["checkpoint"])]
    assert states[-1] == (10, "deleted", "deleted by hand: a typo")
    code, told = cli("info", "live-1:10")
    assert code == 4
    assert f"trainbus checkpoints restore {live / 'checkpoint-10'}" in told
    assert run(["checkpoints", "restore", str(live / "checkpoint-10")]) == 0
    assert place_of("live-1:10") == str(live / "checkpoint-10")


def test_what_retention_protects_goes_only_when_one_says_so_and_what_is_pinned_never(live, cli):
    """The newest and the best are protected; a pin holds against --protected, too."""
    for name, why in (("latest", "newest complete checkpoint"), ("best:accuracy", "best by accuracy (0.9)")):
        code, told = cli("delete", name, "--yes", *OLD)
        assert code == 4
        assert why in told
        assert "--protected" in told
    assert run(["checkpoints", "pin", str(live / "checkpoint-20"), "--reason", "mine"]) == 0
    code, told = cli("delete", "live-1:20", "--protected", "--yes", *OLD)
    assert code == 4
    assert "mine" in told
    assert cli("delete", "live-1:30", "--protected", "--for-good", "--yes", *OLD)[0] == 0
    assert sorted(path.name for path in live.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-20"]
    assert in_trash(live) == []


def test_nothing_older_goes_while_the_newest_is_not_whole(live, cli):
    """It may be all that is left."""
    (live / "checkpoint-30/model.safetensors").write_bytes(b"cut")
    code, told = cli("delete", "live-1:10", "--protected", "--yes", *OLD)
    assert code == 8
    assert "Nothing was deleted" in told
    assert (live / "checkpoint-10").is_dir()


def test_save_copies_what_others_can_load_and_the_copy_can_be_looked_at_deleted_and_restored(bare, tmp_path, cli):
    """Without optimizer and marks of the training; a place that is taken is left alone; a damaged source is refused."""
    place = tmp_path / "saved"
    assert cli("save", f"{bare}:999", place)[0] == 0
    assert sorted(path.name for path in place.iterdir()) == ["config.json", "model.safetensors"]
    assert (place / "model.safetensors").read_bytes() == (bare / "checkpoint-999/model.safetensors").read_bytes()
    assert cli("info", place, "--json")[1]["model"]["parameters"] == 64
    assert cli("save", f"{bare}:80", place)[0] == 8
    assert cli("delete", place, "--yes", "--json")[1] == {"name": str(place), "path": str(place), "deleted": True, "restorable": True}
    assert not place.exists()
    assert run(["checkpoints", "restore", str(place)]) == 0
    assert (place / "config.json").is_file()
    (bare / "checkpoint-80/model.safetensors").write_bytes(b"cut")
    code, told = cli("save", f"{bare}:80", tmp_path / "other")
    assert code == 8
    assert "not whole" in told
    assert not (tmp_path / "other").exists()


def test_a_base_that_adapters_of_runs_need_is_not_deleted_by_the_way(broker, tmp_path, cli):
    """The refusal names them."""
    base = make(tmp_path, 0, marker=False, name="base")
    path = tmp_path / "out" / "checkpoint-5"
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(safetensors(1))
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)}))
    with trainbus.init("tuned", run="tuned-1") as training:
        training.checkpoint(path, step=5, digest=seal(path, run="tuned-1", name="tuned", step=5).digest)
    assert training.close(timeout=20)
    code, told = cli("delete", base, "--yes")
    assert code == 4
    assert "tuned-1:5" in told
    assert cli("delete", base, "--protected", "--yes")[0] == 0
