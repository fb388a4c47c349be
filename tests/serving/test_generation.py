"""Answers, alone and together: the same text, told piece by piece, ended when they should end."""

from __future__ import annotations

import asyncio
import inspect
import math
import shutil
import threading

import numpy
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.support import wait_for
from trainbus.errors import ModelError, RefusedError
from trainbus.judging.statistics import least_entropy
from trainbus.serving.engine import Limits
from trainbus.serving.generation import Generator
from trainbus.serving.loading import load
from trainbus.serving.requests import Options, Piece
from trainbus.serving.scoring import Given

QUESTIONS = [[{"role": "user", "content": text}] for text in ("one", "twenty two", "three and a half", "4", "five of them")]


def reference(loaded, prompt, count):
    """What transformers itself generates greedily."""
    ids = torch.tensor([prompt])
    made = loaded.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return loaded.tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True)


def test_greedy_answers_in_a_batch_are_those_of_transformers_one_by_one(loaded, generator):
    """Chat template, left padding and the shared cache change nothing."""
    answers = generator.complete_many(QUESTIONS, Options(max_tokens=12))
    for question, answer in zip(QUESTIONS, answers, strict=True):
        prompt = loaded.tokenizer(generator.chat_text(question), add_special_tokens=False)["input_ids"]
        assert answer.text == reference(loaded, prompt, 12)
        assert answer.prompt_tokens == len(prompt)
    assert generator.stats().largest_batch > 1


def test_pieces_are_the_answer(generator):
    """What streams is what comes whole, and only the last piece has a reason."""
    pieces = list(generator.iterate(QUESTIONS[0], Options(max_tokens=12)))
    assert "".join(piece.text for piece in pieces) == generator.complete(QUESTIONS[0], Options(max_tokens=12)).text
    assert [bool(piece.finish_reason) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].finish_reason == "length"
    assert pieces[-1].completion_tokens == 12


def test_an_answer_ends_before_a_stop_text(generator):
    """The text before it is all that is told, and which one it was."""
    options = Options(max_tokens=30)
    whole = generator.complete("abc", options).text
    stop = whole[5:8]
    cut = generator.complete("abc", Options(max_tokens=30, stop=("never there", stop)))
    assert cut.text == whole[: whole.index(stop)]
    assert (cut.finish_reason, cut.stop) == ("stop", stop)


def test_a_seed_draws_the_same_text_whoever_is_beside_it(generator):
    """Alone or in a batch; and another seed draws another one."""
    options = Options(max_tokens=24, temperature=1.5, seed=7)
    alone = generator.complete(QUESTIONS[1], options)
    assert generator.complete_many(QUESTIONS, options)[1] == alone
    assert generator.complete(QUESTIONS[1], Options(max_tokens=24, temperature=1.5, seed=8)).text != alone.text


@pytest.mark.parametrize("only", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}], ids=str)
def test_sampling_from_the_likeliest_alone_is_greedy(generator, only):
    """k = 1, a tiny p and a tiny temperature leave one token each."""
    options = {"max_tokens": 16, "temperature": 1.0, "seed": 1, **only}
    assert generator.complete("abc", Options(**options)).text == generator.complete("abc", Options(max_tokens=16)).text


def test_a_repetition_penalty_makes_repetition_rarer(generator):
    """More different tokens than without it."""

    def different(penalty):
        told = generator.complete("aaaa", Options(max_tokens=40, repetition_penalty=penalty, logprobs=0)).tokens
        return len({token.id for token in told})

    assert different(5.0) > different(1.0)


def test_log_probabilities_and_entropies_are_those_of_a_single_pass(loaded, generator):
    """A-100: generation tells of its tokens what scoring them tells, and numpy; the alternatives begin with the greedy token."""
    answer = generator.complete("abc", Options(max_tokens=8, logprobs=3))
    ids = tuple(token.id for token in answer.tokens)
    score = generator.likelihoods([Given(generator.encode("abc"), ids, 0)])[0]
    assert [token.logprob for token in score.tokens] == pytest.approx([token.logprob for token in answer.tokens], abs=1e-5)
    assert all(token.top[0] == (token.text, token.logprob) and len(token.top) == 3 for token in answer.tokens)
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([[*generator.encode("abc"), *ids]])).logits[0, -len(ids) - 1 : -1]
    shares = numpy.exp(logits.double().log_softmax(-1).numpy())
    truth = -(shares * numpy.log(shares)).sum(axis=-1)
    for told in (answer, score):
        assert [token.entropy for token in told.tokens] == pytest.approx(truth.tolist(), abs=1e-4)
    assert all(least_entropy(value for _, value in one.top) <= one.entropy + 1e-5 for one in answer.tokens)


