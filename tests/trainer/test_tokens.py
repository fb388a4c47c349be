"""Loss falls on assistant turns only, truncation is counted, and padding carries neither attention nor loss."""

from __future__ import annotations

import pytest

from trainbus.errors import DataError
from trainbus.trainer_node.byte_tokenizer import VOCABULARY, byte_tokenizer
from trainbus.trainer_node.formats import Example, Turn
from trainbus.trainer_node.tokens import IGNORED, Collator, render, tokenize

THREE_TURNS = Example(
    turns=(Turn("system", "be brief"), Turn("user", "a?"), Turn("assistant", "one"), Turn("user", "b?"), Turn("assistant", "two")), line=4
)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def learned(dataset, tokenizer, index=0):
    """The text that carries loss, and the text that does not."""
    row = dataset[index]
    told = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    silent = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORED]
    assert all(label in (i, IGNORED) for i, label in zip(row["input_ids"], row["labels"], strict=True))
    return tokenizer.decode(told), tokenizer.decode(silent)


def test_the_byte_tokenizer_gives_every_text_back(tokenizer):
    """Any text survives, and no text can forge a special token's role of padding."""
    text = "Grüße, 世界! \n\t 3+4=7 🚀"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert max(ids) < VOCABULARY == len(tokenizer)


def test_only_assistant_turns_and_what_ends_them_carry_loss(tokenizer):
    """Every assistant turn of a conversation is learned, and nothing else."""
    told, silent = learned(tokenize([THREE_TURNS], tokenizer, 100), tokenizer)
    assert told == "one<|end|>two<|end|>"
    assert "be brief" in silent
    assert "a?" in silent
    assert "b?" in silent


def test_without_a_chat_template_turns_are_written_plainly(tokenizer):
    """The fallback names the speakers; the answer ends with the end token."""
    plain = byte_tokenizer()
    plain.chat_template = None
    told, silent = learned(tokenize([THREE_TURNS], plain, 100), plain)
    assert told == "one<|end|>two<|end|>"
    assert silent.startswith("System: be brief\nUser: a?\nAssistant: ")


def test_a_template_that_renders_earlier_turns_in_another_way_still_masks_right():
    """Qwen3's template adds an empty thought to the last answer only, so a prefix of the text is no prefix of the whole."""
    qwen = byte_tokenizer()
    qwen.chat_template = (
        "{% for m in messages %}<|{{ m['role'] }}|>"
        "{% if m['role'] == 'assistant' and loop.last %}<think></think>{% endif %}{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    text, spans = render(THREE_TURNS, qwen)
    assert [text[a:b] for a, b in spans] == ["one<|end|>", "<think></think>two<|end|>"]


def test_plain_text_is_learned_whole(tokenizer):
    """A text example carries loss everywhere and ends with the end token."""
    told, silent = learned(tokenize([Example(text="abc")], tokenizer, 100), tokenizer)
    assert (told, silent) == ("abc<|end|>", "")


def test_truncation_is_counted_and_what_has_nothing_left_to_learn_is_left_out(tokenizer):
    """Cutting is no secret: examples cut and examples dropped are counted apart."""
    long_answer = Example(turns=(Turn("user", "q"), Turn("assistant", "x" * 50)))
    long_question = Example(turns=(Turn("user", "q" * 50), Turn("assistant", "x")))
    fits = Example(turns=(Turn("user", "q"), Turn("assistant", "x")))
    dataset = tokenize([long_answer, long_question, fits], tokenizer, 20)
    report = dataset.stats()
    assert (report.examples, report.truncated, report.dropped, report.longest) == (2, 2, 1, 55)
    assert len(dataset[0]["input_ids"]) == 20


def test_a_source_with_nothing_to_learn_is_refused(tokenizer):
    """All examples cut before their answer: the hint says how long they are."""
    with pytest.raises(DataError, match="none of the 1 examples") as caught:
        tokenize([Example(turns=(Turn("user", "q" * 50), Turn("assistant", "x")))], tokenizer, 20, source="f.jsonl")
    assert "55 tokens" in caught.value.hint


def test_a_template_that_refuses_a_conversation_names_its_line():
    """Templates raise on orders of turns that they don't know; the person learns which line it was."""
    strict = byte_tokenizer()
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="roles must alternate") as caught:
        tokenize([THREE_TURNS], strict, 100, source="f.jsonl")
    assert caught.value.facts["line"] == 4


def test_padding_has_no_attention_and_no_loss(tokenizer):
    """A batch is as long as its longest example."""
    dataset = tokenize([Example(text="a"), Example(text="abcd")], tokenizer, 100)
    batch = Collator(tokenizer.pad_token_id)([dataset[0], dataset[1]])
    assert {name: tuple(value.shape) for name, value in batch.items()} == dict.fromkeys(("input_ids", "attention_mask", "labels"), (2, 5))
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"][0, 2:].tolist() == [IGNORED] * 3
    assert batch["input_ids"][0, 2:].tolist() == [tokenizer.pad_token_id] * 3


def test_progress_is_told_to_the_end(tokenizer):
    """The last report is 1."""
    told = []
    tokenize([Example(text="a")] * 2500, tokenizer, 10, progress=told.append)
    assert told == [0.4, 0.8, 1.0]
