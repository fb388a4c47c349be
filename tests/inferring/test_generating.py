"""Generated training data: what is asked, what of an answer is of use, what is there already, and what comes into the inbox."""

from __future__ import annotations

import json
from random import Random

import pytest

from trainbus.errors import ConfigError, RefusedError, UnreachableError
from trainbus.inferring.asking import Answer, Sampling
from trainbus.inferring.generating.harvest import CUT, NOT_JSON, conversation_of, rows_of
from trainbus.inferring.generating.job import FRUITLESS_ROUNDS, PAUSES_SECONDS, Job
from trainbus.inferring.generating.known import SEEDS, Known
from trainbus.inferring.generating.recipe import Asking, Recipe, askings, check
from trainbus.inferring.generating.refill import Refill
from trainbus.inferring.generating.seeds import load_seeds
from trainbus.trainer_node.data import load_file
from trainbus.trainer_node.formats import FORMATS

PAIRS = next(known for known in FORMATS if known.name == "question and answer")


@pytest.fixture
def seeds(tmp_path):
    """Three questions with answers."""
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}+{n}=", "answer": str(2 * n)}) + "\n" for n in range(3)))
    return load_seeds(path)[0]


class Model:
    """Answers by a function of the prompt's text; ``asked`` are the rounds."""

    name = "model"

    def __init__(self, answer, failures=()):
        self.answer = answer
        self.failures = list(failures)
        self.asked = []

    def ask(self, prompt, sampling, on_piece=lambda _: None):
        raise AssertionError("a job asks for many at a time")

    def ask_all(self, prompts, sampling):
        self.asked.append((len(prompts), sampling.seed))
        for number, prompt in enumerate(prompts):
            if self.failures and (failure := self.failures.pop(0)):
                raise failure
            yield number, Answer(text=self.answer(prompt[-1]["content"]), finish_reason="stop", completion_tokens=1)


def job(model, seeds, recipe=None, pause=lambda _: None, sampling=None):
    known = Known(by_question=True)
    for seed in seeds:
        known.add(seed.example, SEEDS)
    return Job(model, recipe or Recipe(), seeds, PAIRS, known, sampling or Sampling(), pause=pause)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("messages", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
        ("ShareGPT", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
        ("alpaca", {"instruction": "q", "output": "a"}),
        ("prompt and completion", {"prompt": "q", "completion": "a"}),
        ("question and answer", {"question": "q", "answer": "a"}),
        ("text", {"text": "t"}),
    ],
)
def test_seeds_come_in_every_format_and_are_shown_in_it(tmp_path, name, row):
    """Under the format's own keys, without whatever else the row carries."""
    path = tmp_path / "seeds.jsonl"
    path.write_text(json.dumps({**row, "source": "x"}) + "\n")
    found, wanted = load_seeds(path)
    assert (wanted.name, found[0].row, found[0].line) == (name, row, 1)


def test_a_prompt_shows_seeds_and_says_how_many_are_wanted_and_the_same_seed_draws_the_same(seeds):
    """The default template and one's own."""
    recipe = Recipe(shown=2, each=7, system="be exact")
    one, other = (askings(recipe, seeds, 4, Random(3)) for _ in range(2))
    assert one == other
    text = one[0].prompt[-1]["content"]
    assert one[0].prompt[0] == {"role": "system", "content": "be exact"}
    assert "Write 7 new ones" in text
    assert [json.loads(line) for line in text.splitlines() if line.startswith("{")] == [seed.row for seed in one[0].seeds]
    made = askings(Recipe(take="answer", template='Say {"a": 1} to {question}'), seeds, 1, Random(0))[0]
    assert made.prompt == [{"role": "user", "content": f'Say {{"a": 1}} to {made.seeds[0].row["question"]}'}]
    assert askings(Recipe(take="answer"), seeds, 1, Random(0))[0].prompt == [{"role": "user", "content": made.seeds[0].row["question"]}]


@pytest.mark.parametrize("template", ["{exmples}", "Write {count} new ones.", "nothing", "{questions} {examples}"])
def test_a_template_that_can_not_be_filled_in_is_refused_with_what_it_may_name(seeds, template):
    """Before anything is asked."""
    with pytest.raises(ConfigError) as caught:
        check(Recipe(template=template), seeds)
    assert "{examples}" in caught.value.hint
    check(Recipe(template="{question} {examples} {count}"), seeds)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"question": "a", "answer": "b"}\n{"question": "c", "answer": "d"}', ["a", "c"]),
        ('Sure!\n```json\n[{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]\n```\nAnything else?', ["a", "c"]),
        ('{"question": "a", "answer": "b", "lineage": "mine", "x": {"y": 1}} and {broken', ["a"]),
        ('{"question": "{", "answer": "}"}{"question": "c", "answer": "d"', ["{"]),
    ],
)
def test_examples_are_found_in_an_answer_whatever_stands_around_them(text, found):
    """Only the keys of the format are kept: a model can't forge where its examples come from."""
    picked = [one for one in rows_of(Answer(text=text), PAIRS) if not one.fault]
    assert [one.row["question"] for one in picked] == found
    assert all(one.row.keys() == {"question", "answer"} for one in picked)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("no idea", NOT_JSON),
        ('{"question": "a"}', "no known format has the keys question"),
        ('{"question": "a", "answer": ""}', "key 'answer' is empty"),
        ('{"question": "a", "answer": 4}', "key 'answer' holds a number"),
        ('{"text": "a"}', "the format text, not question and answer"),
        ("{" * 100_000, NOT_JSON),
        ("[" * 100_000 + '{"a":' * 5_000, NOT_JSON),
    ],
)
def test_what_is_no_example_of_the_format_has_a_reason(text, fault):
    """Also where it is made to exhaust the reader."""
    assert [one.fault for one in rows_of(Answer(text=text), PAIRS)] == [fault]


