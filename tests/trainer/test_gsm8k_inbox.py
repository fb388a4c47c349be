"""An endless training on real data: three files of different formats, a pause, kill -9 and a second start are one run."""

from __future__ import annotations

import gzip
import json
import os
import statistics
import subprocess
import sys
from itertools import pairwise

import psutil
import pytest

from tests.support import trainbus, wait_for
from trainbus.bus.client import Client
from trainbus.bus.events import CommandResult, Job, Step
from trainbus.trainer_node import checkpoints

LONG = 600.0
EXAMPLES, BATCH = 100, 4
"""Of each file; so each is 25 steps, and the second one begins after the warm-up."""
STEPS = EXAMPLES // BATCH
SHORT = 300
"""Characters, which are tokens here: what is longer than max_length would be cut or left out."""
NAMES = ["a.jsonl.gz", "b.json", "c.parquet"]


class Story:
    """The inbox, its daemon, and what the bus tells of them."""

    def __init__(self, folder, base, client):
        self.folder, self.client = folder, client
        self.inbox, self.output = folder / "inbox", folder / "out"
        self.inbox.mkdir()
        self._config = folder / "train.toml"
        self._config.write_text(f"""
            [trainer]
            model = "{base}"
            inbox = "{self.inbox}"
            output = "{self.output}"
            method = "full"
            learning_rate = 1e-3
            max_length = 384
            batch_size = {BATCH}
            save_steps = 7
            settle_seconds = 0.2
            retry_seconds = 0.1
        """)
        self.process = None

    def start(self, *options):
        with (self.folder / "daemon.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainbus", "train", "--config", str(self._config), *options],
                stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def log(self):
        return (self.folder / "daemon.log").read_text()

    def until(self, condition, what):
        """Wait for it, and fail at once when the daemon has ended."""
        ended = lambda: self.process.poll() is not None  # noqa: E731
        wait_for(lambda: condition() or ended(), LONG, what=f"{what}: {self.log()}")
        assert condition(), f"{what}: {self.log()}"

    def steps(self):
        return list(self.client.events(kinds=["step"]))

    def saved(self):
        """The marker of the newest whole checkpoint."""
        whole = [path for path in checkpoints.listed(self.output) if not checkpoints.faults(path)]
        return checkpoints.read_marker(whole[-1]) if whole else None

    def ask(self, verb):
        command = self.client.command(self.steps()[-1].run, verb)

        def answered():
            told = [event for event in self.client.events(kinds=["command_result"]) if event.command == command]
            return [event for event in told if isinstance(event, CommandResult) and event.state == "done"]

        self.until(answered, f"{verb} is done")

    def kill_all(self):
        """The daemon and its worker, at once."""
        family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for member in family:
            member.kill()
        self.process.wait()
        psutil.wait_procs(family, LONG)


@pytest.fixture
def story(tmp_path, trainbus_home, tiny_base):
    """A broker and an inbox; whatever runs is ended with the test."""
    pytest.importorskip("torch")
    (tmp_path / "trainbus.toml").write_text("plugins = []\n")
    up = trainbus("up", "--detach", "--config", str(tmp_path / "trainbus.toml"), timeout=120)
    assert up.returncode == 0, up.stdout + up.stderr
    with Client() as client:
        story = Story(tmp_path, base=tiny_base, client=client)
        yield story
        if story.process is not None and story.process.poll() is None:
            story.kill_all()
    trainbus("down")


def write(path, rows):
    """Each ending has keys of its own: question and answer, alpaca, prompt and completion."""
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps([{"instruction": row["question"], "input": "", "output": row["answer"]} for row in rows]))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {"prompt": [row["question"] for row in rows], "completion": [row["answer"] for row in rows]}
        parquet.write_table(pyarrow.table(columns), path)


@pytest.mark.slow
@pytest.mark.timeout(2_400)
def test_three_files_a_pause_and_kill_9_are_one_training(story, shared_data):
    """The right count of examples, steps that never reset, a rate that stays, and a loss without a jump at the borders (A-55 to A-57)."""
    source = shared_data / "gsm8k" / "train.jsonl"
    if not source.exists():
        pytest.skip("no ../shared/data/gsm8k/train.jsonl")
    given = [json.loads(line) for line in source.read_text().splitlines()]
    rows = [row for row in given if len(row["question"]) + len(row["answer"]) < SHORT][: 3 * EXAMPLES]
    parts = {name: rows[at * EXAMPLES : (at + 1) * EXAMPLES] for at, name in enumerate(NAMES)}
    story.start()
    write(story.inbox / NAMES[0], parts[NAMES[0]])
    story.until(lambda: len(story.steps()) >= 5, "steps of the first file")
    story.ask("pause")
    at_pause = len(story.steps())
    for name in NAMES[1:]:
        write(story.inbox / name, parts[name])
    story.until(lambda: {event.file for event in story.client.events(kinds=["job"])} == set(NAMES), "all files are queued")
    assert len(story.steps()) == at_pause
    story.ask("resume")
    story.until(lambda: (marker := story.saved()) is not None and marker.step > STEPS, "a checkpoint in the second file")
    story.until(lambda: story.steps()[-1].step > story.saved().step, "a step that no checkpoint has seen")
    story.kill_all()
    at_death = story.saved()
    story.start("--until-empty")
    assert story.process.wait(LONG) == 0, story.log()

    last = story.saved()
    assert (last.step, last.examples) == (3 * STEPS, 3 * EXAMPLES)
    assert sorted(path.name for path in (story.inbox / "completed").iterdir()) == NAMES
    jobs = [event for event in story.client.events(kinds=["job"]) if isinstance(event, Job) and event.state == "completed"]
    assert {event.file: event.examples for event in jobs} == dict.fromkeys(NAMES, EXAMPLES)
    steps = [event for event in story.steps() if isinstance(event, Step)]
    assert len({event.run for event in steps}) == 1
    for first, second in pairwise(steps):
        resumed = second.step == at_death.step + 1 and first.source != second.source
        assert second.step == first.step + 1 or resumed, (first, second)
    seen = {event.step: event for event in steps}  # of a step that was made twice, the one that counts
    assert sorted(seen) == list(range(1, 3 * STEPS + 1))
    assert [seen[step].examples for step in sorted(seen)] == [BATCH * step for step in sorted(seen)]
    assert seen[2 * STEPS + 1].metrics["learning_rate"] == pytest.approx(1e-3)
    losses = {step: event.metrics["loss"] for step, event in seen.items()}
    for border in (STEPS, 2 * STEPS):
        before = statistics.fmean(losses[step] for step in range(border - 4, border + 1))
        after = statistics.fmean(losses[step] for step in range(border + 1, border + 6))
        assert after == pytest.approx(before, rel=0.2)
    assert losses[3 * STEPS] < losses[1]
