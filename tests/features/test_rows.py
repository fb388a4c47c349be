"""Promises to users that no other test shows as a whole. Each docstring names the row of the feature list."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import msgspec
import pytest

import trainbus as package
from tests.faults.conftest import storm as storm
from tests.faults.storm import HANG_SECONDS
from tests.hosting.conftest import site as site
from tests.support import trainbus, wait_for
from tests.trainer.conftest import published as published
from trainbus.bus import events
from trainbus.bus.config import BusConfig
from trainbus.bus.home import read_connection
from trainbus.bus.publisher import Publisher


def test_l01_l02_l36_kinds_states_and_severities_are_enumerated_and_others_are_refused(storm):
    """L-01, L-02, L-36: `trainbus schema` lists them; an event with a wrong one is replaced by a gap event that says why.

    A kind that this version does not know is passed on as it is.
    """
    schema = json.loads(trainbus("schema").stdout)
    assert set(events.BY_KIND) <= set(json.dumps(schema).replace('"', " ").split())
    assert '"info","warning","critical"' in json.dumps(schema, separators=(",", ":")) or '"critical","info","warning"' in json.dumps(
        schema, separators=(",", ":")
    )
    storm.up()
    publisher = Publisher("r", root=storm.root)
    wrong = [events.Alert(id="a", severity="loud"), events.Alert(id="a", state="again"), events.Job(id="j", state="flying")]
    for event in wrong:
        publisher.publish(event)
    publisher.publish(events.Job(id="j", state="processing"))
    assert publisher.close(20.0)
    assert [event.kind for event in storm.events() if event.source == publisher.source] == ["gap", "gap", "gap", "job"]
    for gap, word in zip(storm.events("gap"), ("severity", "state", "state"), strict=True):
        assert word in gap.reason
    later = events.decode(msgspec.msgpack.encode({"kind": "comet", "run": "r", "tail": 7}))
    assert (later.kind, later.fields) == ("comet", {"tail": 7})


def test_l03_l04_plain_and_coroutine_hooks_are_called_once_for_each_event_and_may_publish(storm, site):
    """L-03, L-04: exact counts for a hook of a kind and a hook for all; what a hook publishes comes back to it, without a deadlock."""
    site.install(
        "counter",
        """
        class P:
            @hookimpl
            def on_step(self, event, context):
                context.state["steps"] = context.state.get("steps", 0) + 1
                context.publish(events.Metric(name="echo", value=1.0, step=event.step))
            @hookimpl
            async def on_metric(self, event, context):
                await asyncio.sleep(0)
                context.state["metrics"] = context.state.get("metrics", 0) + 1
            @hookimpl
            async def on_event(self, event, context):
                if event.kind in ("step", "metric"):
                    context.state["all"] = context.state.get("all", 0) + 1
        """,
    )
    storm.up("counter")
    storm.publish(200)
    wait_for(lambda: storm.state("counter") == {"steps": 200, "metrics": 200, "all": 400}, what="exact counts")


def test_l05_w02_slow_raising_and_dying_plugins_do_not_touch_training(storm, site):
    """L-05, W-02: one hook takes long, one raises, and then every plugin is killed: all steps are there, and no call waited."""
    site.install("slow", "class P:\n    @hookimpl\n    def on_step(self, event): time.sleep(20.0)\n")
    site.install("raising", "class P:\n    @hookimpl\n    def on_step(self, event): raise ValueError('no')\n")
    storm.up("slow", "raising", "alpha")
    trainer = storm.trainer()
    trainer.wait_for_returned(500)
    wait_for(lambda: any(alert.plugin == "raising" for alert in storm.events("alert")), what="the report of what was raised")
    for name in ("slow", "raising", "alpha"):
        os.kill(storm.wait_for_state(name, "running").pid, signal.SIGKILL)
    trainer.wait_for_more(1_000)
    storm.finish(trainer)
    assert trainer.board.longest < HANG_SECONDS, "a publish() that waited for the slow hook would have taken 20 s"
    steps = [event.step for event in storm.events("step")]
    assert steps == list(range(trainer.board.returned - 2))
    assert storm.judge(at_least=1_500).explained == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_l06_a_flood_of_a_million_events_without_a_broker_is_bounded_and_its_drops_are_reported(storm):
    """L-06: memory and disk stay at their bounds, the count of what was dropped is exact, and a gap event says so afterwards."""
    script = """
        import resource, sys, trainbus
        from trainbus.bus.config import BusConfig
        run = trainbus.init("flood", run="flood", settings=BusConfig(spool_segment_bytes=1 << 20, spool_bytes=8 << 20, memory_events=5_000))
        def rss():
            return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
        for step in range(100_000):
            run.step(step, loss=1.0)
        before = rss()
        for step in range(100_000, 1_000_000):
            run.step(step, loss=1.0)
        stats = run.stats()
        print(rss() - before, stats.published, stats.dropped, stats.spooled_bytes, flush=True)
        sys.stdin.read()
        sys.exit(0 if run.close(timeout=120.0) else 3)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        grown, published, dropped, spooled = map(int, process.stdout.readline().split())
        assert grown < 20 * 2**20
        assert spooled <= 8 * 2**20
        assert published == 1_000_001
        assert dropped > 500_000
        storm.up()
        wait_for(lambda: storm.events("gap"), 60.0, what="the gap event")
        process.stdin.close()
        assert process.wait(180) == 0
    gaps = storm.events("gap")
    assert sum(gap.last_seq - gap.first_seq + 1 for gap in gaps) == dropped
    assert len(storm.records()) == published + 1 - dropped + len(gaps)


