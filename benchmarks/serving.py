"""Generation in batches beside one at a time, cached beside uncached, and what it costs to swap an adapter."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import spread
from benchmarks.frame import Bar, Result, Table, absent_or_version

BATCH_BAR, CACHE_BAR = 3.0, 1.0
QUESTIONS, TOKENS = 32, 48
CACHED_TOKENS = 256


def bench(quick: bool) -> Result:
    import torch

    torch.set_num_threads(1)  # on a machine with other work, two threads wait for each other at every layer
    from trainbus.demo.tiny_model import make_base
    from trainbus.serving.loading import load

    rounds = 2 if quick else 5
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        base = make_base(root / "base", steps=0)
        adapters = [_adapter(base, root / f"adapter-{number}", number) for number in range(rounds + 1)]
        loaded = load(base, device="cpu")
        loaded.model.generation_config.eos_token_id = None
        loaded.tokenizer.eos_token = None  # every answer has its full length, so that all do the same work
        speeds = _speeds(loaded, rounds)
        cache = _cache(loaded.model, 1 if quick else 3)
        swaps = _swaps(load(base, device="cpu"), base, adapters)
    one, batched = statistics.median(speeds["one at a time"]), statistics.median(speeds["16 at once"])
    uncached, cached = cache
    columns = ["", "tokens/s (median)", "over the rounds", "times one at a time"]
    rows: list[list[str | float | int]] = [
        [what, statistics.median(found), spread(found, 0), statistics.median(found) / one] for what, found in speeds.items()
    ]
    swap_rows: list[list[str | float | int]] = [[what, spent] for what, spent in swaps]
    return Result(
        "Answering",
        f"{QUESTIONS} questions, {TOKENS} tokens each, on the demo's small model (4 layers of 192), one thread, in turn, {rounds} rounds.",
        [
            Table("generated tokens a second", columns, rows),
            Table(f"{CACHED_TOKENS} tokens for one answer", ["", "s"], [["without a cache", uncached], ["with the cache", cached]]),
            Table("base and adapters", ["", "ms"], swap_rows),
        ],
        [
            Bar("16 at once over one at a time", batched / one, BATCH_BAR, "times", at_most=False),
            Bar("adapters loaded and asked after the base's files were deleted", len(adapters), rounds + 1, "", at_most=False),
            Bar(f"cached over uncached time, {CACHED_TOKENS} tokens", cached / uncached, CACHE_BAR, ""),
        ],
        peers={"transformers": absent_or_version("transformers")},
        data={"speeds": speeds, "swaps": [list(swap) for swap in swaps]},
    )


def _speeds(loaded: Any, rounds: int) -> dict[str, list[float]]:
    from trainbus.serving.generation import Generator
    from trainbus.serving.requests import Options

    questions = [[{"role": "user", "content": f"question {number}" * (1 + number % 4)}] for number in range(QUESTIONS)]
    options = Options(max_tokens=TOKENS)
    found: dict[str, list[float]] = {"transformers, one at a time": [], "one at a time": [], "16 at once": []}
    with Generator(loaded.model, loaded.tokenizer) as generator:
        ways: dict[str, Callable[[], object]] = {
            "transformers, one at a time": lambda: [_generate(loaded, question) for question in questions],
            "one at a time": lambda: [generator.complete(question, options) for question in questions],
            "16 at once": lambda: generator.complete_many(questions, options),
        }
        for way in ways.values():
            way()  # the first calls warm up
        for _ in range(rounds):
            for name, way in ways.items():
                begin = time.perf_counter()
                way()
                found[name].append(QUESTIONS * TOKENS / (time.perf_counter() - begin))
    return found


def _generate(loaded: Any, question: list[dict[str, str]]) -> object:
    import torch

    text = loaded.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = loaded.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        return loaded.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )


def _cache(model: Any, rounds: int) -> tuple[float, float]:
    """Seconds for one answer without and with the key-value cache; the best of some rounds."""
    import torch

    from trainbus.serving.batch import Batch

    prompt = list(range(70, 90))

    def uncached() -> None:
        ids = list(prompt)
        for _ in range(CACHED_TOKENS):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))

    def cached() -> None:
        batch = Batch(model)
        token = int(batch.join([prompt])[0].argmax())
        for _ in range(CACHED_TOKENS - 1):
            token = int(batch.step([token])[0].argmax())

    with torch.inference_mode():
        return _best(uncached, rounds), _best(cached, rounds)


def _best(work: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def _swaps(loaded: Any, base: Path, adapters: list[Path]) -> list[tuple[str, float]]:
    """Milliseconds for the base, for each adapter over it, and for changing between them.

    The base's files are deleted before the first adapter comes: nothing can read them again.
    """
    from trainbus.serving.generation import Generator
    from trainbus.serving.loading import load
    from trainbus.serving.requests import Options

    found = [("the base", _spent(lambda: load(base, device="cpu")))]
    for file in base.iterdir():
        file.unlink()
    short = Options(max_tokens=1)
    with Generator(loaded.model, loaded.tokenizer) as generator:
        times = []
        for number, adapter in enumerate(adapters):
            times.append(_spent(lambda: generator.add_adapter(str(number), adapter)))  # noqa: B023 - called at once
            generator.complete("warm", short, adapter=str(number))
        found.append(("the first adapter (imports PEFT)", times[0]))
        found.append(("another adapter", statistics.median(times[1:])))
        same = [_spent(lambda: generator.complete("warm", short, adapter="0")) for _ in range(10)]
        swapped = [_spent(lambda: generator.complete("warm", short, adapter=str(number % 2))) for number in range(1, 11)]  # noqa: B023
        found.append(("an answer of one token, same adapter", statistics.median(same)))
        found.append(("an answer of one token, swapped adapter", statistics.median(swapped)))
    return found


def _spent(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def _adapter(base: Path, directory: Path, seed: int) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(directory)
    return directory
