"""Tokenising a large file of chats with a mask on the assistant's turns: ours, the naive way, and datasets.map, each in its own process.

All read the same file, use the same tokenizer and chat template, and give the same ids and the same mask; what memory they need is
the peak of their process above the same process that has imported its libraries and loaded nothing. They run in turn, round after
round. ``datasets.map`` runs a second time without the mask, which is less work than ours.
"""

from __future__ import annotations

import json
import os
import random
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.common import in_a_process, spread
from benchmarks.frame import Bar, Result, Table, absent_or_version

EXAMPLES, BYTES_EACH, MAX_LENGTH = 100_000, 2_870, 2048
TIMES_LARGER = 10
LIMIT_MB, LIMIT_RATIO = 150.0, 1.4
ROUNDS = 3
CHILD_SECONDS = 7_200
"""A billion tokens take a while on a machine that others load."""
OURS, NAIVE, MAP, BARE_MAP = "trainbus", "naive", "datasets.map", "datasets.map, no mask"
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORD_BYTES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def texts() -> list[str]:
    """Paragraphs of real text where there is some, else made-up words."""
    shared = Path(__file__).parent.parent.parent / "shared" / "data"
    if not (shared / "gsm8k" / "train.jsonl").exists():
        chance = random.Random(0)
        syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
        words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(20_000)]
        return [" ".join(chance.choices(words, k=60)) for _ in range(20_000)]
    rows = [json.loads(line) for line in (shared / "gsm8k" / "train.jsonl").read_text().splitlines()]
    plays = (shared / "shakespeare" / "input.txt").read_text().split("\n\n")
    return [text for text in plays if text] + [row[key] for row in rows for key in ("question", "answer")]


def make_data(folder: Path, examples: int) -> Path:
    """Chats of some turns, 2.87 kB on average."""
    chance, pool, path = random.Random(1), texts(), folder / f"chats-{examples}.jsonl"
    with path.open("w") as file:
        for number in range(examples):
            messages, size = [], 0
            while size < BYTES_EACH - 500:
                for role in ("user", "assistant"):
                    messages.append({"role": role, "content": chance.choice(pool)})
                    size += len(messages[-1]["content"]) + 40
            file.write(json.dumps({"id": f"chat-{number}", "messages": messages}) + "\n")
    return path


