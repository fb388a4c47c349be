"""The contract with vLLM's run-time adapters, against a server with the answers of its sources, of a new and of an old version.

docs.vllm.ai/en/latest/features/lora, vllm/entrypoints/openai/models/serving.py (2026) and serving_models.py (0.8).
"""

from __future__ import annotations

import pytest

from tests.plugins.inference.tools import checkpoint, given_up, of
from trainbus.bus.events import Alert, Eval

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


class Vllm:
    """Knows adapters by name as vLLM does; ``old`` has errors without the object around them."""

    def __init__(self, server, *, old: bool) -> None:
        self.old = old
        self.adapters: dict[str, str] = {}
        self.log: list[tuple] = []
        self.fail: list[tuple[int, str, str]] = []
        server.routes = {LOAD: self.load, UNLOAD: self.unload}
        server.reply = self.chat

    def error(self, status: int, kind: str, message: str):
        told = {"message": message, "type": kind, "param": None, "code": status}
        return status, {"object": "error", **told} if self.old else {"error": told}

    def load(self, body):
        name, path = body["lora_name"], body["lora_path"]
        self.log.append(("load", name, path))
        if self.fail:
            return self.error(*self.fail.pop(0))
        if name in self.adapters:
            return self.error(400, "InvalidUserInput", f"The lora adapter '{name}' has already been loaded.")
        self.adapters[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body):
        name = body["lora_name"]
        self.log.append(("unload", name))
        if self.adapters.pop(name, None) is None:
            return self.error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def chat(self, body):
        self.log.append(("ask", body["model"], self.adapters.get(body["model"])))
        if body["model"] not in self.adapters:
            return self.error(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
        return 200, {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "4"}}],
        }


@pytest.fixture(params=["new", "old"])
def vllm(server, request):
    """A vLLM of a new, and of an old version."""
    return Vllm(server, old=request.param == "old")


@pytest.fixture
def adapter(tmp_path):
    """Makes the directory of an adapter."""

    def make(name="checkpoint-1", file="adapter_config.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
        return str(tmp_path / name)

    return make


def test_an_adapter_is_loaded_under_the_checkpoints_id_asked_and_unloaded(vllm, adapter, examiner, until, tmp_path):
    """Under the path at which the server finds it."""
    harness = examiner(engine="vllm", limit=2, concurrency=1, paths={"/elsewhere": "/no", str(tmp_path): "/mnt/runs"})
    harness.feed(checkpoint(1, path=adapter()))
    until(lambda: not vllm.adapters and len(vllm.log) == 4)
    loaded = "/mnt/runs/checkpoint-1"
    assert vllm.log == [("load", "r@1:abc", loaded), ("ask", "r@1:abc", loaded), ("ask", "r@1:abc", loaded), ("unload", "r@1:abc")]
    until(lambda: of(harness, Eval))
    assert of(harness, Eval)[0].checkpoint == "r@1:abc"


def test_an_adapter_that_is_there_already_is_used(vllm, adapter, examiner, until):
    """As after a crash of the plugin: the id says that it is the same."""
    vllm.adapters["r@1:abc"] = "/from/before"
    harness = examiner(engine="vllm")
    harness.feed(checkpoint(1, path=adapter()))
    until(lambda: of(harness, Eval))
    assert [entry for entry in vllm.log if entry[0] == "load"] == [("load", "r@1:abc", harness.context.history[0].path)]
    until(lambda: not vllm.adapters)


def test_under_a_name_that_is_always_the_same_the_adapter_is_loaded_anew(vllm, adapter, examiner, until):
    """What is loaded under it may be the checkpoint before."""
    vllm.adapters["candidate"] = "/the/one/before"
    harness = examiner(engine="vllm", model="candidate", limit=1)
    path = adapter()
    harness.feed(checkpoint(1, path=path))
    until(lambda: of(harness, Eval))
    assert ("ask", "candidate", path) in vllm.log


def test_a_server_that_restarts_in_the_middle_loads_the_adapter_again(vllm, adapter, examiner, server, until):
    """It doesn't know the model any more: that is no reason to give up."""

    def restarting(body):
        if len(vllm.log) == 3:
            vllm.adapters.clear()
        return vllm.chat(body)

    server.reply = restarting
    harness = examiner(engine="vllm", concurrency=1)
    harness.feed(checkpoint(1, path=adapter()))
    until(lambda: of(harness, Eval))
    assert [entry[0] for entry in vllm.log].count("load") == 2
    assert len(of(harness, Eval)) == 1
    assert given_up(harness) == []


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ((404, "NotFoundError", "Loading lora x failed: No adapter found for /models/checkpoint-1"), "plugin.inference.paths"),
        ((400, "BadRequestError", "LoRA rank 64 is greater than max_lora_rank 16."), "max_lora_rank 16"),
        ((401, "Unauthorized", "Unauthorized"), "HTTP 401"),
    ],
)
def test_what_the_server_refuses_is_told_and_not_tried_again(failure, told, vllm, examiner, until):
    """With what to do about it."""
    vllm.fail = [failure]
    harness = examiner(engine="vllm")
    harness.feed(checkpoint(1))
    until(lambda: given_up(harness))
    assert told in given_up(harness)[0].message
    assert len(vllm.log) == given_up(harness)[0].evidence["attempts"] == 1


def test_a_fault_inside_the_server_is_tried_again(vllm, examiner, until):
    """Such as no memory at the moment."""
    vllm.fail = [(500, "InternalServerError", "CUDA out of memory")] * 2
    harness = examiner(engine="vllm", attempts=3)
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    assert [(alert.rule, alert.state) for alert in of(harness, Alert)] == [
        ("inference_server_lost", "raised"),
        ("inference_server_lost", "cleared"),
    ]


def test_a_server_without_run_time_loading_is_told_how_to_have_it(server, examiner, until):
    """vLLM has the route only when its environment variable is set."""
    harness = examiner(engine="vllm")
    harness.feed(checkpoint(1))
    until(lambda: given_up(harness))
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in given_up(harness)[0].message


def test_a_whole_model_is_refused_without_asking_the_server(vllm, adapter, examiner, until):
    """vLLM can't load one while it runs."""
    harness = examiner(engine="vllm")
    harness.feed(checkpoint(1, path=adapter(file="config.json")))
    until(lambda: given_up(harness))
    assert "is a whole model" in given_up(harness)[0].message
    assert vllm.log == []


def test_an_adapter_that_is_given_up_is_unloaded_too(vllm, adapter, examiner, server, until):
    """Otherwise each such checkpoint would take of the server's memory for ever."""
    server.reply = lambda body: vllm.error(400, "BadRequestError", "This model's maximum context length is 8 tokens.")
    harness = examiner(engine="vllm")
    harness.feed(checkpoint(1, path=adapter()))
    until(lambda: given_up(harness))
    assert vllm.adapters == {}
    assert vllm.log[-1] == ("unload", "r@1:abc")


def test_an_adapter_that_cannot_be_unloaded_costs_no_result(vllm, adapter, examiner, server, until, caplog):
    """It stays on the server, which is logged."""
    server.routes[UNLOAD] = lambda body: vllm.error(500, "InternalServerError", "Failed to remove lora adapter")
    harness = examiner(engine="vllm")
    harness.feed(checkpoint(1, path=adapter()))
    until(lambda: "stays on the server" in caplog.text)
    assert len(of(harness, Eval)) == 1
