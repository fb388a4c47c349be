"""Questions, answers, penalties and mistakes: each part alone."""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext

import pytest
import torch

from trainbus.trainer_node.evaluation.answering import Answerer, Limits, Shaping
from trainbus.trainer_node.evaluation.matching import matches
from trainbus.trainer_node.evaluation.mistakes import MOST, Mistakes
from trainbus.trainer_node.evaluation.penalties import AfterStopPenalty, Ramp, TagPenalty
from trainbus.trainer_node.evaluation.questions import drawn, questions
from trainbus.trainer_node.evaluation.timebox import StuckError, Timebox
from trainbus.trainer_node.formats import Example, Turn
from trainbus.trainer_node.tokens import tokenize

VOCABULARY = 8


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("Paris", " paris.\n", True),
        ("Paris, France", "Paris", False),
        ("2 + 2 = 4 so\n#### 1,004", "A long way round.\n#### 1004", True),
        ("#### -3", "#### 3", False),
        ("1004", "#### 1004", False),
        ("", "#### 1004", False),
        ("1.5", "1.50", False),
    ],
)
def test_an_answer_is_right_when_its_final_part_is(answer, expected, right):
    """With GSM8K's mark only what follows it counts, and the mark is part of what is learned; else the whole text but for its dress."""
    assert matches(answer, expected) is right


def example(*contents, line=1):
    roles = ("user", "assistant") * len(contents)
    return Example(turns=tuple(Turn(role, content) for role, content in zip(roles, contents, strict=False)), line=line)


@pytest.fixture(scope="module")
def tokenizer():
    from trainbus.trainer_node.byte_tokenizer import byte_tokenizer

    return byte_tokenizer(256)


def test_a_question_is_what_training_sees_up_to_the_last_answer(tokenizer):
    """Its tokens are a prefix of the example's, only the last answer carries loss; what can't be asked is passed over."""
    given = [
        Example(text="no question", line=1),
        example("2+2=", "4", line=3),
        example("first", "one", "second", "two", line=4),
        example("x" * 500, "too long", line=5),
    ]
    rows = tokenize(given, tokenizer, 128)
    short, long = questions(rows, tokenizer, 128, source="file.jsonl", dataset="validation", limit=9)
    assert (short.example, short.prompt, short.expected, short.dataset) == ("file.jsonl:3", "2+2=", "4", "validation")
    for question in (short, long):
        count = len(question.prompt_ids)
        assert question.row["input_ids"][:count] == question.prompt_ids
        assert set(question.row["labels"][:count]) == {-100}
        learned = [label for label in question.row["labels"] if label != -100]
        assert tokenizer.decode(learned, skip_special_tokens=True).strip() == question.expected
    assert "first" in long.prompt
    assert long.prompt.endswith("second")
    assert [one.expected for one in questions(rows, tokenizer, 128, source="f", dataset="", limit=1)] == ["4"]
    some = drawn(rows, 3, seed=1)
    assert (len(some), list(some.lines)) == (3, list(drawn(rows, 3, seed=1).lines))
    assert [some[index] for index in range(3)] == [rows[list(rows.lines).index(line)] for line in some.lines]


class Scripted:
    """Logits that would say token 5 each time."""

    def __call__(self):
        scores = torch.zeros(1, VOCABULARY)
        scores[0, 5] = 2.0
        return scores


def test_a_tag_is_made_less_likely_by_the_stated_amount_at_each_token():
    """The amount rises over the ramp; of a tag of two tokens only the second, and only after the first. Hits are counted (A-91)."""
    penalty = TagPenalty([[5], [6, 7]], Ramp(first=0.0, last=3.0, over=2), prompt=3)
    prompt = [6, 5, 6]
    for at, (generated, changes) in enumerate([([], {5: 0.0}), ([6], {5: 1.5, 7: 1.5}), ([6, 1], {5: 3.0}), ([6, 1, 6], {5: 3.0, 7: 3.0})]):
        before = Scripted()()
        after = penalty(torch.tensor([prompt + generated]), before)
        assert {token: float(before[0, token] - after[0, token]) for token in changes} == changes
        assert int((before != after).sum()) == sum(amount > 0 for amount in changes.values())
        assert penalty.stats().hits == at + 1
    assert penalty.stats().turned == 2  # from the third token on, another one than 5 is the likeliest


def test_after_a_stop_the_end_becomes_likelier_and_all_else_less_likely():
    """Only in the rows where the stop was generated, not where it stands in the prompt."""
    penalty = AfterStopPenalty([[1, 2]], [7], penalty=4.0, reward=1.0, prompt=2)
    before = torch.zeros(3, VOCABULARY)
    after = penalty(torch.tensor([[1, 2, 3, 3, 3], [0, 0, 1, 2, 3], [0, 0, 3, 2, 1]]), before)
    assert after[0].tolist() == after[2].tolist() == [0.0] * VOCABULARY
    assert after[1].tolist() == [-4.0] * 7 + [1.0]
    assert (penalty.stats().hits, penalty.stats().turned) == (1, 1)


