"""Asking a server of the OpenAI form: streamed or whole, and whatever it answers, nothing hangs and the error says what came."""

from __future__ import annotations

import threading

import pytest

from tests.support import wait_for
from trainbus.errors import ConfigError, ProtocolError, RefusedError, UnreachableError
from trainbus.inferring.asking import Sampling
from trainbus.inferring.server import Server

GREEDY = Sampling(max_tokens=20)


def ask(stand_in, model, text="hello there", *, timeout=60.0, sampling=GREEDY, key=""):
    pieces = []
    answer = Server(stand_in.url, key=key, timeout=timeout).model(model).ask([{"role": "user", "content": text}], sampling, pieces.append)
    return answer, pieces


def test_an_answer_comes_piece_by_piece_and_then_as_a_whole(stand_in):
    """Usage and reason are those that the server tells; comments in the stream are passed over."""
    answer, pieces = ask(stand_in, "echo")
    assert pieces == ["hello", " ", "there"]
    assert (answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == ("hello there", "stop", 3, 2)
    assert 0 < answer.first_seconds <= answer.seconds


def test_only_what_is_set_is_sent_and_what_is_out_of_range_is_clamped(stand_in):
    """A server that refuses unknown fields is asked in the plain form; the key is a bearer token."""
    ask(stand_in, "echo", sampling=Sampling(max_tokens=5))
    assert stand_in.asked[0].keys() == {"model", "messages", "stream", "stream_options", "max_tokens", "temperature"}
    ask(
        stand_in, "echo", sampling=Sampling(temperature=9.0, top_k=0, top_p=7.0, repetition_penalty=1.2, seed=4, stop=("\n",)), key="secret"
    )
    told = {
        name: value
        for name, value in stand_in.asked[1].items()
        if name not in ("model", "messages", "stream", "stream_options", "max_tokens")
    }
    assert told == {"temperature": 2.0, "top_k": 1, "top_p": 1.0, "repetition_penalty": 1.2, "seed": 4, "stop": ["\n"]}
    assert stand_in.headers[1]["Authorization"] == "Bearer secret"
    assert "Authorization" not in stand_in.headers[0]


def test_without_a_name_the_first_model_of_the_list_answers(stand_in):
    """And its address may end in /v1 or not."""
    assert Server(stand_in.url).model().name == Server(f"{stand_in.url}/v1/").model().name == "echo"


def test_a_server_that_does_not_count_while_it_streams_is_asked_again_without(stand_in):
    """As `transformers serve` refuses what it does not know."""
    answer, pieces = ask(stand_in, "plain")
    assert (answer.text, pieces, answer.completion_tokens) == ("hello there", ["hello there"], None)
    assert ["stream_options" in body for body in stand_in.asked] == [True, False]


def test_a_server_that_cannot_stream_is_asked_again_for_the_whole(stand_in):
    """Its answer is one piece."""
    answer, pieces = ask(stand_in, "whole")
    assert (answer.text, pieces, answer.finish_reason) == ("all at once", ["all at once"], "length")
    assert [body["stream"] for body in stand_in.asked] == [True, True, False]


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        ("html", ProtocolError, "no JSON where a chat completion is expected: <html>Welcome to nginx ?]0;owned?"),
        ("busy", UnreachableError, "HTTP 503"),
        ("strict", RefusedError, "HTTP 401: Unauthorized"),
        ("nobody", RefusedError, "HTTP 404: no model nobody"),
        ("torn", UnreachableError, "ended the connection in the middle"),
        ("broken", RefusedError, "CUDA out of memory"),
        ("endless", ProtocolError, "more than 16,777,216 bytes"),
        ("longline", ProtocolError, "more than 1,048,576 bytes in one line"),
    ],
)
def test_a_hostile_answer_is_an_error_that_says_what_came(stand_in, model, error, says):
    """Control characters of a server never reach the message."""
    with pytest.raises(error) as caught:
        ask(stand_in, model)
    assert says in caught.value.problem
    assert caught.value.hint
    assert "\x1b" not in caught.value.problem


@pytest.mark.parametrize("model", ["drip", "slow"])
def test_a_server_that_sends_a_byte_now_and_then_has_only_the_time_that_it_was_given(stand_in, model):
    """The limit is over the whole answer, not over the pause between two bytes."""
    with pytest.raises(UnreachableError, match=r"did not finish its answer within 0.5 s"):
        ask(stand_in, model, timeout=0.5)


def test_nobody_at_the_address_is_told_at_once():
    """With what to do."""
    with pytest.raises(UnreachableError, match="can't be reached: Connection refused"):
        Server("http://127.0.0.1:9").models()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:99999"])
def test_an_address_that_is_none_is_refused(url):
    """Before anything is sent."""
    with pytest.raises(ConfigError):
        Server(url)


def test_an_interrupted_answer_ends_on_the_server_too(stand_in):
    """Ctrl-C comes while a piece is shown; the connection is closed, so the server can stop."""

    def interrupt(piece):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Server(stand_in.url).model("slow").ask([{"role": "user", "content": "x"}], GREEDY, interrupt)
    assert stand_in.gone.wait(60)


def test_a_pipe_that_breaks_while_a_piece_is_shown_is_no_fault_of_the_server(stand_in):
    """It is passed on as it is."""

    def broken(piece):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Server(stand_in.url).model("echo").ask([{"role": "user", "content": "x"}], GREEDY, broken)


def test_many_questions_are_asked_several_at_a_time_and_each_answer_finds_its_question(stand_in):
    """In whatever order they come."""
    model = Server(stand_in.url).model("upper", concurrency=3)
    conversations = [[{"role": "user", "content": f"q{number}"}] for number in range(20)]
    assert {number: answer.text for number, answer in model.ask_all(conversations, GREEDY)} == {n: f"Q{n}" for n in range(20)}


def test_who_stops_listening_to_many_answers_ends_those_that_run(stand_in):
    """Also while each is slow; none keeps the process alive."""
    model = Server(stand_in.url).model("slow", concurrency=2)
    answers = model.ask_all([[{"role": "user", "content": "x"}]] * 4, GREEDY)
    failed = []

    def listen():
        try:
            list(answers)
        except UnreachableError as error:
            failed.append(error)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    assert wait_for(lambda: len(stand_in.asked) >= 2, 60)
    model.server.cut()
    listener.join(60)
    assert not listener.is_alive()
    assert failed
    assert stand_in.gone.wait(60)
