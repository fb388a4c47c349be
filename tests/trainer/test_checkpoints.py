"""A checkpoint is whole when its marker says so and its files agree; only whole ones are resumed from."""

from __future__ import annotations

import pytest

from trainbus.bus.events import MARKER
from trainbus.errors import ConfigError, ModelError
from trainbus.trainer_node import checkpoints
from trainbus.trainer_node.checkpoints import choose, faults, listed, read_marker, require_whole, seal, unseal
from trainbus.trainer_node.config import Resume, TrainerConfig
from trainbus.trainer_node.plan import make_plan
from trainbus.trainer_node.sealing import Sealer

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth")


@pytest.fixture
def make(tmp_path):
    """A directory with the files of a checkpoint; sealed unless told otherwise."""

    def create(step, *, sealed=True, without=()):
        path = tmp_path / f"checkpoint-{step}"
        path.mkdir()
        for name in FILES:
            if name not in without:
                (path / name).write_text(f"{name} of {step}")
        if sealed:
            seal(path, run="r", name="n", step=step, examples=10, tokens=99)
        return path

    return create


def test_the_marker_names_every_file_with_size_and_digest(make):
    """Who has the marker can check the directory without us."""
    path = make(3)
    marker = read_marker(path)
    assert marker.id == f"r@3:{marker.digest[:16]}"
    assert set(marker.files) == set(FILES)
    assert marker.files["optimizer.pt"].bytes == len("optimizer.pt of 3")
    assert (marker.run, marker.step, marker.examples, marker.tokens) == ("r", 3, 10, 99)
    assert faults(path, contents=True) == []


def test_the_digest_follows_from_names_and_contents_alone(make, tmp_path):
    """The same content has the same digest anywhere; another content, or the same under another name, has another."""
    path = make(3)
    first = read_marker(path).digest
    copy = path.rename(tmp_path / "elsewhere")
    assert seal(copy, run="x", name="y", step=8).digest == first
    (copy / "optimizer.pt").rename(copy / "optimizer2.pt")
    assert seal(copy, run="r", name="n", step=3).digest != first


def test_checkpoints_are_ordered_by_number(make, tmp_path):
    """999 comes before 1000, and directories of other names don't count."""
    for step in (1000, 999, 20):
        make(step, sealed=False)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert [path.name for path in listed(tmp_path)] == ["checkpoint-20", "checkpoint-999", "checkpoint-1000"]
    seal(tmp_path / "checkpoint-999", run="r", name="n", step=999)
    seal(tmp_path / "checkpoint-1000", run="r", name="n", step=1000)
    assert choose(tmp_path)[0].name == "checkpoint-1000"


def test_a_directory_without_a_marker_is_no_checkpoint_and_is_passed_over(make, tmp_path):
    """A killed process leaves a part of a save behind: the state before it is the true one."""
    whole = make(4)
    torn = make(8, sealed=False, without=("optimizer.pt",))
    assert choose(tmp_path) == (whole, [torn])
    assert faults(torn) == [f"{MARKER} is missing: it was never finished", "optimizer.pt is missing"]


def test_a_damaged_checkpoint_is_refused_with_what_is_missing_and_the_next_older_one_is_offered(make, tmp_path):
    """Going back behind a damaged state is for a person to decide: no silent fresh start, no silent step back."""
    make(2)
    older = make(4)
    newest = make(8)
    (newest / "optimizer.pt").unlink()
    (newest / "scheduler.pt").write_text("cut")
    with pytest.raises(ModelError) as caught:
        choose(tmp_path)
    assert "optimizer.pt is missing" in caught.value.problem
    assert "scheduler.pt has 3 bytes instead of 17" in caught.value.problem
    assert caught.value.facts["offered"] == str(older)
    assert f"--resume-from {older}" in caught.value.hint


def test_changed_content_of_the_same_size_is_found_when_contents_are_read(make):
    """Sizes are compared always, contents on request."""
    path = make(2)
    (path / "optimizer.pt").write_text("optimizer.pt 0f 2")
    assert faults(path) == []
    assert faults(path, contents=True) == ["optimizer.pt has changed"]


def test_no_checkpoint_and_no_whole_one_are_told_apart(make, tmp_path):
    """An empty output and an output full of torn saves need different advice."""
    with pytest.raises(ModelError, match="has no checkpoint"):
        choose(tmp_path)
    torn = make(8, sealed=False, without=("optimizer.pt", "scheduler.pt"))
    with pytest.raises(ModelError, match=r"is whole.*optimizer\.pt is missing; scheduler\.pt is missing"):
        choose(tmp_path)
    for name in ("optimizer.pt", "scheduler.pt"):
        (torn / name).write_text("x")
    with pytest.raises(ModelError) as caught:
        choose(tmp_path)
    assert f"--resume-from {torn}" in caught.value.hint