def test_the_loss_of_an_answer_is_that_of_training(loaded, generator):
    """Teacher-forced cross-entropy over the answer and the end of its turn, also in a batch of different lengths."""
    pairs = [(QUESTIONS[0], "yes"), (QUESTIONS[1], "a much longer answer than that"), ("plain text ", "goes on")]
    for (prompt, answer), score in zip(pairs, generator.score_many(pairs), strict=True):
        before = generator.chat_text(prompt) if not isinstance(prompt, str) else prompt
        start = loaded.tokenizer(before, add_special_tokens=False)["input_ids"]
        rest = loaded.tokenizer(answer + "<|end|>", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            labels = torch.tensor([[-100] * len(start) + rest])
            expected = loaded.model(input_ids=torch.tensor([start + rest]), labels=labels).loss.item()
        assert score.loss == pytest.approx(expected, abs=1e-4)
        assert len(score.tokens) == len(rest)


def test_the_first_token_of_a_text_of_its_own_has_no_probability(generator):
    """Nothing stands before it; the loss is that of the others."""
    score = generator.score("", "abcd", end=False)
    assert [token.logprob is None for token in score.tokens] == [True, False, False, False]
    assert math.isfinite(score.loss)


def test_adapters_answer_each_with_their_own_weights(models, loaded, tmp_path):
    """Asked at once, each request gets the adapter that it names, or the base; what is taken away is unknown afterwards.

    The base is never read again: its files are gone.
    """
    prompt = loaded.tokenizer("abc")["input_ids"]
    expected = {"": reference(loaded, prompt, 10)}
    for name in ("checkpoint-1", "checkpoint-2"):
        alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(models / "base"), models / name).eval()
        expected[name] = reference(loaded._replace(model=alone), prompt, 10)
    assert len(set(expected.values())) == 3
    place = shutil.copytree(models / "base", tmp_path / "base")
    own = load(place, device="cpu")  # adapters are put into the model that is given
    shutil.rmtree(place)
    with Generator(own.model, own.tokenizer) as generator:
        for name in ("checkpoint-1", "checkpoint-2"):
            generator.add_adapter(name, models / name)
        with pytest.raises(RefusedError, match="already"):
            generator.add_adapter("checkpoint-1", models / "checkpoint-1")
        found, ended = {}, threading.Semaphore(0)
        for number in range(12):
            name = ("", "checkpoint-1", "checkpoint-2")[number % 3]

            def listen(piece, number=number, name=name):
                found[number, name] = found.get((number, name), "") + piece.text
                if piece.finish_reason:
                    ended.release()

            generator.submit("abc", Options(max_tokens=10), listener=listen, adapter=name)
        assert all(ended.acquire(timeout=60) for _ in range(12))
        assert {(name, text) for (_, name), text in found.items()} == set(expected.items())
        for name in ("checkpoint-2", "", "checkpoint-1", ""):
            assert generator.complete("abc", Options(max_tokens=10), adapter=name).text == expected[name]
        generator.remove_adapter("checkpoint-1")
        with pytest.raises(RefusedError, match="no adapter") as refused:
            generator.complete("abc", adapter="checkpoint-1")
        assert refused.value.facts["code"] == "unknown"
        assert generator.complete("abc", Options(max_tokens=10), adapter="checkpoint-2").text == expected["checkpoint-2"]
        generator.remove_adapter("checkpoint-2")
        assert generator.complete("abc", Options(max_tokens=10)).text == expected[""]
        generator.add_adapter("again", models / "checkpoint-1")
        assert generator.complete("abc", Options(max_tokens=10), adapter="again").text == expected["checkpoint-1"]


