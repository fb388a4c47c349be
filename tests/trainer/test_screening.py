"""What is told of data before a training: lengths, what is cut, what is there twice, what the evaluation set holds, and what is done."""

from __future__ import annotations

import json

import pytest

from tests.support import trainbus
from trainbus.errors import DataError
from trainbus.trainer_node import data
from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.dataset.answers import answer_in_question
from trainbus.trainer_node.dataset.inspection import fingerprints_of, inspect
from trainbus.trainer_node.dataset.preparing import Preparation, finish
from trainbus.trainer_node.dataset.statistics import lengths
from trainbus.trainer_node.formats import Example, Turn
from trainbus.trainer_node.tokens import tokenize


def asked(question, answer="so", **more):
    return {"question": question, "answer": answer, **more}


@pytest.fixture
def write(tmp_path):
    """Write rows to a file."""

    def to(name, *rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return to


@pytest.fixture
def prepare(tmp_path):
    """What a job would train on; gives the lines and what was told."""

    def run(path, job="", **settings):
        told = []
        config = TrainerConfig(data=str(path), max_length=100, **settings)
        preparation = Preparation(config, byte_tokenizer(), tolerant=False, root=tmp_path / "home", note=told.append)
        ready = preparation.run(tmp_path / "out", tmp_path / "rejected.jsonl", job=job)
        return ready, ready.training.lines.tolist(), "\n".join(told)

    return run


def test_lengths_say_what_is_cut_and_what_to_set():
    """Percentiles over all examples, also of those that are left out; the advice names a length that cuts nothing."""
    examples = [Example(turns=(Turn("user", "q"), Turn("assistant", "x" * n)), line=n) for n in range(1, 100)]
    examples.append(Example(turns=(Turn("user", "q" * 400), Turn("assistant", "x")), line=100))
    told = lengths(tokenize(examples, byte_tokenizer(), 50), 50)
    # <|user|> q <|end|> <|assistant|> x... <|end|>: five tokens more than the answer has
    assert (told.examples, told.p50, told.p95, told.p99, told.longest) == (100, 55, 100, 104, 405)
    assert (told.over, told.unlearnable, told.suggested) == (55, 1, 448)
    assert told.total == sum(n + 5 for n in range(1, 100)) + 405
    assert "max_length = 448 would cut none; 128 would cut at most 1 %" in told.advice[0]
    assert "1 examples are left out (lines 100): nothing to learn" in told.advice[1]


@pytest.mark.parametrize(("question", "answer", "says"), [("q" * 900, "x", "prompts are long"), ("q", "x" * 900, "hardly any prompt")])
def test_an_unusual_share_of_tokens_with_loss_is_told(question, answer, says):
    """Less than 30 % or more than 85 % without loss (A-82); not for plain text, of which all is learned."""
    dataset = tokenize([Example(turns=(Turn("user", question), Turn("assistant", answer)))], byte_tokenizer(), 2000)
    assert says in lengths(dataset, 2000).advice[0]
    assert lengths(tokenize([Example(text="abc" * 9)], byte_tokenizer(), 100), 100, row_format="text").advice == []


def test_repeated_examples_are_named_by_line(write):
    """Exactly the same, and the same but for case, blanks and the form of letters; another answer is another example."""
    path = write("d.jsonl", asked("one"), asked("two"), asked("one"), asked(" ONE "), asked("one", "other"), asked("\uff4f\uff4e\uff45"))
    found = inspect(str(path))
    assert found.repeated == 3
    assert [(match.line, match.of_line, match.how) for match in found.matches] == [
        (3, 1, "the same"), (4, 1, "the same but for case and blanks"), (6, 1, "the same but for case and blanks"),
    ]  # fmt: skip


def test_the_evaluation_set_is_found_in_training_data_by_text_question_and_id(write):
    """Ids that are numbers count rows of their own file and mean nothing."""
    held = write("eval.jsonl", asked("one"), asked("two"), asked("three"), asked("four", id="q-4"), asked("five", id=5))
    path = write("d.jsonl", asked("new"), asked("one"), asked("TWO"), asked("three", "other"), asked("4", id="q-4"), asked("n", id=5))
    found = inspect(str(path), against=fingerprints_of(str(held)), against_name="eval.jsonl")
    assert found.leaked == 4
    assert [(match.line, match.of_line, match.how, match.file) for match in found.matches] == [
        (2, 1, "the same", "eval.jsonl"),
        (3, 2, "the same but for case and blanks", "eval.jsonl"),
        (4, 3, "the same question", "eval.jsonl"),
        (5, 4, "the same id", "eval.jsonl"),
    ]


LONG = "Because the river bends twice before it meets the sea, and the town was built there."


@pytest.mark.parametrize(
    ("question", "answer", "says"),
    [
        (f"Why? {LONG} So?", LONG, "the whole answer"),
        (f"Why? {LONG[:60]}...", LONG, "the first 50 characters"),
        ("What is 3 + 4? The answer is 7.", "It is 7.", "tells the answer (7)"),
        ("Is it 7? #### 72", "So #### 72", "tells the answer (72)"),
        ("What is 3 + 4?", "It is 7.", ""),
        ("Yes or no?", "yes", ""),
    ],
)
def test_an_answer_that_stands_in_its_question_is_told(question, answer, says):
    """In whole, by its beginning, or told in so many words; a short word that both hold is no leak (A-78)."""
    found = answer_in_question(Example(turns=(Turn("user", question), Turn("assistant", answer))))
    assert says in found
    assert bool(found) == bool(says)


def test_real_data_are_judged_as_they_are(shared_data):
    """GSM8K: none is there twice, the test set is not in the training set; 59 answers of 7,473 begin with a sentence of their question."""
    files = [str(shared_data / "gsm8k" / name) for name in ("train.jsonl", "test.jsonl")]
    found = inspect(files[0], against=fingerprints_of(files[1]))
    assert (found.examples, found.repeated, found.leaked, found.told) == (7473, 0, 0, 59)
    assert {one.how for one in found.answers} == {"the first 50 characters of the answer stand in the question"}


def test_by_default_duplicates_are_told_and_the_evaluation_set_is_left_out(prepare, write):
    """A measure of what was trained on measures nothing, so that is skipped; a duplicate may be meant."""
    held = write("eval.jsonl", asked("one"))
    path = write("d.jsonl", asked("one"), asked("two"), asked("three"), asked("two"))
    _, lines, told = prepare(path, eval_file=str(held))
    assert lines == [2, 3, 4]
    assert (
        "1 of 4 examples are in the evaluation set, too (the first: line 1 is the same as line 1 of eval.jsonl); they are skipped" in told
    )
    assert "1 of 4 examples repeat an earlier line (the first: line 4 is the same as line 2); they are trained on" in told


def test_duplicates_and_leaks_can_be_skipped_told_or_refused(prepare, write):
    """Each has its setting."""
    held = write("eval.jsonl", asked("one"))
    path = write("d.jsonl", asked("one"), asked("two"), asked("two"))
    assert prepare(path, eval_file=str(held), duplicates="skip", leaks="warn")[1] == [1, 2]
    with pytest.raises(DataError, match="repeat an earlier line") as caught:
        prepare(path, duplicates="refuse")
    assert (caught.value.facts["line"], caught.value.facts["key"]) == (3, "trainer.duplicates")
    with pytest.raises(DataError, match="are in the evaluation set"):
        prepare(path, eval_file=str(held), leaks="refuse")


def test_an_evaluation_set_that_is_all_of_the_data_leaves_them_as_they_are(prepare, write):
    """Somebody who measures on what is trained on means it, and is told."""
    path = write("d.jsonl", asked("one"), asked("two"))
    _, lines, told = prepare(path, eval_file=str(path))
    assert lines == [1, 2]
    assert "nothing is skipped" in told


def test_what_is_held_out_is_not_trained_on_in_another_line(prepare, write):
    """A copy of a held-out example is a leak, too; no question is in both parts (A-83)."""
    path = write("d.jsonl", *[asked(str(number % 50)) for number in range(100)])
    ready, lines, _ = prepare(path, eval_fraction=0.2)
    held = {line % 50 for line in ready.evaluation.lines.tolist()}
    assert len(ready.evaluation) == 20
    assert not held & {line % 50 for line in lines}
    assert data.held_out(100, 0.2, 42) == [line - 1 for line in ready.evaluation.lines.tolist()]


def test_a_later_file_of_the_run_is_compared_with_those_before(prepare, write, tmp_path):
    """What the weights have seen is remembered when a job is done; the job itself does not count."""
    one, two = write("a.jsonl", asked("one"), asked("two")), write("b.jsonl", asked("new"), asked(" Two"))
    ready, lines, _ = prepare(one, job="a")
    finish(tmp_path / "out", "a", str(one), ready.training)
    assert prepare(one, job="a", duplicates="skip")[1] == lines
    _, lines, told = prepare(two, job="b", duplicates="skip")
    assert lines == [1]
    assert "line 2 is the same but for case and blanks as line 2 of a.jsonl" in told
    assert inspect(str(two), output=tmp_path / "out").trained == 1


def test_a_job_that_goes_on_keeps_its_choice_whatever_others_did_meanwhile(prepare, write, tmp_path):
    """Its position in the file counts examples of that choice; other data or another evaluation set make a new one."""
    one, two = write("a.jsonl", asked("one"), asked("two")), write("b.jsonl", asked("new"), asked("two"))
    assert prepare(two, job="b", duplicates="skip")[1] == [1, 2]
    ready, _, _ = prepare(one, job="a")
    finish(tmp_path / "out", "a", str(one), ready.training)
    assert prepare(two, job="b", duplicates="skip")[1] == [1, 2]
    finish(tmp_path / "out", "b", str(two), ready.training)
    assert prepare(two, job="c", duplicates="skip")[1] == [1]


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive", b"\x93NUMPY"])
def test_a_damaged_choice_is_made_anew(prepare, write, tmp_path, content):
    """As if none had been made: the same examples follow from the same data."""
    one = write("a.jsonl", asked("one"), asked("two"))
    lines = prepare(one, job="a")[1]
    (kept,) = (tmp_path / "out").rglob("*.choice")
    kept.write_bytes(content)
    assert prepare(one, job="a")[1] == lines


def test_check_tells_tokens_duplicates_and_leaks_on_the_command_line(write, tiny_base):
    """As text, and as JSON for programs; a policy that refuses makes it exit 7."""
    held = write("eval.jsonl", asked("one"))
    path = write("d.jsonl", asked("one"), asked("two"), asked("two"), asked("long" * 30, "so" * 30))
    arguments = ("data", "check", str(path), "--against", str(held), "--model", str(tiny_base), "--set", "trainer.max_length=64")
    shown = trainbus(*arguments)
    assert shown.returncode == 0, shown.stderr
    for text in ("1 examples are in the evaluation set, too", "line 3 is the same as line 2", "line 1 is the same as line 1 of eval.jsonl"):
        assert text in " ".join(shown.stderr.split())
    assert "would cut none" in shown.stdout
    refused = trainbus(*arguments, "--set", "trainer.duplicates=refuse", "--json")
    assert refused.returncode == 7
    (told,) = json.loads(refused.stdout)
    assert (told["ok"], told["repeated"], told["leaked"]) == (False, 1, 1)
    assert told["tokens"]["unlearnable"] == 1
