"""`trainbus server`: a running server asked about itself, and what comes of one that answers something else (A-126)."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from tests.serving.tools import answering, running
from trainbus.cli.app import run
from trainbus.errors import RefusedError
from trainbus.serving.config import ServeConfig

COMMANDS = (["status"], ["jobs"], ["job", "x"], ["gpu"], ["power"], ["power", "quiet"], ["system"], ["logs"])
GPU = {
    "index": 0,
    "name": "RTX 3090",
    "temperature": 61,
    "utilization": 97,
    "memory_used": 20 << 30,
    "memory_total": 24 << 30,
    "power": 301.4,
}


@pytest.fixture
def cli(capsys):
    """Runs a command against an address; gives exit code and output, parsed where it is JSON."""

    def call(url, *arguments):
        capsys.readouterr()
        code = run(["server", *arguments, "--server", url])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if "--json" in arguments else captured.out + captured.err

    return call


def test_a_server_tells_of_itself(cli, tmp_path):
    """For people and as JSON; what it refuses is told in its words."""
    with running(ServeConfig(device="cpu", store=tmp_path)) as server:
        code, told = cli(server.url, "status")
        assert (code, "active model" in told, "none" in told) == (0, True, True)
        assert cli(server.url, "status", "--json")[1]["models"] == []
        assert "It has no jobs." in cli(server.url, "jobs")[1]
        code, told = cli(server.url, "system")
        assert (code, "free" in told, "disk of the store" in told) == (0, True, True)
        assert cli(server.url, "system", "--json")[1]["cpus"] > 0
        code, told = cli(server.url, "power", "turbo")
        assert code != 0
        assert [name in told for name in ("turbo", "quiet")] == [True, True]
        code, told = cli(server.url, "job", "a/../b")
        assert (code, "HTTP 404" in told) == (RefusedError.exit_code, True)
        code, told = cli(server.url, "logs", "--lines", "5", "--json")
        assert (code, len(told) <= 5) == (0, True)


def test_a_model_is_examined_as_a_job_and_looked_at(cli, models, tmp_path):
    """A-127 from the command line: begin, wait, read the result; begin alone, and ask for it later; what can't be asked is said."""
    file = tmp_path / "exam.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n}?", "answer": str(n)}) + "\n" for n in range(3)))
    with running(ServeConfig(models={"base": models / "base"}, device="cpu")) as server:
        code, told = cli(server.url, "examine", str(file), "--model", "base", "--limit", "2", "--max-tokens", "4", "--json")
        assert (code, told["state"], told["result"]["total"]) == (0, "done", 2)
        assert {"accuracy", "correct", "avg_loss"} <= set(told["result"])
        code, begun = cli(server.url, "examine", str(file), "--max-tokens", "2", "--no-wait", "--json")
        assert begun["id"] != told["id"]
        assert begun["id"] in cli(server.url, "jobs")[1]
        assert cli(server.url, "job", begun["id"], "--cancel")[0] == 0
        code, told = cli(server.url, "job", told["id"])
        assert (code, "accuracy" in told, "2 of 2" in told) == (0, True, True)
        assert cli(server.url, "examine", str(file), "--model", "nobody")[0] == RefusedError.exit_code
        file.write_text(json.dumps({"text": "no question"}) + "\n")
        assert "no question with an answer" in cli(server.url, "examine", str(file))[1]


def test_keys_are_sent_from_the_environment(cli, monkeypatch):
    """The log needs an administrator's; without one it is said which option names it."""
    with running(ServeConfig(device="cpu", read_keys=("reader",), admin_keys=("admin",))) as server:
        assert "--api-key-env" in cli(server.url, "status")[1]
        monkeypatch.setenv("READER", "reader")
        assert cli(server.url, "status", "--api-key-env", "READER")[0] == 0
        code, told = cli(server.url, "logs", "--api-key-env", "READER")
        assert (code, "may ask, and not administer" in told) == (RefusedError.exit_code, True)
        monkeypatch.setenv("ADMIN", "admin")
        assert cli(server.url, "logs", "--api-key-env", "ADMIN")[0] == 0


def test_gpus_and_power_are_shown_as_the_server_tells_them(cli):
    """By the form of the page on serving; what a GPU does not tell is left out."""
    asked = []

    async def answer(request):
        asked.append((request.method, request.path, await request.read()))
        told = {"/v1/gpu": {"gpus": [GPU], "reason": ""}}
        power = {"profiles": {"quiet": 220}, "gpus": [{"index": 0, "power_limit": 220.0, "profile": "quiet"}], "reason": ""}
        return web.json_response(told.get(request.path, power))

    with answering(answer) as url:
        code, told = cli(url, "gpu")
        assert (code, [part in told for part in ("RTX 3090", "61", "97 %", "301 W")]) == (0, [True] * 4)
        assert cli(url, "gpu", "--json")[1]["gpus"][0]["memory_total"] == 24 << 30
        code, told = cli(url, "power", "quiet", "--gpu", "0")
        assert (code, "quiet 220 W" in told, "220 W" in told) == (0, True, True)
    assert json.loads(asked[-1][2]) == {"profile": "quiet", "gpu": 0}


@pytest.mark.parametrize("body", ["<html>It works!</html>", "[]", '{"gpus": 3}', "", '{"jobs": [{}]}', "[" * 5_000])
def test_whatever_answers_is_one_line_and_no_traceback(cli, body):
    """Another server at that address, or none."""

    async def answer(request):
        return web.Response(text=body, content_type="text/html")

    with answering(answer) as url:
        for arguments in COMMANDS:
            code, told = cli(url, *arguments)
            assert code not in (0, 70), (arguments, told)
            assert "Traceback" not in told
    assert cli(url, "status")[0] not in (0, 70)
