"""Which scorer decides, and what third parties can bring along."""

from __future__ import annotations

import sys

import pytest

from tests.plugins.inference.tools import checkpoint, of, write_set
from trainbus.bus.events import Eval, Sample
from trainbus.errors import ConfigError, DataError, PluginError
from trainbus.plugins.inference.config import ExamSet, InferenceConfig
from trainbus.plugins.inference.engines import Answer
from trainbus.plugins.inference.exams import Exam, load_exam, metrics_of
from trainbus.plugins.inference.questions import Question
from trainbus.plugins.inference.scorers import find_scorer


def scorer(name, pattern=""):
    return find_scorer(ExamSet(questions="x.jsonl", scorer=name, pattern=pattern))


@pytest.mark.parametrize(
    ("pattern", "answer", "expected", "right"),
    [
        (r"Answer: *(\S+)", "I think. Answer: B", "b", True),
        (r"Answer: *(\S+)", "Answer: A, no, Answer: B", "A", False),
        (r"Answer: *(\S+)", "B", "B", False),
        (r"\d+", "it is 41 or 42", "42", True),
        (r"^sorry", "Sure.\nsorry", None, True),
        (r"^sorry", "not sorry", None, False),
    ],
)
def test_a_regular_expression_finds_the_answer_in_what_was_said(pattern, answer, expected, right):
    """The last find counts, by its first group; without an expected answer it is enough that something is found."""
    assert scorer("regular_expression", pattern)(answer, expected) is right


@pytest.mark.parametrize(
    ("answer", "valid"),
    [('{"a": [1, 2]}', True), ("```json\n{}\n```", True), ("Here it is: {}", False), ('{"a": ', False), ("", False), ("[" * 5000, False)],
)
def test_json_validity_is_that_the_whole_answer_is_json(answer, valid):
    """A fence around it is forgiven, talk around it is not."""
    assert scorer("json_valid")(answer, None) is valid


@pytest.mark.parametrize(
    ("name", "pattern", "told"),
    [
        ("best_match", "", "there is no scorer of that name"),
        ("regular_expression", "", "plugin.inference.pattern is empty"),
        ("regular_expression", "(", "no regular expression"),
    ],
)
def test_a_scorer_that_cannot_work_is_refused_with_what_is_allowed(name, pattern, told):
    """At the start, not at the first checkpoint."""
    with pytest.raises(ConfigError, match=r".") as caught:
        scorer(name, pattern)
    assert told in caught.value.problem
    assert caught.value.hint


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """Makes a third party's module, importable in this test only."""

    def make(code):
        (tmp_path / "house_scorer.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "house_scorer", raising=False)

    yield make
    sys.modules.pop("house_scorer", None)


def test_a_third_partys_function_decides(foreign, examiner, until):
    """Named by module and function; the shares of the built-in comparisons stand beside it."""
    foreign("def even(answer, expected):\n    return int(answer) % 4 == 0\n")
    harness = examiner(scorer="house_scorer:even")
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    metrics = of(harness, Eval)[0].metrics
    assert (metrics["house_scorer:even"], metrics["accuracy"], metrics["exact_match"]) == (0.4, 0.4, 1.0)


def test_a_third_partys_entry_point_decides(foreign, tmp_path):
    """Installed packages name their scorers in the group `trainbus.scorers`."""
    foreign("def loud(answer, expected):\n    return answer.isupper()\n")
    info = tmp_path / "house-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trainbus.scorers]\nloud = house_scorer:loud\n")
    assert scorer("loud")("YES", None) is True


def test_a_scorer_that_raises_costs_a_verdict_and_not_the_answer(foreign, examiner, until, caplog):
    """The sample is published without one, and the log says where it raised."""
    foreign("def shy(answer, expected):\n    return {}[answer] if answer == '6' else True\n")
    harness = examiner(scorer="house_scorer:shy")
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    assert [sample.correct for sample in of(harness, Sample)] == [True, True, None, True, True]
    assert "house_scorer:shy raised on question q3" in caplog.text


@pytest.mark.parametrize(
    ("code", "told"), [("import nothing_of_that_name", "nothing_of_that_name"), ("other = 1", "even"), ("even = 5", "is no function")]
)
def test_a_scorer_that_cannot_be_imported_is_refused_at_the_start(code, told, foreign):
    """With the reason, as a sentence."""
    foreign(code)
    with pytest.raises(PluginError, match=told):
        scorer("house_scorer:even")


def test_the_metrics_count_each_comparison_over_what_it_can_judge():
    """Questions without an expected answer lower no score; no number expected, no number_match."""
    exam = Exam(ExamSet(questions="x"), [], scorer("normalised_match"))
    asked = [("4", "4"), ("five", "Five"), ("anything", None)]
    scored = [exam.score(Question("q", "?", (), expected), Answer(text=said)) for said, expected in asked]
    metrics = metrics_of(exam, scored)
    assert {name: metrics[name] for name in ("exact_match", "normalised_match", "number_match", "accuracy")} == {
        "exact_match": 0.5, "normalised_match": 1.0, "number_match": 1.0, "accuracy": 1.0,
    }  # fmt: skip
    assert metrics_of(exam, scored[2:]) == {}


def test_cross_entropy_is_the_mean_over_tokens_and_calibration_takes_pairs_of_one_answer():
    """A-98, A-100: a long answer weighs more, as in training; an answer without a verdict is in no bin."""
    exam = Exam(ExamSet(questions="x", scorer="exact_match"), [], scorer("exact_match"))
    answers = [Answer("a", 0.75, 1.0, 10), Answer("b", 0.75, 4.0, 30), Answer("c", 0.1), Answer(refused="too long")]
    scored = [exam.score(Question("q", "?", (), expected), answer) for expected, answer in zip(("a", "x", None, "y"), answers, strict=True)]
    metrics = metrics_of(exam, scored)
    assert metrics["cross_entropy"] == pytest.approx((10 * 1.0 + 30 * 4.0) / 40)
    assert metrics["ece"] == pytest.approx(0.75 - 0.5)


@pytest.mark.parametrize(
    ("record", "settings", "error", "told"),
    [
        ({"text": "Once"}, {}, ConfigError, "a text that is only measured"),
        ({"text": "Once"}, {"likelihood": "chat"}, ConfigError, "a text that is only measured"),
        ({"prompt": "?", "choices": ["a", "b"], "answer": "a"}, {"scorer": "multiple_choice"}, ConfigError, "scorer 'multiple_choice'"),
        ({"prompt": "?", "answer": "a"}, {"scorer": "multiple_choice", "likelihood": "chat"}, DataError, "has no choices"),
    ],
)
def test_what_needs_log_probabilities_is_refused_without_them(record, settings, error, told, tmp_path):
    """At the start, with the setting that would help."""
    config = InferenceConfig(url="http://h/v1", questions=write_set(tmp_path / "set.jsonl", [record]), **settings)
    with pytest.raises(error, match=told):
        load_exam(config.all_sets()[0], config)