def make_tokenizer(folder: Path) -> Path:
    """A byte-level BPE of 32,000 tokens with the pattern of current models."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORD_BYTES), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=32_000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(texts(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


def checked(ids: int, taught: int, seconds: float, processor: float, base: float) -> dict[str, float]:
    return {"tokens": ids, "taught": taught, "seconds": seconds, "processor": processor, "peak": peak_mb() - base}


def ours(tokenizer_path: str, path: str, folder: str) -> dict[str, float]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    from trainbus.trainer_node.dataset.cache import TokenCache, recipe_of

    base = peak_mb()
    began, used = time.perf_counter(), time.process_time()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    with tempfile.TemporaryDirectory(dir=folder) as root:
        cache = TokenCache(Path(root), limit_bytes=1 << 40)
        report = cache.get(recipe_of(path, tokenizer, MAX_LENGTH), tokenizer).dataset.stats()
        return checked(report.tokens, report.learned, time.perf_counter() - began, time.process_time() - used, base)


def naive(tokenizer_path: str, path: str, folder: str) -> dict[str, float]:
    """All rows in memory, one after the other."""
    from transformers import AutoTokenizer

    from trainbus.trainer_node.dataset.encoding import _learned
    from trainbus.trainer_node.dataset.rendering import render
    from trainbus.trainer_node.formats import FORMATS

    base = peak_mb()
    began, used = time.perf_counter(), time.process_time()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    with Path(path).open() as file:
        rows = [json.loads(line) for line in file]
    found = []
    for row in rows:
        text, spans = render(FORMATS[0].convert(row), tokenizer)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=True, max_length=MAX_LENGTH)
        found.append((encoded["input_ids"], _learned(encoded["offset_mapping"], spans)))
    taught = sum(sum(mask) for _, mask in found)
    return checked(sum(len(ids) for ids, _ in found), taught, time.perf_counter() - began, time.process_time() - used, base)


def mapping(tokenizer_path: str, path: str, folder: str, masked: bool) -> dict[str, float]:
    """One process, batches of 1,000, as its documentation advises; the tokenizer uses all cores."""
    import datasets
    from transformers import AutoTokenizer

    from trainbus.trainer_node.dataset.encoding import _learned
    from trainbus.trainer_node.dataset.rendering import render
    from trainbus.trainer_node.formats import FORMATS

    base = peak_mb()
    datasets.disable_progress_bars()
    began, used = time.perf_counter(), time.process_time()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)

    def tokenise(batch):
        if not masked:
            plain = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in batch["messages"]]
            return tokenizer(plain, add_special_tokens=False, truncation=True, max_length=MAX_LENGTH, return_attention_mask=False)
        rendered = [render(FORMATS[0].convert({"messages": messages}), tokenizer) for messages in batch["messages"]]
        encoded = tokenizer(
            [text for text, _ in rendered], add_special_tokens=False, truncation=True, max_length=MAX_LENGTH, return_offsets_mapping=True
        )
        masks = [_learned(offsets, spans) for offsets, (_, spans) in zip(encoded["offset_mapping"], rendered, strict=True)]
        return {"input_ids": encoded["input_ids"], "learned": masks}

    with tempfile.TemporaryDirectory(dir=folder) as root:
        rows = datasets.load_dataset("json", data_files=path, split="train", cache_dir=root)
        began, used = time.perf_counter(), time.process_time()  # reading JSON into Arrow is not counted
        done = rows.map(tokenise, batched=True, remove_columns=rows.column_names)
        seconds, processor = time.perf_counter() - began, time.process_time() - used
        tokens = taught = 0
        for batch in done.iter(1000):
            tokens += sum(map(len, batch["input_ids"]))
            taught += sum(map(sum, batch["learned"])) if masked else 0
        return checked(tokens, taught, seconds, processor, base)


def measure(name: str, tokenizer: Path, path: Path) -> dict[str, float]:
    arguments = (str(tokenizer), str(path), str(path.parent))
    if name in (MAP, BARE_MAP):
        return in_a_process(mapping, *arguments, name == MAP, seconds=CHILD_SECONDS)
    return in_a_process(ours if name == OURS else naive, *arguments, seconds=CHILD_SECONDS)


def ten_times() -> Result:
    """Ours alone, over a file ten times as large: whether memory grows with it."""
    with tempfile.TemporaryDirectory(prefix="trainbus-bench-") as name:
        folder = Path(name)
        tokenizer = in_a_process(make_tokenizer, folder)
        path = make_data(folder, EXAMPLES * TIMES_LARGER)
        size, found = path.stat().st_size, measure(OURS, tokenizer, path)
    row = [OURS, found["tokens"] / found["seconds"] / 1e6, found["tokens"] / found["processor"] / 1e6, found["peak"]]
    return Result(
        "Tokenising, ten times the file",
        f"{EXAMPLES * TIMES_LARGER:,} chats, {size / 1e6:,.0f} MB, {found['tokens'] / 1e6:,.1f} million tokens, max_length {MAX_LENGTH:,}.",
        [Table("in a process of its own", ["way", "Mtok/s", "Mtok for a second of processor time", "peak MB above imports"], [row])],
        [Bar(f"trainbus, peak for {TIMES_LARGER} times the file", found["peak"], LIMIT_MB, "MB")],
        {name: absent_or_version(name) for name in ("tokenizers", "transformers")},
        {"larger": found},
    )


def bench(quick: bool) -> Result:
    if os.environ.get("BENCH_TEN_TIMES"):
        return ten_times()
    examples = EXAMPLES // 20 if quick else EXAMPLES
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in (OURS, MAP, BARE_MAP, NAIVE)}
    with tempfile.TemporaryDirectory(prefix="trainbus-bench-") as name:
        folder = Path(name)
        tokenizer, path = in_a_process(make_tokenizer, folder), make_data(folder, examples)
        size = path.stat().st_size
        for number in range(1 if quick else ROUNDS):
            for contender, found in rounds.items():
                if contender != NAIVE or not number:  # once: it takes minutes
                    found.append(measure(contender, tokenizer, path))
        path.unlink()
        larger = measure(OURS, tokenizer, make_data(folder, examples * TIMES_LARGER))
    if len({(one["tokens"], one["taught"]) for name in (OURS, MAP, NAIVE) for one in rounds[name]}) != 1:
        raise SystemExit(f"the contenders do not agree: {rounds}")
    best = {name: min(found, key=lambda one: one["seconds"]) for name, found in rounds.items()}
    rows: list[list[str | float | int]] = []
    for name, found in rounds.items():
        speeds = [one["tokens"] / one["seconds"] / 1e6 for one in found]
        processor = best[name]["tokens"] / best[name]["processor"] / 1e6
        rows.append([name, max(speeds), spread(speeds, 2), processor, max(one["peak"] for one in found)])
    rows.append(
        [
            f"{OURS}, {TIMES_LARGER} times the file",
            larger["tokens"] / larger["seconds"] / 1e6,
            "",
            larger["tokens"] / larger["processor"] / 1e6,
            larger["peak"],
        ]
    )
    columns = ["way", "Mtok/s, best", "rounds", "Mtok for a second of processor time", "peak MB above imports"]
    return Result(
        "Tokenising",
        f"{examples:,} chats, {size / 1e6:,.0f} MB, {best[OURS]['tokens'] / 1e6:,.1f} million tokens, max_length {MAX_LENGTH:,}; "
        "ours with reading, digests, fingerprints and bringing all of it to the disk, datasets.map without reading the JSON.",
        [Table("each in a process of its own", columns, rows)],
        [
            Bar("trainbus, peak above the imports", max(one["peak"] for one in rounds[OURS]), LIMIT_MB, "MB"),
            Bar(f"trainbus, peak for {TIMES_LARGER} times the file", larger["peak"], LIMIT_MB, "MB"),
            Bar("times the speed of datasets.map", best[MAP]["seconds"] / best[OURS]["seconds"], LIMIT_RATIO, "", at_most=False),
            Bar(
                "times the speed of datasets.map without the mask",
                best[BARE_MAP]["seconds"] / best[OURS]["seconds"],
                LIMIT_RATIO,
                "",
                at_most=False,
            ),
        ],
        {name: absent_or_version(name) for name in ("datasets", "tokenizers", "transformers")},
        {"rounds": rounds, "larger": larger},
    )
