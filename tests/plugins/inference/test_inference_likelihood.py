"""Log-probabilities: confidence, cross-entropy and multiple choice, by each form in which servers give them."""

from __future__ import annotations

import math

import numpy
import pytest

from tests.plugins.inference.tools import checkpoint, given_up, of, write_set
from trainbus.bus.events import Eval, Sample

WORTH = {"g": -0.25, "s": -1.5}


def echo(body):
    """OpenAI's older completions with `echo`: one token a character, worth what `WORTH` says of it; one more is generated."""
    text = body["prompt"] + "!"
    values = [None, *(WORTH.get(letter, -1.0) for letter in text[1:])]
    told = {"tokens": list(text), "token_logprobs": values, "text_offset": list(range(len(text)))}
    return 200, {"choices": [{"text": text, "logprobs": told}]}


def chat_with_prompt_logprobs(body):
    """vLLM's chat completions: one token a character of all messages, and one for the turn of the assistant."""
    text = "".join(message["content"] for message in body["messages"])
    if body["messages"][-1]["role"] != "assistant":
        return 200, {"choices": [{"message": {"content": "?"}}], "usage": {"prompt_tokens": len(text) + 1}}
    before = len("".join(message["content"] for message in body["messages"][:-1]))
    letters = [*text[:before], "<assistant>", *text[before:]]
    told = [None, *({str(ord(letter[0])): {"logprob": WORTH.get(letter, -1.0), "rank": 1}} for letter in letters[1:])]
    return 200, {"choices": [{"message": {"content": "?"}}], "usage": {"prompt_tokens": len(letters)}, "prompt_logprobs": told}


CHOICES = [
    {"id": "green", "question": "Green?", "choices": ["ssss", "gggg"], "answer": 1},
    {"id": "white", "question": "White?", "choices": ["ssss", "gggg"], "answer": 0},
]


@pytest.mark.parametrize("form", ["completion", "chat"])
def test_multiple_choice_takes_the_likeliest_text_as_the_answer(form, examiner, server, until, tmp_path):
    """Both forms give the same: answer, confidence among the choices, loss of the right one, and from these calibration."""
    server.routes["/v1/completions"] = echo
    server.reply = chat_with_prompt_logprobs
    file = write_set(tmp_path / "choices.jsonl", CHOICES)
    harness = examiner(questions=file, scorer="multiple_choice", likelihood=form)
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    green, white = of(harness, Sample)
    assert [(sample.answer, sample.correct, sample.loss) for sample in (green, white)] == [("gggg", True, 0.25), ("gggg", False, 1.5)]
    sure = 1 / (1 + math.exp(4 * (-1.5 + 0.25)))
    assert green.metrics == {"confidence": pytest.approx(sure), "tokens": 4.0}
    (result,) = of(harness, Eval)
    assert result.metrics["multiple_choice"] == result.metrics["accuracy"] == 0.5
    assert result.metrics["cross_entropy"] == pytest.approx((0.25 + 1.5) / 2)
    assert result.metrics["ece"] == pytest.approx(sure - 0.5)


@pytest.mark.parametrize("exact", [True, False])
def test_the_entropy_of_an_answer_is_the_server_s_or_what_the_likeliest_tokens_add_up_to(exact, examiner, server, until):
    """A-100: each as numpy has it; it is in samples and results, and stays over a restart."""
    whole = numpy.array([[0.5, 0.25, 0.125, 0.125], [0.97, 0.01, 0.01, 0.01]])
    truth = -(whole * numpy.log(whole)).sum(axis=1)
    told = [
        {"token": "4", "logprob": math.log(row[0]), "top_logprobs": [{"logprob": math.log(share)} for share in row]}
        for row in whole[:, : 4 if exact else 2]
    ]
    server.reply = lambda body: (200, {"choices": [{"message": {"content": "4"}, "logprobs": {"content": told}}]})
    harness = examiner(entropy=True)
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    found = [event.metrics["answer_entropy"] for event in (*of(harness, Sample), *of(harness, Eval))]
    assert all(body["logprobs"] and body["top_logprobs"] == 20 for body in server.requests)
    if exact:
        assert found == pytest.approx([truth.mean()] * len(found))
        return
    grouped = numpy.array([[0.5, 0.25, 0.25], [0.97, 0.01, 0.02]])
    assert found == pytest.approx([-(grouped * numpy.log(grouped)).sum(axis=1).mean()] * len(found))
    assert found[0] < truth.mean()


@pytest.mark.parametrize("told", [[], [{"token": "x", "logprob": 5e3, "top_logprobs": [{"logprob": 5e3}, {"logprob": -1e308}]}], None])
def test_log_probabilities_that_are_none_give_no_entropy_that_is_none(told, examiner, server, until):
    """An answer counts, whatever is told of its tokens."""
    server.reply = lambda body: (200, {"choices": [{"message": {"content": "4"}, "logprobs": None if told is None else {"content": told}}]})
    harness = examiner(entropy=True)
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    assert of(harness, Eval)[0].metrics.get("answer_entropy") in (None, 0.0)


def test_each_sample_carries_the_loss_of_its_expected_answer(examiner, server, until):
    """A-98, A-100: the loss is per token, of what was expected and not of what was said."""
    server.routes["/v1/completions"] = echo
    harness = examiner(likelihood="completion", likelihood_text="Q: {prompt}\nA: ")
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    assert [(sample.loss, sample.metrics["tokens"]) for sample in of(harness, Sample)] == [(1.0, 1.0)] * 4 + [(1.0, 2.0)]
    assert of(harness, Eval)[0].metrics["cross_entropy"] == 1.0
    path, body = server.calls[0]
    assert (path, body["prompt"].partition("\n")[2][:3], body["echo"], body["max_tokens"]) == ("/v1/completions", "A: ", True, 1)


def test_a_text_is_measured_and_not_asked(examiner, server, until, tmp_path):
    """The first token has nothing before it, so it has no likelihood."""
    server.routes["/v1/completions"] = echo
    harness = examiner(questions=write_set(tmp_path / "texts.jsonl", [{"id": "t", "text": "gggs"}]), likelihood="completion")
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    (sample,) = of(harness, Sample)
    assert (sample.answer, sample.correct, sample.loss) == (None, None, pytest.approx((0.25 + 0.25 + 1.5) / 3))
    assert of(harness, Eval)[0].metrics == {"cross_entropy": pytest.approx(2.0 / 3)}
    assert server.requests == []


def test_the_confidence_of_an_answer_is_the_mean_probability_of_its_tokens(examiner, server, until):
    """Asked for by `logprobs`; with verdicts it gives the calibration error."""
    server.answer = lambda prompt: "4"
    harness = examiner(logprobs=True)
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    assert [sample.metrics["confidence"] for sample in of(harness, Sample)] == [pytest.approx(math.exp(-0.5))] * 5
    assert of(harness, Eval)[0].metrics["ece"] == pytest.approx(math.exp(-0.5) - 0.2)


def test_a_server_without_log_probabilities_is_said_so(examiner, server, until):
    """It answers, but without what was asked for: trying again would not help."""
    server.routes["/v1/completions"] = lambda body: (200, {"choices": [{"text": "x", "logprobs": None}]})
    harness = examiner(likelihood="completion")
    harness.feed(checkpoint(1))
    until(lambda: given_up(harness))
    assert "echoes no log-probabilities" in given_up(harness)[0].message
    assert given_up(harness)[0].evidence["attempts"] == 1
