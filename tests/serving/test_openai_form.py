"""OpenAI's protocol over real HTTP: answers, streams, log-probabilities, errors."""

from __future__ import annotations

import json
import socket
import threading
from urllib.parse import urlsplit

import pytest

from tests.serving.tools import running
from tests.support import wait_for
from trainbus.serving.config import ServeConfig


@pytest.fixture(scope="module")
def server(models):
    """The base and an adapter by name; any other checkpoint by its path."""
    config = ServeConfig(
        models={"base": models / "base", "first": models / "checkpoint-1"},
        roots=(models,),
        device="cpu",
        max_waiting=64,
        body_bytes=100_000,
    )
    with running(config) as made:
        yield made


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def generator(server):
    return server.server.residency.generators()["base"]


def test_a_chat_is_answered_greedily_with_its_counts(client):
    """The same question gives the same answer; tokens add up."""
    first, second = client.chat(), client.chat(model="base")
    assert first.status == 200
    assert first.body["choices"][0]["message"]["role"] == "assistant"
    assert first.body["choices"] == second.body["choices"]
    usage = first.body["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    assert first.body["choices"][0]["finish_reason"] == "length"


def test_a_model_is_a_name_an_adapter_or_a_path(client, models):
    """Each answers with its own weights; the path of an adapter gives what its name gives."""
    texts = {
        name: client.chat(model=name).body["choices"][0]["message"]["content"]
        for name in ("base", "first", str(models / "checkpoint-1"), str(models / "checkpoint-2"), "active")
    }
    assert texts["first"] == texts[str(models / "checkpoint-1")]
    assert texts["active"] == texts["base"]
    assert len(set(texts.values())) == 3


def test_a_stream_is_the_answer_in_pieces(client):
    """Role first, then text, a reason, and the counts where they were asked for."""
    whole = client.chat(n=2, temperature=1.0, seed=3).body["choices"]
    body = {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 8, "n": 2, "temperature": 1.0, "seed": 3}
    *events, last = client.events("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    for index in (0, 1):
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content", "") for choice in mine) == whole[index]["message"]["content"]
        assert mine[-1]["finish_reason"] == "length"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 16
    assert whole[0] != whole[1] | {"index": 0}


def test_stop_texts_end_it(client):
    """A text or a list, in both forms; vLLM's stop_reason names it."""
    text = client.chat(max_tokens=20).body["choices"][0]["message"]["content"]
    choice = client.chat(max_tokens=20, stop=["never there", text[4:6]]).body["choices"][0]
    assert choice["message"]["content"] == text[: text.index(text[4:6])]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", text[4:6])


def test_time_is_a_reason_to_end(client):
    """OpenAI knows no such reason: it is a length, and the stop_reason says why."""
    choice = client.chat(timeout=1e-9).body["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "time")


def test_log_probabilities_come_in_both_forms(client):
    """Of generated tokens with alternatives, and of the prompt itself by an echo, as evaluation harnesses ask for them."""
    chat = client.chat(logprobs=True, top_logprobs=2).body["choices"][0]["logprobs"]["content"]
    assert len(chat) == 8
    assert all(one["top_logprobs"][0]["token"] == one["token"] and len(one["top_logprobs"]) == 2 for one in chat)
    echo = client.post("/v1/completions", {"prompt": "hello world", "max_tokens": 0, "echo": True, "logprobs": 1}).body["choices"][0]
    told = echo["logprobs"]
    assert echo["text"] == "hello world" == "".join(told["tokens"])
    assert told["token_logprobs"][0] is None
    assert all(value < 0 for value in told["token_logprobs"][1:])
    assert told["text_offset"] == list(range(11))
    more = client.post("/v1/completions", {"prompt": ["hello world", "x"], "max_tokens": 2, "echo": True, "logprobs": 1}).body
    assert more["choices"][0]["logprobs"]["token_logprobs"][:11] == pytest.approx([None, *told["token_logprobs"][1:]], abs=1e-5)
    assert [len(choice["logprobs"]["tokens"]) for choice in more["choices"]] == [13, 3]


def test_the_loss_of_an_answer_is_the_same_in_each_form(client):
    """By /v1/loss, and as vLLM tells it of a conversation with its answer."""
    messages = [{"role": "user", "content": "abc"}]
    loss = client.post("/v1/loss", {"items": [{"messages": messages, "answer": "def"}, {"prompt": "p", "answer": "q"}]}).body["data"]
    whole = client.chat(prompt_logprobs=0, add_generation_prompt=False, messages=[*messages, {"role": "assistant", "content": "def"}])
    answer = [next(iter(one.values()))["logprob"] for one in whole.body["prompt_logprobs"][-4:]]  # d, e, f and the end of the turn
    assert loss[0]["loss"] == pytest.approx(-sum(answer) / 4, abs=1e-4)
    assert [one["tokens"] for one in loss] == [4, 2]


def test_a_text_is_completed_as_it_is(client):
    """Several prompts, token ids, several choices; pieces where they are streamed."""
    body = client.post("/v1/completions", {"prompt": ["abc", "de"], "max_tokens": 4, "n": 2, "temperature": 1, "seed": 5}).body
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    ids = [70, 71, 72]
    one = client.post("/v1/completions", {"prompt": ids, "max_tokens": 4}).body["choices"][0]["text"]
    streamed = client.events("/v1/completions", {"prompt": ids, "max_tokens": 4})
    assert "".join(event["choices"][0]["text"] for event in streamed) == one


def test_generate_takes_one_prompt(client):
    """The short form of remote inference; a seed makes it the same."""
    first, second = (client.post("/generate", {"prompt": "abc", "max_tokens": 6, "seed": 1}).body for _ in range(2))
    assert first["generated_text"] == second["generated_text"]
    assert first["model"] == "base"


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"model": "nobody"}, 404, None, "model_not_found"),
        ({"model": "/etc"}, 404, None, "model_not_found"),
        ({"model": "../base"}, 404, None, "model_not_found"),
        ({"max_tokens": 0}, 400, "max_tokens", None),
        ({"max_tokens": 10_000}, 400, None, "context_length_exceeded"),
        ({"temperature": 3}, 400, "temperature", None),
        ({"messages": []}, 400, "messages", None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages", None),
        ({"tools": [{}]}, 400, "tools", None),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", None),
    ],
)
def test_what_can_not_be_answered_has_openai_s_error_body(client, body, status, param, code):
    """Status, sentence, field and code; also when a stream was asked for."""
    for more in ({}, {"stream": True}):
        reply = client.chat(**body, **more)
        assert reply.status == status, reply.body
        error = reply.body["error"]
        assert error["message"]
        assert (error["param"], error["code"]) == (param, code)


