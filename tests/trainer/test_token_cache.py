"""Tokenised once, whole or not at all, kept within a limit, and the same whichever way it was made."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trainbus.errors import DataError
from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
from trainbus.trainer_node.dataset.cache import INFO, TokenCache, recipe_of
from trainbus.trainer_node.dataset.encoding import Encoder, _learned
from trainbus.trainer_node.dataset.reading import Reading
from trainbus.trainer_node.dataset.rendering import Renderer, render
from trainbus.trainer_node.formats import Example, Turn
from trainbus.trainer_node.profile import Profile
from trainbus.trainer_node.tokens import tokenize

PLENTY = 1 << 40


@pytest.fixture
def cache(tmp_path):
    """A cache in a folder of its own."""
    return TokenCache(tmp_path / "tokens", limit_bytes=PLENTY)


@pytest.fixture
def file(tmp_path):
    """A file of so many questions."""

    def write(name="data.jsonl", count=30):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"question": f"{name} {i}?", "answer": "so" * (1 + i % 5)}) + "\n" for i in range(count)))
        return path

    return write


def get(cache, path, *, max_length=100, tokenizer=None, **options):
    tokenizer = tokenizer or byte_tokenizer()
    return cache.get(recipe_of(str(path), tokenizer, max_length, **options), tokenizer)


def rows(dataset):
    return [dataset[index] for index in range(len(dataset))]


def test_what_was_tokenised_once_is_found_again(cache, file):
    """Under whatever name the same content comes; the file's lines are remembered."""
    path = file()
    first, again = get(cache, path), get(cache, path.rename(path.with_name("other.jsonl")))
    assert (first.made, again.made, first.key == again.key) == (True, False, True)
    assert rows(first.dataset) == rows(again.dataset)
    assert again.dataset.lines.tolist() == list(range(1, 31))
    assert (cache.stats().made, cache.stats().found, cache.stats().folders) == (1, 1, 1)


def test_whatever_changes_the_tokens_makes_another(cache, file):
    """Content, length, tokenizer, chat template, end token, profile, and whether bad lines are left out."""
    path = file()
    other = byte_tokenizer()
    other.chat_template = other.chat_template.replace("<|end|>", "<|end|>\n")
    ended = byte_tokenizer()
    ended.eos_token = "<|pad|>"
    keys = {get(cache, path).key, get(cache, path, max_length=50).key, get(cache, path, tokenizer=other).key,
            get(cache, path, tokenizer=ended).key, get(cache, path, tolerant=True).key, get(cache, file("b.jsonl")).key,
            get(cache, path, reading=Reading(columns={"question": "question"})).key,
            get(cache, path, reading=Reading(profile=Profile(system="s"))).key}  # fmt: skip
    assert len(keys) == 8


def test_a_file_from_the_disk_equals_one_from_memory(cache, file):
    """Both ways go through the same code; ids, labels and counts agree."""
    from trainbus.trainer_node import data

    path = file()
    in_memory = tokenize(data.load(str(path)).examples, byte_tokenizer(), 40)
    on_disk = get(cache, path, max_length=40).dataset
    assert rows(on_disk) == rows(in_memory)
    assert on_disk.stats() == in_memory.stats()
    assert on_disk.full_lengths.tolist() == in_memory.full_lengths.tolist()


@pytest.mark.parametrize("name", ["tokens", "starts", INFO])
def test_a_damaged_folder_is_made_again(cache, file, name):
    """A file that is too short, or gone, is not believed."""
    first = get(cache, file())
    expected = rows(first.dataset)
    damaged = first.rejected_file.parent / name
    damaged.write_bytes(damaged.read_bytes()[:-8])
    again = get(cache, file())
    assert again.made
    assert rows(again.dataset) == expected


TOKENISE = """
import sys
from pathlib import Path
from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
from trainbus.trainer_node.dataset import cache
path, root, hang = sys.argv[1:]
if hang:
    cache.Writer.report = lambda self: (print("written", flush=True), sys.stdin.read())
tokenizer = byte_tokenizer()
made = cache.TokenCache(Path(root), limit_bytes=1 << 40, note=lambda text: print(text, flush=True))
print(made.get(cache.recipe_of(path, tokenizer, 100), tokenizer).made, flush=True)
"""


def start(path, root, *, hang=False):
    command = [sys.executable, "-c", TOKENISE, str(path), str(root), "yes" if hang else ""]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_who_dies_in_the_middle_leaves_nothing_that_is_believed(cache, file, tmp_path):
    """kill -9 with everything written but the last word: the next one makes it anew and removes what is left."""
    path, root = file(), tmp_path / "tokens"
    process = start(path, root, hang=True)
    assert process.stdout.readline() == "written\n"
    assert len(list(root.glob("*.partial-*"))) == 1
    process.kill()
    process.communicate()
    found = get(cache, path)
    assert found.made
    assert len(found.dataset) == 30
    assert list(root.glob("*.partial-*")) == []


def test_what_a_dead_process_left_of_another_file_goes_too(cache, file, tmp_path):
    """Nobody may ever ask for that file again."""
    process = start(file("other.jsonl"), tmp_path / "tokens", hang=True)
    assert process.stdout.readline() == "written\n"
    process.kill()
    process.communicate()
    get(cache, file())
    assert list((tmp_path / "tokens").glob("*.partial-*")) == []