def test_a_question_and_its_answer_are_an_example_unless_it_was_cut(seeds):
    """With the system message that was sent."""
    asking = Asking([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], tuple(seeds[:1]))
    picked = conversation_of(asking, Answer(text=" a \n", finish_reason="stop"))
    assert [turn["content"] for turn in picked.row["messages"]] == ["s", "q", "a"]
    assert conversation_of(asking, Answer(text="a", finish_reason="length")).fault == CUT
    assert "empty" in conversation_of(asking, Answer(text=" ", finish_reason="stop")).fault


def test_the_same_in_other_words_of_case_and_space_is_there_already(seeds):
    """A second answer to the same question too, where questions count."""
    example = PAIRS.convert({"question": " 1+1= ", "answer": "two"})
    asked, whole = Known(by_question=True), Known(by_question=False)
    for known in (asked, whole):
        assert [known.add(seed.example, SEEDS) for seed in seeds] == ["", "", ""]
        assert known.add(PAIRS.convert({"question": "1+1=", "answer": " 2"}), "x") == SEEDS
    assert (asked.add(example, "x"), whole.add(example, "x")) == (SEEDS, "")


def test_a_job_asks_until_there_are_enough_and_each_knows_its_seeds(seeds):
    """No more than wanted; each round draws by another seed."""
    numbers = iter(range(100, 10_000))

    def answer(text):
        fresh = next(numbers)
        return json.dumps({"question": f"{fresh}?", "answer": "y"}) + '\n{"question": "0+0=", "answer": "0"}\n{"bad": 1}'

    model = Model(answer)
    outcome = job(model, seeds, Recipe(each=5, shown=2), sampling=Sampling(seed=40)).run(12)
    assert len(outcome.accepted) == 12
    assert outcome.stopped == ""
    assert (outcome.repeated[SEEDS], sum(outcome.faults.values())) == (11, 12)  # behind the last that was wanted nothing is compared
    assert [seed for _, seed in model.asked] == [40 + number for number in range(len(model.asked))]
    assert all(len(new.seeds) == 2 and set(new.seeds) <= {1, 2, 3} for new in outcome.accepted)


def test_a_model_that_has_nothing_new_to_say_is_given_up(seeds):
    """After some rounds; what came before is kept."""
    model = Model(lambda text: '{"question": "only", "answer": "this"}')
    outcome = job(model, seeds).run(5)
    assert (len(outcome.accepted), len(model.asked)) == (1, 1 + FRUITLESS_ROUNDS)
    assert "nothing new" in outcome.stopped


def test_a_server_that_goes_away_is_waited_for_and_only_what_is_missing_is_asked_again(seeds):
    """Pauses grow; when it stays away what was accepted is kept, and without any the error is told."""
    numbers, pauses = iter(range(10_000)), []
    model = Model(lambda text: json.dumps({"question": f"n{next(numbers)}", "answer": "y"}), [None, UnreachableError("gone")])
    assert len(job(model, seeds, Recipe(each=1), pauses.append).run(4).accepted) == 4
    assert [count for count, _ in model.asked] == [4, 3]
    assert pauses == [PAUSES_SECONDS[0]]
    model = Model(lambda text: json.dumps({"question": f"n{next(numbers)}", "answer": "y"}), [None, *[UnreachableError("gone")] * 9])
    outcome = job(model, seeds, Recipe(each=1), pauses.append).run(4)
    assert (len(outcome.accepted), outcome.stopped) == (1, "gone")
    with pytest.raises(UnreachableError):
        job(Model(str, [UnreachableError("gone")] * 9), seeds).run(4)
    with pytest.raises(RefusedError):
        job(Model(str, [RefusedError("no")]), seeds).run(4)


def test_what_was_made_before_an_interruption_is_kept(seeds):
    """An hour of work is not lost by Ctrl-C; with nothing made it is an interruption as ever."""
    made = Model(lambda text: '{"question": "n", "answer": "y"}', [None, KeyboardInterrupt()])
    outcome = job(made, seeds, Recipe(each=1)).run(4)
    assert (len(outcome.accepted), outcome.stopped) == (1, "it was interrupted")
    with pytest.raises(KeyboardInterrupt):
        job(Model(str, [KeyboardInterrupt()]), seeds).run(4)


def test_more_is_asked_for_once_in_a_cooldown_and_only_when_little_waits():
    """A-73: also when the last time brought nothing."""
    refill = Refill(below=2, cooldown=600)
    assert not refill.due(3, 0)
    assert refill.due(2, 1)
    assert [refill.due(0, now) for now in (2, 300, 600.9)] == [False, False, False]
    assert not refill.due(3, 601)
    assert refill.due(0, 601)


def test_everything_of_the_inbox_counts_as_there_but_what_failed(tmp_path):
    """What waits in folders, in the queue, and what was trained on; a file that can't be read is counted."""
    inbox = tmp_path / "inbox"
    for place in ("a.jsonl", "high/b.jsonl", ".queue/1-c.jsonl", "completed/d.jsonl", "failed/e.jsonl", ".generated/f.jsonl"):
        (inbox / place).parent.mkdir(parents=True, exist_ok=True)
        (inbox / place).write_text(json.dumps({"question": place, "answer": "x"}) + "\n")
    (inbox / "broken.jsonl").write_text("{")
    (inbox / "notes.txt").write_text("mine")
    known = Known(by_question=True)
    known.add_inbox(inbox)
    assert (known.stats().examples, known.stats().unreadable) == (4, 1)
    assert known.add(load_file(inbox / "completed/d.jsonl").examples[0], "x") == "the inbox"
    assert known.add(load_file(inbox / "failed/e.jsonl").examples[0], "x") == ""
