"""Jobs with results, and what the machine tells: GPUs and their power by NVML's recorded interface."""

from __future__ import annotations

import json

import pynvml
import pytest

from tests.machine.nvml import FakeNvml
from tests.serving.tools import running
from tests.support import wait_for
from trainbus.serving.config import POWER_PROFILES, ServeConfig
from trainbus.serving.jobs import is_correct
from trainbus.serving.machine import Gpus


@pytest.fixture
def nvml():
    return FakeNvml()


@pytest.fixture
def client(models, nvml):
    config = ServeConfig(
        models={"base": models / "base", "one": models / "checkpoint-1"},
        roots=(models,),
        device="cpu",
        power_profiles={"quiet": 320, "huge": 900},
    )
    with running(config, gpus=Gpus(config.power_profiles, lambda: nvml)) as made:
        yield made.client()


def finished(client, reply):
    """A job's facts when it is over."""
    assert reply.status == 202, reply.body
    path = f"/jobs/{reply.body['job_id']}"
    wait_for(lambda: client.get(path).body["state"] not in ("queued", "running"), 60)
    return client.get(path).body


def test_a_model_is_examined_by_a_job(client, models):
    """Accuracy, correct, total and average loss; the loss is that of the same answers asked for directly."""
    known = client.chat("abc").body["choices"][0]["message"]["content"]
    examples = [{"prompt": "abc", "answer": known}, {"prompt": "abc", "answer": "wrong"}]
    submitted = client.post("/eval/jobs", {"model": "base", "examples": examples, "max_tokens": 8})
    job = finished(client, submitted)
    assert (job["state"], job["done"], job["total"]) == ("done", 2, 2)
    conversation = [{"messages": [{"role": "user", "content": one["prompt"]}], "answer": one["answer"]} for one in examples]
    losses = client.post("/v1/loss", {"items": conversation}).body["data"]
    result = client.get(f"/eval/jobs/{job['id']}/result").body
    assert (result["accuracy"], result["correct"], result["total"]) == (0.5, 1, 2)
    assert result["avg_loss"] == pytest.approx(sum(one["loss"] for one in losses) / 2, abs=1e-4)
    assert client.get("/jobs/stats").body["done"] == 1

    rows = [
        {"question": "1+1?", "answer": "so it is #### 2"},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
    ]
    (models / "set.jsonl").write_text("".join(f"{json.dumps(row)}\n\n" for row in rows))
    job = finished(client, client.post("/eval/jobs", {"model": "one", "dataset": str(models / "set.jsonl"), "max_tokens": 4}))
    assert (job["state"], job["result"]["total"], job["model"]) == ("done", 2, "one")
    (models / "bad.jsonl").write_text('{"question": "1+1?"}\n')
    refused = client.post("/eval/jobs", {"dataset": str(models / "bad.jsonl")})
    assert (refused.status, "line 1" in refused.body["error"]["message"]) == (400, True)


def test_a_job_generates_data(client):
    """An answer to each prompt, in their order; the same seed, the same data."""
    asked = {"prompts": ["a", "b", "c"], "max_tokens": 5, "seed": 3}
    first, second = (finished(client, client.post("/data/jobs", asked))["result"]["samples"] for _ in range(2))
    assert first == second
    assert [sample["prompt"] for sample in first] == ["a", "b", "c"]


def test_jobs_wait_can_be_cancelled_and_fail_with_a_sentence(client):
    """One runs at a time; a cancelled one leaves the model free for the next."""
    long = {"prompts": ["a"] * 200, "max_tokens": 400}
    running_, waiting = (client.post("/data/jobs", long).body["job_id"] for _ in range(2))
    wait_for(lambda: client.get(f"/jobs/{running_}").body["state"] == "running", 60)
    assert client("DELETE", f"/jobs/{waiting}").body["state"] == "cancelled"
    assert client("DELETE", f"/jobs/{running_}").status == 200
    wait_for(lambda: client.get(f"/jobs/{running_}").body["state"] == "cancelled", 60)
    assert client.get(f"/eval/jobs/{running_}/result").status == 409
    failed = finished(client, client.post("/data/jobs", {"prompts": ["a" * 600]}))
    assert failed["state"] == "failed"
    assert "context" in failed["error"]
    assert client.post("/data/jobs", {"model": "nobody", "prompts": ["a"]}).status == 404
    assert client.get("/jobs/nothing").status == 404
    assert [job["id"] for job in client.get("/jobs").body["jobs"]][1:] == [waiting, running_]


@pytest.mark.parametrize(
    ("given", "expected", "correct"),
    [
        ("Paris", "paris ", True),
        ("Paris!", "Paris", True),
        ("Paris, France", "Paris", False),
        ("so 3 + 4 = 1,007", "first ... #### 1007", True),
        ("it is 7 or 8", "#### 7", False),
        ("none", "#### 7", False),
    ],
)
def test_answers_are_compared_as_text_or_by_their_last_number(given, expected, correct):
    """GSM8K's form names the number that counts."""
    assert is_correct(given, expected) is correct


def test_the_machine_is_told(client, nvml):
    """GPU, system, info, version and log; NVML is closed after each look."""
    gpu = client.get("/gpu").body["gpus"][1]
    assert (gpu["temperature"], gpu["utilization"], gpu["memory_utilization"], gpu["power"]) == (61, 97, 40, 350.5)
    assert (gpu["memory_used"], gpu["memory_total"], gpu["name"]) == (20 << 30, 80 << 30, "NVIDIA H100")
    nvml.fails["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert client.get("/gpu").body["gpus"][0]["utilization"] is None
    assert nvml.opened == 0
    system = client.get("/system").body
    assert system["memory_total"] >= system["memory_available"] > 0
    assert system["process"]["memory"] > 0
    assert client.get("/version").body["version"] == client.get("/info").body["version"]
    client.chat()
    assert any("loaded base" in line for line in client.get("/logs?lines=50").body["lines"])
    nvml.fails["nvmlInit"] = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert client.get("/gpu").body["gpus"] == []
    assert "NVML" in client.get("/gpu").body["reason"]


def test_power_is_set_by_profiles(client, nvml):
    """All GPUs or one; an unknown profile, a GPU that is none, watts out of range and no permission are each refused."""
    assert POWER_PROFILES == {"quiet": 220, "normal": 280, "performance": 350}
    told = client.post("/power", {"profile": "quiet"}).body
    assert nvml.limits == [320_000, 320_000]
    assert [gpu["profile"] for gpu in told["gpus"]] == ["quiet", "quiet"]
    for body in ({"profile": "nothing"}, {"profile": "quiet", "gpu": 7}, {"profile": "huge"}):
        reply = client.post("/power", body)
        assert reply.status == 422, body
        assert reply.body["error"]["message"]
    assert nvml.limits == [320_000, 320_000]
    nvml.fails["nvmlDeviceSetPowerManagementLimit"] = pynvml.NVML_ERROR_NO_PERMISSION
    assert client.post("/power", {"profile": "quiet", "gpu": 1}).status == 403
    nvml.fails = {"nvmlInit": pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
    assert client.post("/power", {"profile": "quiet"}).status == 501
    assert client.get("/power").body["gpus"] == []
