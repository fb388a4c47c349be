"""What a training pays while its checkpoints are examined: the same run's steps during an examination, and between two of them.

Each checkpoint begins an examination that ends before the next one is saved. So steps with and without it take turns in one training, and
whatever else the machine does falls on both. A step that lies on a border, such as the one with the save, counts for neither.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from benchmarks.common import free_port, server, spread, temporary_home, wait_until
from benchmarks.frame import Result, Table, absent_or_version

SHAPE = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
BATCH, WARM_UP = 4, 10
QUESTIONS, WORDS = 24, 32
ELSEWHERE_SECONDS = 0.5
"""The stand-in's time for one answer; it only waits."""
MACHINE = "on this machine"
MODEST = "on this machine, `nice -n 19`, one thread"
ELSEWHERE = "elsewhere (a stand-in that only waits)"
PREFIX = {MACHINE: [], MODEST: ["nice", "-n", "19"]}
THREADS = {MACHINE: [], MODEST: ["--threads", "1"]}


def write_inputs(folder: Path, examples: int) -> None:
    """A model's shape, a file to train on, and questions."""
    (folder / "model.json").write_text(json.dumps(SHAPE))
    rows = [json.dumps({"question": f"What is {i} plus {i}? " * 6, "answer": f"{2 * i} " * 10}) + "\n" for i in range(examples)]
    (folder / "data.jsonl").write_text("".join(rows))
    (folder / "exam.jsonl").write_text("".join(rows[:QUESTIONS]))


@contextmanager
def stand_in() -> Iterator[str]:
    """A server on another machine, as far as this one notices: answers take time, and no processor here."""
    from aiohttp import web

    async def chat(_: web.Request) -> web.Response:
        await asyncio.sleep(ELSEWHERE_SECONDS)
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": "4"}}]})

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)


@contextmanager
def trainbus_serve(case: str, output: Path) -> Iterator[str]:
    """`trainbus serve`, which reads checkpoints where they are saved."""
    import urllib.request

    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [*PREFIX[case], sys.executable, "-m", "trainbus", "serve", "--allow", str(output), "--port", str(port), "--device", "cpu"]
    # As somebody who waits for it: the first import of torch takes a while on a busy machine.
    with server([*command, *THREADS[case]], lambda: urllib.request.urlopen(f"{url}/health", timeout=5).read(), deadline=300):
        yield url


def train(case: str, steps: int, every: int) -> dict[str, list[float]]:
    """Milliseconds of steps ``during`` examinations and ``between`` them, and how long each examination took (``seconds``)."""
    from trainbus.testing.hosted import LocalBus

    with temporary_home() as folder:
        write_inputs(folder, BATCH * 64)
        output = folder / "out"
        output.mkdir()
        os.environ["TRAINBUS_HOME"] = str(folder / "home")
        with stand_in() if case == ELSEWHERE else trainbus_serve(case, output) as url, LocalBus(folder / "home") as bus:
            settings = {"url": f"{url}/v1", "questions": str(folder / "exam.jsonl"), "policy": "every", "timeout": 600, "max_tokens": WORDS}
            engine = "openai" if case == ELSEWHERE else "trainbus"
            with bus.host("inference", config=settings | {"engine": engine}) as host:
                host.wait_until_running()
                values = {
                    "model": f"config:{folder / 'model.json'}", "method": "full", "output": str(output), "max_steps": steps,
                    "batch_size": BATCH, "save_steps": every, "max_length": 512, "epochs": 1000,
                }  # fmt: skip
                sets = [part for name, value in values.items() for part in ("--set", f"trainer.{name}={json.dumps(value)}")]
                command = [sys.executable, "-m", "trainbus", "train", str(folder / "data.jsonl"), *sets]
                # One thread: with more, a core that another process has for a moment holds up the others at every layer.
                one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=one_thread)
                saved = [event for event in bus.events("checkpoint") if event.state == "complete"]
                wait_until(lambda: len(_results(bus)) == len(saved), 600)
            return _sorted(bus.events("step"), saved, _results(bus))


def _results(bus):
    return [event for event in bus.events("eval") if event.checkpoint]


def _sorted(steps, saved, results) -> dict[str, list[float]]:
    """Steps by whether they lie wholly in an examination, or wholly outside."""
    ended = {event.checkpoint: event.time for event in results}
    spans = [(event.time, ended[event.id]) for event in saved]
    found: dict[str, list[float]] = {"during": [], "between": [], "seconds": [(end - begin) / 1e9 for begin, end in spans]}
    for before, after in list(pairwise(steps))[WARM_UP:]:
        inside = any(begin <= before.time and after.time <= end for begin, end in spans)
        outside = all(after.time < begin or end < before.time for begin, end in spans)
        # The step behind a checkpoint's has the save in it.
        saves = any(before.time <= begin <= after.time or event.step == before.step for event, (begin, _) in zip(saved, spans, strict=True))
        if (inside or outside) and not saves:
            found["during" if inside else "between"].append((after.time - before.time) / 1e6)
    return found


def bench(quick):
    rounds, steps, every = (1, 450, 150) if quick else (4, 900, 150)
    found = {case: [] for case in (ELSEWHERE, MACHINE, MODEST)}
    for number in range(rounds):
        for case in reversed(found) if number % 2 else found:
            found[case].append(train(case, steps, every))
    rows, more = [], {}
    for case, told in found.items():
        during, between = (
            [statistics.fmean(one[kind]) for one in told if one["during"] and one["between"]] for kind in ("during", "between")
        )
        more[case] = [100 * (with_it / without - 1) for with_it, without in zip(during, between, strict=True)]
        seconds = statistics.median(second for one in told for second in one["seconds"])
        rows.append(
            [case, statistics.median(between), statistics.median(during), statistics.median(more[case]), spread(more[case]), seconds]
        )
    about = (
        f"A model of 4 layers on the CPU, one thread, a checkpoint each {every} steps, {QUESTIONS} questions of {WORDS} tokens each; "
        f"{steps} steps a round, {rounds} rounds."
    )
    columns = ["server", "ms a step between", "ms a step during", "% more", "over the rounds", "seconds an examination"]
    peers = {"transformers": absent_or_version("transformers"), "torch": absent_or_version("torch")}
    return Result(
        "Examining",
        about,
        [Table("steps of a training while a checkpoint is examined", columns, rows)],
        [],
        peers,
        {"rounds": found, "more": more},
    )