def test_broken_requests_are_refused_and_the_server_lives(client):
    """No JSON, too large, no such route, lone surrogates, deep nesting."""
    for data, status in ((b"{", 400), (b"[" * 50_000, 400), (b"\xff\xfe", 400), (b"{" + b" " * 200_000 + b"}", 413)):
        assert client("POST", "/v1/chat/completions", data=data).status == status
    assert client.get("/nowhere").body["error"]["code"] == 404
    assert client("DELETE", "/v1/chat/completions").status == 405
    assert client.post("/v1/completions", {"prompt": "\ud800 x", "max_tokens": 1}).status == 400
    assert client.chat().status == 200


def test_what_a_client_that_went_had_asked_for_is_not_made(server, client):
    """A connection that is cut in the middle, streamed or not, stops the generation, and leaves the model free."""
    address = urlsplit(server.url)
    for stream in (True, False):
        before = generator(server).stats()
        body = json.dumps({"messages": [{"role": "user", "content": "abc"}], "max_tokens": 480, "stream": stream}).encode()
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + body)
            wait_for(lambda: generator(server).stats().generated_tokens > before.generated_tokens, 60)  # noqa: B023
        wait_for(lambda: generator(server).stats().active == 0, 60)
        assert generator(server).stats().generated_tokens - before.generated_tokens < 480


def test_many_at_once_are_answered_together(server, client):
    """Sixteen questions at once: each gets the answer that it gets alone."""
    questions = [f"question {number}" for number in range(16)]
    alone = client.chat(questions[7]).body["choices"]
    answers = {}

    def ask(question):
        answers[question] = client.chat(question).body["choices"]

    threads = [threading.Thread(target=ask, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(answers) == 16
    assert answers[questions[7]] == alone
    assert generator(server).stats().largest_batch > 1