def test_a_second_process_waits_for_the_first(file, tmp_path):
    """Both want the same file: one makes it, the other says that it waits, and finds it."""
    path, root = file(), tmp_path / "tokens"
    first = start(path, root, hang=True)
    assert first.stdout.readline() == "written\n"
    second = start(path, root)
    assert "waiting for it" in second.stdout.readline()
    first.kill()
    first.communicate()
    assert second.communicate(timeout=100)[0] == "True\n"
    third = start(path, root)
    assert third.communicate(timeout=100)[0] == "False\n"


def test_what_was_used_longest_ago_is_removed_above_the_limit(file, tmp_path):
    """The limit holds for all together; what was used last stays, and what is mapped can still be read."""
    root = tmp_path / "tokens"
    unlimited = TokenCache(root, limit_bytes=PLENTY)
    paths = [file(f"{n}.jsonl") for n in range(3)]
    made = [get(unlimited, path) for path in paths]
    for age, one in ((300, made[1]), (200, made[0]), (100, made[2])):
        info = one.rejected_file.parent / INFO
        os.utime(info, (info.stat().st_mtime - age,) * 2)
    limit = unlimited.stats().bytes - 1
    bounded = TokenCache(root, limit_bytes=limit)
    assert not get(bounded, paths[2]).made
    assert bounded.stats().removed == 1
    assert bounded.stats().bytes <= limit
    assert len(rows(made[1].dataset)) == 30
    assert not get(bounded, paths[0]).made
    assert get(TokenCache(root, limit_bytes=0), paths[1]).made
    assert TokenCache(root, limit_bytes=0).stats().folders == 1


def test_lines_that_are_no_examples_are_kept_with_the_tokens(cache, tmp_path):
    """Found again, they are told again; without tolerance they are an error each time."""
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n{"text": 3}\n{"text": "c"}\n')
    for made in (True, False):
        found = get(cache, path, tolerant=True)
        assert (found.made, found.rejected, found.first_rejected().line) == (made, 1, 2)
    for _ in range(2):
        with pytest.raises(DataError, match="line 2"):
            get(cache, path)
    assert cache.stats().folders == 1


def test_a_folder_that_cannot_be_written_is_told_in_words(file, tmp_path):
    """Not as a fault of the data's."""
    (tmp_path / "tokens").write_text("a file")
    with pytest.raises(DataError, match="can't be kept") as caught:
        get(TokenCache(tmp_path / "tokens", limit_bytes=0), file())
    assert "TRAINBUS_HOME" in caught.value.hint


TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "strips": "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}",
    "thinks": "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "first system": "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}
WORDS = [
    "Grüße",
    "世界",
    "🚀",
    "x = 1",
    "\n",
    "\n\n    indented",
    "  ",
    "the quick",
    "</think>",
    "e\u0301",
    "1234",
    "\t",
    "a\r\nb",
    "qXw0Zv",
]


def _tokenizer(kind):
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True) if kind == "metaspace" else models.BPE())
    special = ["<unk>", "<|end|>", "<|im_start|>", "<|im_end|>"]
    if kind == "metaspace":
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        if kind == "composes":
            inner.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(["the quick brown fox said: hello world, x = 1\n    return x\n"] * 3 + WORDS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", ["bytes", "composes", "metaspace"])
def test_fast_rendering_and_masking_give_what_the_plain_way_gives(kind, template):
    """The skeleton of a template and the widths of tokens are short cuts: with every content and tokenizer the outcome is the same."""
    tokenizer = _tokenizer(kind)
    tokenizer.chat_template = TEMPLATES[template]
    chance = random.Random(1)
    examples = []
    for number in range(60):
        roles = ["user", "assistant"] * chance.randint(1, 3)
        if chance.random() < 0.5:
            roles = ["system", *roles]
        turns = tuple(Turn(role, "".join(chance.choices(WORDS, k=chance.randint(1, 4))) or "x") for role in roles)
        examples.append(Example(turns=turns, line=number) if number % 7 else Example(text="".join(turn.content for turn in turns)))
    plain = []
    kept = []
    for example in examples:
        try:
            plain.append(render(example, tokenizer))
            kept.append(example)
        except ValueError:  # a template that changes what the assistant says
            continue
    assert len(kept) > 40
    assert Renderer(tokenizer).render(kept) == plain
    encoded = Encoder(tokenizer).encode(plain)
    offsets = [tokenizer(text, add_special_tokens=False, return_offsets_mapping=True) for text, _ in plain]
    assert encoded.lengths.tolist() == [len(one["input_ids"]) for one in offsets]
    assert encoded.ids.tolist() == [token for one in offsets for token in one["input_ids"]]
    expected = [told for one, (_, spans) in zip(offsets, plain, strict=True) for told in _learned(one["offset_mapping"], spans)]
    assert encoded.learned.tolist() == expected


def test_a_mapped_dataset_can_be_read_in_a_worker_process(cache, file):
    """DataLoader's workers are forks: they read the same pages."""
    dataset = get(cache, file()).dataset
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(rows, (dataset,)) == rows(dataset)
