"""The demonstration server speaks OpenAI's protocol and answers with the base or with any checkpoint that it is allowed to read."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from trainbus.demo.tiny_model import make_base


def call(url, body=None):
    """POST or GET; status and decoded answer."""
    request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An untaught base, and two checkpoints of it with random adapters: weights that differ for certain."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("demo")
    base = make_base(root / "base", steps=0)
    for step in (2, 4):
        torch.manual_seed(step)
        adapters = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), adapters).save_pretrained(root / "out" / f"checkpoint-{step}")
    return root


@pytest.fixture(scope="module")
def url(trained):
    """A running server."""
    command = [
        sys.executable,
        "-m",
        "trainbus.demo.server",
        "--base",
        str(trained / "base"),
        "--allow",
        str(trained / "out"),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()
            assert process.wait(180) == 0


def ask(url, model="base", **more):
    return call(
        f"{url}/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "upper abc"}], "max_tokens": 6, **more}
    )


def test_it_says_that_it_is_healthy_and_what_it_serves(url):
    """Before anything is asked there is the base."""
    assert call(f"{url}/health")[1]["status"] == "ok"
    assert call(f"{url}/v1/models")[1]["data"][0]["id"] == "base"


def test_greedy_answers_are_the_same_each_time_and_usage_is_counted(url):
    """The same weights and question give the same answer; tokens add up."""
    status, first = ask(url)
    assert status == 200
    assert first["choices"][0]["message"] == ask(url)[1]["choices"][0]["message"]
    usage = first["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] == len("upper abc") + 3  # speaker, end, speaker
    assert usage["completion_tokens"] <= 6


def test_a_checkpoint_is_asked_by_its_path_and_the_base_stays_as_it_was(url, trained):
    """Adapters are swapped for each request; the base's answer is the same before and after."""
    before = ask(url)[1]["choices"][0]["message"]
    two = ask(url, str(trained / "out" / "checkpoint-2"))[1]["choices"][0]["message"]
    four = ask(url, str(trained / "out" / "checkpoint-4"))[1]["choices"][0]["message"]
    assert len({before["content"], two["content"], four["content"]}) == 3
    assert ask(url)[1]["choices"][0]["message"] == before
    assert ask(url, str(trained / "out" / "checkpoint-2"))[1]["choices"][0]["message"] == two
    assert len(call(f"{url}/v1/models")[1]["data"]) == 3


def test_only_what_is_allowed_is_read(url, trained):
    """Paths outside the allowed directories, also by .., are refused as unknown models."""
    for model in ("/etc", str(trained / "out" / ".." / "base"), "gpt-9"):
        status, answer = ask(url, model)
        assert status == 404
        assert "allowed" in answer["error"]["message"]
    assert ask(url, str(trained / "out" / "checkpoint-99"))[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": "x"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": "a"}], "stream": True},
    ],
)
def test_a_malformed_request_is_refused_with_a_reason(url, body):
    """400 and OpenAI's error object."""
    status, answer = call(f"{url}/v1/chat/completions", body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"]