def test_a_call_that_never_returns_is_given_up():
    """Who waits goes on; nothing else is tried in that box. What a call raises is raised to who waits."""
    box, never = Timebox(), threading.Event()
    assert box.run(lambda: 42, 60) == 42
    with pytest.raises(ZeroDivisionError):
        box.run(lambda: 1 / 0, 60)
    with pytest.raises(StuckError, match="no result"):
        box.run(never.wait, 0.01)
    with pytest.raises(StuckError, match="earlier call"):
        box.run(lambda: 42, 60)
    never.set()


@pytest.fixture
def answerer(tiny_base):
    """An answerer on the tiny model; keywords are its limits and shaping."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_base).eval(), AutoTokenizer.from_pretrained(tiny_base)
    given = [example("1+1=", "2", line=1), example("a longer question", "yes", line=2)]
    asked = questions(tokenize(given, tokenizer, 99), tokenizer, 99, source="f", dataset="", limit=2)

    def make(limits, shaping=Shaping(), **options):  # noqa: B008
        return Answerer(model, tokenizer, limits, shaping, precision=nullcontext, **options), asked, model

    return make


def test_answers_are_the_same_alone_and_in_a_batch(answerer):
    """Shorter prompts are padded on the left; the loss is that of the expected answer to the same question."""
    one, asked, model = answerer(Limits(tokens=6))
    one._read = lambda ids: (str(ids), True)  # an untrained model says much that has no letters
    together = one.answer(asked)
    alone = [one.answer([question])[0] for question in asked]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.loss for answer in together] == pytest.approx([answer.loss for answer in alone], abs=1e-5)
    for answer in together:
        row = {name: torch.tensor([ids]) for name, ids in answer.question.row.items()}
        assert answer.loss == pytest.approx(model(**row).loss.item(), abs=1e-5)
    assert one.stats().answers == 4


def test_an_answer_without_an_end_is_cut_by_the_clock_or_when_the_training_must_go_on(answerer):
    """A model that never ends, asked for a million tokens: the deadline or the hurry ends it after a token."""
    for options in (
        {"limits": Limits(tokens=1_000_000, seconds=0.0)},
        {"limits": Limits(tokens=1_000_000, seconds=600), "hurry": lambda: True},
    ):
        one, asked, model = answerer(**options)
        model.generation_config.eos_token_id = None
        one._ends = [VOCABULARY]  # a token that the model hardly says first
        assert [answer.finished for answer in one.answer(asked)] == [False, False]
        assert one.stats().cut == 2


def test_a_model_that_hangs_is_left_behind(answerer, monkeypatch):
    """Even a forward pass that never comes back costs the limit and its grace, once."""
    from trainbus.trainer_node.evaluation import answering

    monkeypatch.setattr(answering, "GRACE_SECONDS", 0.05)
    one, asked, model = answerer(Limits(tokens=4, seconds=0.05))
    never = threading.Event()
    monkeypatch.setattr(model, "generate", lambda **_: never.wait())
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(StuckError):
            one.answer(asked)
    assert one.stats().stuck
    assert time.monotonic() - began < 60
    never.set()


def test_penalties_act_in_a_generation_and_are_counted(answerer):
    """With a reward for the end after a stop, an answer ends right after the stop."""
    shaped, asked, model = answerer(Limits(tokens=6), Shaping(think_penalty=5.0, stops=("x",), after_stop_penalty=100.0, end_reward=100.0))
    with torch.no_grad():
        first = int(model(torch.tensor([asked[0].prompt_ids])).logits[0, -1].argmax())
    shaped._stops = [[first]]  # what this model says first, whatever it is
    assert shaped.answer(asked[:1])[0].finished
    assert (shaped.stats().after_stop.hits, shaped.stats().after_stop.turned) == (1, 1)


def test_mistakes_become_a_training_file_without_what_is_measured_with(tmp_path):
    """The newest 200, one for each example; the wrong answer is not learned, because it stands in the user's turn (A-93)."""
    from trainbus.trainer_node.data import load_file

    mistakes = Mistakes(tmp_path / "out" / "mistakes.jsonl", {"v:1"})
    mistakes.save()
    assert not (tmp_path / "out").exists()
    mistakes.add("v:1", "measured", "no", "yes")
    for number in range(MOST + 50):
        mistakes.add(f"t:{number % (MOST + 10)}", f"question {number}", "wrong", "right")
    mistakes.save()
    rows = [json.loads(line) for line in (tmp_path / "out" / "mistakes.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["example"] for row in rows}) == MOST
    assert not any("measured" in str(row) for row in rows)
    examples = load_file(tmp_path / "out" / "mistakes.jsonl").examples
    assert [turn.role for turn in examples[0].turns] == ["user", "assistant"]
    assert examples[0].turns[1].content == "right"
