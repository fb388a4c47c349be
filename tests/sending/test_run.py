"""`trainbus.init` and `Run`: what a training loop sees."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy
import pytest

import trainbus
from tests.sending.stand_in import StandIn, wait_for
from trainbus.bus.events import (
    Checkpoint,
    Command,
    CommandResult,
    Eval,
    Gap,
    Metric,
    Phase,
    RunEnded,
    RunStarted,
    Sample,
    Step,
)
from trainbus.bus.facts import default_run_id, plain, safe_run_id
from trainbus.errors import ConfigError

WAIT = 30.0


@pytest.fixture
def broker(root: Path) -> Iterator[StandIn]:
    with StandIn(root) as stand_in:
        yield stand_in


def test_a_run_tells_its_whole_life(broker: StandIn, tmp_path: Path) -> None:
    model = tmp_path / "step-2"
    model.mkdir()
    (model / "weights").write_bytes(b"x" * 100)
    with trainbus.init("demo", config={"lr": 1e-4, "path": tmp_path}) as run:
        with run.phase("train") as phase:
            phase.progress(0.5)
            run.step(1, loss=0.5, total_steps=2, epoch=0.1, examples=8, tokens=100, lr=1)
        run.eval(2, dataset="val", accuracy=0.25, examples=4, duration=1.5)
        run.sample(2, prompt="1+1", expected="2", answer="3", correct=False, loss=0.7, example="e1")
        identity = run.checkpoint(model, step=2, loss=0.4)
        run.metric("gpu_hours", 3, step=2, unit="h")
    assert run.close(timeout=WAIT)
    started, begun, half, step, ended, evaluation, sample, checkpoint, metric, end = broker.all
    assert isinstance(started, RunStarted)
    assert (started.name, started.run, started.pid, started.config) == ("demo", run.id, os.getpid(), {"lr": 1e-4, "path": str(tmp_path)})
    assert started.versions["python"] == sys.version.split()[0]
    assert isinstance(begun, Phase)
    assert isinstance(half, Phase)
    assert isinstance(ended, Phase)
    assert [(p.state, p.progress) for p in (begun, half, ended)] == [("started", None), ("progress", 0.5), ("ended", 1.0)]
    assert isinstance(step, Step)
    assert (step.step, step.metrics, step.total_steps, step.tokens) == (1, {"loss": 0.5, "lr": 1.0}, 2, 100)
    assert isinstance(evaluation, Eval)
    assert (evaluation.metrics, evaluation.dataset, evaluation.examples) == ({"accuracy": 0.25}, "val", 4)
    assert isinstance(sample, Sample)
    assert (sample.example, sample.loss, sample.correct) == ("e1", 0.7, False)
    assert isinstance(checkpoint, Checkpoint)
    assert (checkpoint.id, checkpoint.path, checkpoint.bytes, checkpoint.state) == (identity, str(model), 100, "complete")
    assert isinstance(metric, Metric)
    assert (metric.name, metric.value, metric.unit) == ("gpu_hours", 3.0, "h")
    assert isinstance(end, RunEnded)
    assert (end.outcome, end.step) == ("completed", 1)
    assert broker.byes == [started.source]


@pytest.mark.parametrize(
    ("error", "outcome", "reason", "code"),
    [
        (ValueError("bad batch"), "failed", "ValueError: bad batch", None),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt", None),
        (SystemExit(3), "stopped", "SystemExit: 3", 3),
        (SystemExit("no data"), "stopped", "SystemExit: no data", 1),
    ],
    ids=["exception", "interrupt", "exit", "exit with text"],
)
def test_the_with_block_says_how_the_run_ended(broker: StandIn, error: BaseException, outcome: str, reason: str, code: int | None) -> None:
    run = trainbus.init("demo")

    def train() -> None:
        with run:
            run.step(7, loss=1.0)
            raise error

    with pytest.raises(type(error)):
        train()
    assert run.close(timeout=WAIT)
    end = broker.all[-1]
    assert isinstance(end, RunEnded)
    assert (end.outcome, end.reason, end.exit_code, end.step) == (outcome, reason, code, 7)
    assert ("raise error" in "".join(end.last_lines)) == (outcome == "failed")


@pytest.mark.parametrize(
    ("ending", "outcome", "reason"),
    [
        ("", "completed", "the process ended without close()"),
        ("raise ValueError('bad batch')", "failed", "ValueError: bad batch"),
        ("raise KeyboardInterrupt", "stopped", "KeyboardInterrupt"),
        ("run.close('stopped', reason='enough')", "stopped", "enough"),
    ],
)
def test_a_process_that_ends_without_close_says_what_it_knows(root: Path, broker: StandIn, ending: str, outcome: str, reason: str) -> None:
    """ "completed" would be a lie while an exception ends the process."""
    code = f"import trainbus\nrun = trainbus.init('demo')\nrun.step(1, loss=1.0)\n{ending}\n"
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TRAINBUS_HOME": str(root)}, capture_output=True, timeout=60, check=False
    )
    end = broker.all[-1]
    assert isinstance(end, RunEnded)
    assert (end.outcome, end.reason) == (outcome, reason)


def test_everything_works_with_no_broker_anywhere(tmp_path: Path) -> None:
    run = trainbus.init("demo")
    for step in range(100):
        run.step(step, loss=1.0)
    run.checkpoint(tmp_path / "not there", step=100)
    assert run.commands() == []
    assert not run.close(timeout=WAIT)
    assert run.stats().published == 103


def test_numpy_numbers_may_stand_anywhere_and_a_bad_step_costs_that_event_only(broker: StandIn) -> None:
    with trainbus.init("demo") as run:
        run.step(numpy.int64(5), loss=1.0, epoch=numpy.float64(0.5), tokens=numpy.int32(7))
        run.step("six", loss=1.0)  # type: ignore[arg-type]
        run.eval(numpy.int64(6), accuracy=numpy.float32(0.5))
    assert run.close(timeout=WAIT)
    _, step, gap, evaluation, end = broker.all
    assert (step.step, step.epoch, step.tokens) == (5, 0.5, 7)
    assert isinstance(gap, Gap)
    assert (evaluation.step, evaluation.metrics) == (6, {"accuracy": 0.5})
    assert isinstance(end, RunEnded)


def test_only_the_first_close_counts(broker: StandIn) -> None:
    with trainbus.init("demo") as run:
        run.close("stopped", reason="enough")
    assert run.close(timeout=WAIT)
    assert [event.outcome for event in broker.all if isinstance(event, RunEnded)] == ["stopped"]


def test_a_run_ends_without_waiting_for_a_broker_that_is_silent(broker: StandIn) -> None:
    """The end is on its way when close() returns; who wants to know can still wait for it."""
    run = trainbus.init("demo")
    assert run.flush(WAIT)
    broker.hold = True
    assert not run.close()
    assert run.close(timeout=WAIT)
    assert [type(event) for event in broker.all] == [RunStarted, RunEnded]


def test_a_process_waits_at_its_exit_for_the_end_that_close_did_not_wait_for(root: Path, broker: StandIn) -> None:
    code = "import trainbus\nrun = trainbus.init('demo')\nrun.flush(30)\nprint('running', flush=True)\ninput()\nprint(run.close())"
    environment = {**os.environ, "TRAINBUS_HOME": str(root)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        broker.hold = True
        assert process.communicate(b"end\n", WAIT)[0] == b"False\n"
    assert [type(event) for event in broker.all] == [RunStarted, RunEnded]
    assert not list((root / "spool").iterdir())


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_worker_of_multiprocessing_waits_at_its_end_too(root: Path, broker: StandIn, method: str) -> None:
    """A forked one ends without atexit."""
    worker = multiprocessing.get_context(method).Process(target=train_in_a_worker)
    worker.start()
    worker.join(WAIT)
    assert worker.exitcode == 0
    assert [type(event) for event in broker.all] == [RunStarted, Step, RunEnded]
    assert not list((root / "spool").iterdir())


def train_in_a_worker() -> None:
    run = trainbus.init("demo")
    run.step(1, loss=1.0)
    run.close()


def test_a_home_that_is_removed_behind_close_costs_a_line_and_no_traceback(
    root: Path, broker: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    broker.mute = True
    run = trainbus.init("demo")
    shutil.rmtree(root / "spool")
    run.close(timeout=0)
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("WARNING", None)]
    assert "somebody has removed" in caplog.text


def test_commands_are_polled_and_answered(broker: StandIn) -> None:
    with trainbus.init("demo") as run:
        wait_for(lambda: broker.hellos)
        broker.deliver(Command(id="c1", verb="save", run=run.id))
        got: list[Command] = []
        wait_for(lambda: got.extend(run.commands()) or got)
        run.result(got[0], reason="as asked", path=Path("/there"))
    assert run.close(timeout=WAIT)
    result = broker.all[-2]
    assert isinstance(result, CommandResult)
    assert (result.command, result.verb, result.state, result.result) == ("c1", "save", "done", {"path": "/there"})


def test_resume_goes_on_with_the_same_run(broker: StandIn) -> None:
    first = trainbus.init("demo", run="demo-1")
    assert first.flush(WAIT)
    broker.hold = True
    assert not first.close()
    second = trainbus.init("demo", run="demo-1", resume=True, resumed_step=50)
    assert first.stats().acknowledged == 2, "the second part of a run begins behind the end of the first"
    assert second.close(timeout=WAIT)
    starts = [event for event in broker.all if isinstance(event, RunStarted)]
    assert first.id == second.id == "demo-1"
    assert [(start.resumed_from, start.resumed_step) for start in starts] == [(None, None), ("demo-1", 50)]
    assert len({start.source for start in starts}) == 2
    with pytest.raises(ConfigError, match="needs the id"):
        trainbus.init("demo", resume=True)


def test_other_ranks_publish_steps_only_and_own_nothing(broker: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with trainbus.init("demo") as run:
        run.step(1, loss=1.0)
        run.eval(1, loss=1.0)
        run.phase("train")
    assert run.close(timeout=WAIT)
    (event,) = broker.all
    assert isinstance(event, Step)
    assert event.rank == 1
    assert not broker.hellos[0].owner


def test_ranks_of_one_launch_agree_on_the_run_and_launches_don_t(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_run_id("demo") != default_run_id("demo")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert default_run_id("demo") == default_run_id("demo")
    code = "from trainbus.bus.facts import default_run_id; print(default_run_id('demo'))"
    shell = f'"{sys.executable}" -c "{code}"; "{sys.executable}" -c "{code}"'
    launches = [
        subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60, check=True).stdout.split() for _ in range(2)
    ]
    assert all(first == second for first, second in launches)
    assert launches[0] != launches[1]


def test_run_ids_can_stand_in_topics_and_file_names() -> None:
    assert safe_run_id("my run/№ 1\0") == "my-run-1" or "/" not in safe_run_id("my run/№ 1\0")
    assert safe_run_id("///") == "run"


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError


def test_a_config_of_anything_becomes_plain_values() -> None:
    endless: dict[str, object] = {}
    endless["self"] = endless
    config = {1: (1, {2}), "big": 10**30, "path": Path("/a"), "rude": Rude(), "type": int, "endless": endless}
    made = plain(config)
    msgspec.msgpack.encode(made)
    msgspec.json.encode(made)
    assert (made["1"], made["path"], made["type"]) == ([1, [2]], "/a", "<class 'int'>")


def test_a_checkpoint_s_derived_digest_changes_with_its_files(tmp_path: Path) -> None:
    run = trainbus.init("demo")
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    first = run.checkpoint(folder, step=1)
    assert run.checkpoint(folder, step=1) == first
    (folder / "a").write_bytes(b"12")
    assert run.checkpoint(folder, step=1) != first
    assert run.checkpoint(folder, step=1, digest="0123456789abcdef99") == f"{run.id}@1:0123456789abcdef"
    run.close(timeout=0)


def test_a_forked_child_ends_without_ending_its_parent_s_run(root: Path, broker: StandIn) -> None:
    """D9: neither atexit nor close() in the child publishes anything or touches the spool."""
    code = """
        import os, sys, trainbus
        run = trainbus.init('demo')
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
        run.step(1, loss=1.0)
        assert run.close(timeout=30)
        """
    environment = {**os.environ, "TRAINBUS_HOME": str(root)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, timeout=60, check=True)
    assert [type(event) for event in broker.all] == [RunStarted, Step, RunEnded]