def test_l11_an_export_may_be_limited_in_time_and_number(storm):
    """L-11: the number of lines is right."""
    storm.up()
    run = package.init("limits", run="limits")
    for step in range(100):
        run.step(step, loss=1.0)
    assert run.close(timeout=120.0)

    def lines(*options: str) -> list[dict]:
        done = trainbus("runs", "export", "limits", *options)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert len(lines()) == 102
    assert [line["step"] for line in lines("--kind", "step", "--limit", "30")] == list(range(30))
    assert len(lines("--since", "1h")) == 102
    assert lines("--since", "0s") == []
    assert trainbus("runs", "export", "limits", "--since", "soon").returncode == 2


@pytest.mark.slow
def test_l37_the_helpers_are_typed(tmp_path, repository):
    """L-37: mypy --strict passes on a right program and finds the mistakes of a wrong one."""
    pytest.importorskip("mypy")
    right = """
        import trainbus

        with trainbus.init("x", config={"lr": 1e-4}) as run:
            with run.phase("train") as phase:
                phase.progress(0.5)
            run.step(1, total_steps=2, loss=0.5)
            run.eval(1, dataset="d", accuracy=0.5)
            run.sample(1, prompt="2+2?", answer="4", correct=True)
            identity: str = run.checkpoint("out", step=1, loss=0.5)
            for command in run.commands():
                run.result(command, "refused", reason=identity)
    """
    wrong = """
        import trainbus

        run = trainbus.init("x")
        run.step("one")
        run.sample(1, prompt=7)
        run.close("splendid")
        run.stpe(1)
    """
    for name, source in (("right", right), ("wrong", wrong)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))

    def mypy(name: str) -> str:
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / name)]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(repository)}, capture_output=True, text=True, check=False
        ).stdout

    assert "Success" in mypy("right.py")
    found = mypy("wrong.py")
    assert [number for number in (5, 6, 7, 8) if f"wrong.py:{number}: error" not in found] == [], found


def test_a71_a_stale_process_id_is_taken_over(storm):
    """A-71: after kill -9 of everything, lock and connection file name dead processes; the next start is not kept from anything."""
    storm.up("alpha")
    before = read_connection(storm.root)
    storm.kill_everything()
    assert read_connection(storm.root) == before
    up = trainbus("up", "--detach", "--config", str(storm.config))
    try:
        assert up.returncode == 0, up.stderr
        assert read_connection(storm.root).pid != before.pid
    finally:
        assert trainbus("down").returncode == 0


def test_a123_everything_listens_on_this_machine_only(storm):
    """A-123: by default; every listening socket of supervisor, broker and plugins, the page's included."""
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("aiohttp")
    storm.up("web", web={"port": 0})
    wait_for(lambda: storm.plugin("web").url, what="the page's address")
    pids = [storm.process.pid, storm.broker_pid(), storm.wait_for_state("web", "running").pid]
    listening = [one.laddr for pid in pids for one in psutil.Process(pid).net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert len(listening) == 3
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert BusConfig().bind == "127.0.0.1"


@pytest.mark.slow
def test_b12_the_six_phases_of_a_training_start_end_and_progress(published, tmp_path):
    """B-12: load_data, load_model, tokenize, train, evaluate, save: as many ends as starts; a progress that falls is none."""
    pytest.importorskip("torch")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    (tmp_path / "shape.json").write_text(json.dumps(shape))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"question": f"{i}+1?", "answer": str(i + 1)}) + "\n" for i in range(60)))
    options = {"method": "full", "max_steps": 4, "batch_size": 2, "eval_fraction": 0.1, "eval_steps": 2, "save_steps": 2, "output": "out"}
    done = trainbus(
        "train", "data.jsonl", "--model", "config:shape.json", *(f"--set=trainer.{key}={value}" for key, value in options.items()),
        cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    phases = published("phase")
    assert {event.name for event in phases} == {"load_data", "load_model", "tokenize", "train", "evaluate", "save"}
    for name in {event.name for event in phases}:
        own = [event for event in phases if event.name == name]
        edges = [event.state for event in own if event.state != "progress"]
        assert edges == ["started", "ended"] * (len(edges) // 2)
        reached = 0.0
        for event in own:
            reached = 0.0 if event.state == "started" else reached
            assert event.progress is None or reached <= event.progress <= 1.0
            reached = event.progress or reached
            assert event.state != "ended" or event.progress == 1.0