def test_time_is_over_with_what_there_is(generator):
    """An answer whose time has passed before it began is empty, and says so."""
    answer = generator.complete("abc", Options(max_tokens=400, seconds=0.0))
    assert (answer.text, answer.finish_reason) == ("", "time")


def test_a_cancelled_answer_makes_room(generator):
    """Who stops iterating cancels: nothing is generated for it any more, and others are answered."""
    before = generator.stats().generated_tokens
    for piece in generator.iterate("abc", Options(max_tokens=450)):
        assert piece.text is not None
        break
    wait_for(lambda: generator.stats().active == 0, 60)
    assert generator.stats().generated_tokens - before < 450
    assert generator.complete("abc", Options(max_tokens=2)).completion_tokens == 2


async def test_an_asynchronous_stream_gives_the_same_and_ends_when_its_task_is_cancelled(generator):
    """The text is that of the blocking call."""
    pieces = [piece.text async for piece in generator.stream("abc", Options(max_tokens=10))]
    assert "".join(pieces) == (await generator.answer("abc", Options(max_tokens=10))).text

    async def endless():
        async for _ in generator.stream("abc", Options(max_tokens=450)):
            begun.set()

    begun = asyncio.Event()
    before = generator.stats().generated_tokens
    task = asyncio.create_task(endless())
    await asyncio.wait_for(begun.wait(), 60)
    task.cancel()
    await asyncio.wait([task], timeout=60)
    await asyncio.to_thread(wait_for, lambda: generator.stats().active == 0, 60)
    assert generator.stats().generated_tokens - before < 450


def test_what_can_not_be_answered_is_refused_with_the_reason(generator):
    """Too long, nothing, no such token: a sentence and a code each."""
    for prompt, options, code in (
        ("a" * 600, Options(), "too_long"),
        ("abc", Options(max_tokens=600), "too_long"),
        ("", Options(), "invalid"),
        ([999_999], Options(), "invalid"),
        ([{"content": "who speaks?"}], Options(), "template"),
    ):
        with pytest.raises(RefusedError) as refused:
            generator.complete(prompt, options)
        assert refused.value.facts["code"] == code
        assert refused.value.hint
    for wrong in ({"temperature": -1.0}, {"top_p": float("nan")}, {"max_tokens": 0}, {"stop": ("",)}, {"logprobs": 99}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Options(**wrong)


def test_a_line_that_is_full_refuses_and_closing_tells_those_who_wait(loaded):
    """Two wait, the third is refused; whoever still waits when the model goes is told so."""
    generator = Generator(loaded.model, loaded.tokenizer, limits=Limits(max_batch=1, max_waiting=2))
    told, begun = [], threading.Event()

    def listen(piece):
        begun.set()
        told.append(piece)

    gate = threading.Event()

    def first(piece):
        begun.set()
        gate.wait(60)  # holds the model's thread, so that the line stays as it is
        told.append(piece)

    generator.submit("abc", Options(max_tokens=400), listener=first)
    assert begun.wait(60)
    for _ in range(2):
        generator.submit("abc", listener=listen)
    with pytest.raises(RefusedError) as refused:
        generator.submit("abc", listener=listen)
    assert refused.value.facts["code"] == "busy"
    closing = threading.Thread(target=generator.close)
    closing.start()
    gate.set()
    closing.join(60)
    errors = [one for one in told if not isinstance(one, Piece)]
    assert [error.facts["code"] for error in errors] == ["closed"] * 3
    with pytest.raises(RefusedError):
        generator.complete("abc")


def test_a_failing_model_fails_its_requests_and_answers_the_next(loaded):
    """Out of memory, say: those under way are told; the thread lives on."""
    calls = {"fail": True}
    forward = loaded.model.forward

    def failing(*arguments, **options):
        if calls.pop("fail", False):
            raise RuntimeError("CUDA out of memory")
        return forward(*arguments, **options)

    failing.__signature__ = inspect.signature(forward)
    loaded.model.forward = failing
    try:
        with Generator(loaded.model, loaded.tokenizer) as generator:
            with pytest.raises(ModelError, match="out of memory"):
                generator.complete("abc", Options(max_tokens=3))
            assert generator.complete("abc", Options(max_tokens=3)).completion_tokens == 3
            assert generator.stats().failed == 1
    finally:
        loaded.model.forward = forward