def test_a_checkpoint_of_another_program_can_be_named(make):
    """Trainer's own checkpoints have no marker; with all files that resuming needs they are taken when named."""
    require_whole(make(5, sealed=False))
    with pytest.raises(ModelError, match=r"optimizer\.pt is missing"):
        require_whole(make(6, sealed=False, without=("optimizer.pt",)))


SHARDED = (
    "pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0/__1_0.distcp",
    "optimizer_0/.metadata", "optimizer_0/__0_0.distcp", "optimizer_0/__1_0.distcp",
    "scheduler.pt", "trainer_state.json", "rng_state_0.pth", "rng_state_1.pth", "training_args.bin",
)  # fmt: skip
WHOLE = ("pytorch_model_fsdp.bin", "optimizer.bin", "scheduler.pt", "trainer_state.json", "rng_state_0.pth", "rng_state_1.pth")
LOCAL = (
    "pytorch_model_fsdp_0_rank0.bin", "pytorch_model_fsdp_0_rank1.bin", "optimizer_0_rank0.bin", "optimizer_0_rank1.bin", *WHOLE[2:],
)  # fmt: skip


@pytest.mark.parametrize("layout", [SHARDED, WHOLE])
def test_a_checkpoint_of_fsdp_is_whole_in_both_of_its_forms(tmp_path, layout):
    """As transformers 5 and accelerate 1 write them with two processes; each shard is under the marker, and a lost one is named."""
    path = tmp_path / "checkpoint-4"
    for name in layout:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    require_whole(path)
    assert (checkpoints.is_fsdp(path), checkpoints.processes_of(path)) == (True, 2)
    seal(path, run="r", name="n", step=4)
    assert set(read_marker(path).files) == set(layout)
    (path / layout[1]).unlink()
    with pytest.raises(ModelError, match=f"{layout[1]} is missing"):
        require_whole(path)


def test_a_checkpoint_that_fsdp_did_not_finish_or_wrote_for_single_ranks_is_refused(tmp_path):
    """Its metadata come last; local shards can't be read by transformers."""
    for number, layout in enumerate(([name for name in SHARDED if name != "optimizer_0/.metadata"], LOCAL)):
        path = tmp_path / f"checkpoint-{number}"
        for name in layout:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(name)
        with pytest.raises(ModelError, match=r"optimizer_0/\.metadata or optimizer\.bin is missing"):
            require_whole(path)


@pytest.mark.parametrize(("wanted", "layout"), [("ddp", SHARDED), ("auto", WHOLE), ("fsdp", FILES)])
def test_what_fsdp_has_written_only_fsdp_goes_on_with(tmp_path, tiny_base, questions, wanted, layout):
    """transformers would fail, or load nothing; here it is said what to set."""
    path = tmp_path / "checkpoint-4"
    for name in layout:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    config = TrainerConfig(model=str(tiny_base), data=str(questions), parallel=wanted)
    with pytest.raises(ConfigError, match="was saved") as caught:
        make_plan(config, Resume(path=str(path)))
    assert "trainer.parallel" in caught.value.hint


def test_unsealing_takes_the_promise_back(make):
    """Before a directory is written again it must stop to call itself whole."""
    path = make(5)
    unseal(path)
    unseal(path)
    assert read_marker(path) is None


def test_the_sealer_reports_in_order_and_survives_a_directory_that_vanished(make, tmp_path):
    """A checkpoint deleted before it was digested is reported as an error, and the next one is sealed."""
    told = []
    sealer = Sealer(lambda path, result: told.append((path.name, type(result).__name__)))
    gone = tmp_path / "nowhere" / "checkpoint-1"
    whole = make(2, sealed=False)
    broken = make(3, sealed=False)
    (broken / "optimizer.pt").unlink()
    (broken / "optimizer.pt").symlink_to("/proc/self/mem")  # a file that can be opened and not read
    sealer.submit(broken, run="r", name="n", step=3)
    sealer.submit(whole, run="r", name="n", step=2)
    sealer.close()
    assert told == [("checkpoint-3", "OSError"), ("checkpoint-2", "Marker")]
    assert not (gone.parent).exists()
    stats = sealer.stats()
    assert (stats.sealed, stats.failed, stats.pending) == (1, 1, 0)


def test_the_run_file_brings_the_run_back(tmp_path):
    """A resumed job finds its run id where its output is."""
    checkpoints.write_run_file(tmp_path, checkpoints.RunFile(run="r-1", name="n", method="lora"))
    assert checkpoints.read_run_file(tmp_path).run == "r-1"
    assert checkpoints.read_run_file(tmp_path / "other") is None
