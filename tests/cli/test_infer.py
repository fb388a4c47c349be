"""`trainbus infer`: one question, a set, two models beside each other; on a server and on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

import trainbus
from tests.inferring.conftest import stand_in as stand_in
from tests.inferring.terminal import Terminal
from tests.support import trainbus as command
from tests.trainer.conftest import SHAPE
from trainbus.cli.app import run
from trainbus.trainer_node.checkpoints import seal


@pytest.fixture
def cli(capsys):
    """Runs a command; gives exit code and output, parsed where it is JSON."""

    def call(*arguments):
        capsys.readouterr()
        code = run(["infer", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if "--json" in arguments else captured.out + captured.err

    return call


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A tiny model whose large random weights say something else to everything."""
    import torch

    from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
    from trainbus.trainer_node.model import SMALL_QWEN3, from_config

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("talker")
    tokenizer = byte_tokenizer(256)
    from_config({**SMALL_QWEN3, **SHAPE, "initializer_range": 0.5, "tie_word_embeddings": False}, tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def questions(tmp_path):
    """Eight questions of which the model `echo` knows two and the model `upper` eight."""
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"q{n}", "question": text, "answer": text.upper()} for n, text in enumerate(["A", "B", *"cdefgh"])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_answer_is_the_output_and_figures_stand_beside_it(stand_in):
    """From an option or a pipe; the first model of the server answers when none is named."""
    done = command("infer", "--server", stand_in.url, "--prompt", "hello there")
    assert (done.returncode, done.stdout) == (0, "hello there\n")
    assert "echo · 2 tokens" in done.stderr
    assert command("infer", "--server", stand_in.url, "--model", "upper", input="from a pipe\n").stdout == "FROM A PIPE\n"


def test_an_output_file_holds_the_answer_alone_and_json_all_of_it(stand_in, cli, tmp_path):
    """Errors are JSON, too, where JSON was asked for."""
    out = tmp_path / "deep" / "out.txt"
    assert cli("--server", stand_in.url, "--prompt", "hello", "--output", out)[0] == 0
    assert out.read_text() == "hello\n"
    code, told = cli("--server", stand_in.url, "--prompt", "hi you", "--max-tokens", 5, "--temperature", 9, "--json")
    assert (code, told["answer"], told["model"], told["completion_tokens"], told["sampling"]["temperature"]) == (
        0,
        "hi you",
        "echo",
        2,
        2.0,
    )
    code, told = cli("--server", stand_in.url, "--model", "nobody", "--prompt", "x", "--json")
    assert (code, told["error"]["code"]) == (4, "server")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--prompt", "x"), 2, "No model is named"),
        (("--model", "m", "--prompt", "x", "--interactive"), 2, "exclude each other"),
        (("--model", "m", "--interactive", "--against", "n"), 2, "no JSON"),
        (("--model", "m", "--prompt", " "), 2, "the prompt is empty"),
        (("--server", "nonsense", "--prompt", "x"), 2, "no http address"),
        (("--server", "http://127.0.0.1:9", "--prompt", "x"), 3, "Connection refused"),
        (("--server", "http://127.0.0.1:9", "--api-key-env", "NO_SUCH_KEY", "--prompt", "x"), 2, "NO_SUCH_KEY is not set"),
        (("--model", "nowhere/at/all", "--prompt", "x"), 8, "There is no folder nowhere/at/all"),
        (("--model", "latest", "--prompt", "x"), 3, "trainbus up"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(cli, arguments, code, says):
    """No traceback, no hanging."""
    got, told = cli(*arguments)
    assert (got, says in told) == (code, True), told


def test_two_models_on_a_set_are_shown_beside_each_other_with_a_verdict(stand_in, cli, questions, tmp_path):
    """Who is right, how many say the same, and whether the difference can be chance."""
    out = tmp_path / "out.jsonl"
    arguments = ("--server", stand_in.url, "--model", "echo", "--against", "upper", "--file", questions, "--scorer", "exact_match")
    code, told = cli(*arguments, "--output", out, "--json")
    assert code == 0
    assert told["models"] == ["echo", "upper"]
    assert told["answers"][2]["said"][0] | {"seconds": 0} == {
        "model": "echo", "answer": "c", "right": False, "finish_reason": "stop", "completion_tokens": 1, "seconds": 0,
    }  # fmt: skip
    verdict = told["verdict"]
    assert (verdict["right"], verdict["same"], verdict["gained"], verdict["lost"]) == ([2, 8], 2, 6, 0)
    assert verdict["p_value"] == pytest.approx(2 / 2**6)
    assert told["noise"] is False
    assert [json.loads(row)["id"] for row in out.read_text().splitlines()] == [f"q{n}" for n in range(8)]
    text = cli(*arguments)[1]
    assert "upper gains 6 and loses 0: the difference is no noise" in text
    assert cli(*arguments, "--limit", 4)[1].count("may be noise") == 1


def test_one_question_to_two_models_needs_no_set(stand_in, cli):
    """Nothing is judged: nobody said what is right."""
    code, told = cli("--server", stand_in.url, "--model", "echo", "--against", "upper", "--prompt", "ok", "--json")
    assert (code, [said["answer"] for said in told["answers"][0]["said"]]) == (0, ["ok", "OK"])
    assert (told["verdict"]["judged"], told["verdict"]["p_value"]) == (0, None)
    assert "the same answer to 0 of 1" in cli("--server", stand_in.url, "--model", "echo", "--against", "upper", "--prompt", "ok")[1]


def test_ctrl_c_ends_a_set_at_once_with_130(stand_in, questions):
    """Also while every answer is slow."""
    line = [sys.executable, "-m", "trainbus", "infer", "--server", stand_in.url, "--model", "slow", "--file", str(questions)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert stand_in.started.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.wait(180) == 130
    assert stand_in.gone.wait(60)


def test_a_checkpoint_of_a_run_is_asked_on_a_server_by_its_path_or_by_the_name_that_it_lists(stand_in, cli, broker, tmp_path):
    """A name that nobody here knows is left to the server."""
    path = tmp_path / "out" / "checkpoint-7"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"")
    with trainbus.init("r", run="r-1") as training:
        training.checkpoint(path, step=7, digest=seal(path, run="r-1", name="r", step=7).digest)
        assert training.flush(20)
    stand_in.models.append("r-1:8")
    for name, asked in (("latest", str(path)), ("r-1:7", str(path)), ("r-1:8", "r-1:8"), ("echo", "echo"), ("gpt-9", "gpt-9")):
        cli("--server", stand_in.url, "--model", name, "--prompt", "x")
        assert stand_in.asked[-1]["model"] == asked


@pytest.mark.slow
def test_a_server_and_a_local_model_say_the_same(talker, cli):
    """One model in this process and behind `trainbus serve`: greedy answers are equal."""
    line = [sys.executable, "-m", "trainbus", "serve", str(talker), "--device", "cpu", "--port", "0", "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = json.loads(server.stdout.readline())["url"]
            served = command("infer", "--server", url, "--prompt", "abc", "--max-tokens", "8", "--json")
            assert served.returncode == 0, served
        finally:
            server.terminate()
            server.wait(60)
    code, here = cli("--model", talker, "--prompt", "abc", "--max-tokens", 8, "--json")
    assert code == 0, here
    told = json.loads(served.stdout)
    assert here["answer"] == told["answer"] != ""
    assert (here["prompt_tokens"], here["completion_tokens"]) == (told["prompt_tokens"], told["completion_tokens"])


def test_sampling_on_this_machine_keeps_its_promises(talker, cli):
    """B-06: the same seed gives the same text, k = 1 is greedy, temperatures beyond the range are clamped, all settings go together."""

    def said(*arguments):
        code, told = cli("--model", talker, "--prompt", "abc", "--max-tokens", 12, "--json", *arguments)
        assert code == 0, told
        return told["answer"]

    mixed = ("--temperature", 1.5, "--top-k", 50, "--top-p", 0.9, "--repetition-penalty", 1.1)
    assert said(*mixed, "--seed", 5) == said(*mixed, "--seed", 5)
    assert said(*mixed, "--seed", 5) != said(*mixed, "--seed", 6)
    assert said("--temperature", 1.0, "--top-k", 1, "--seed", 9) == said()
    assert said("--temperature", 99, "--seed", 5) == said("--temperature", 2, "--seed", 5)
    assert said("--temperature", -3) == said()


def test_a_set_on_this_machine_is_answered_in_batches_and_each_answer_finds_its_question(talker, cli, tmp_path):
    """The same as one at a time."""
    file = tmp_path / "set.jsonl"
    file.write_text("".join(json.dumps({"question": f"q{n}"}) + "\n" for n in range(5)))
    code, told = cli("--model", talker, "--file", file, "--max-tokens", 6, "--json")
    assert code == 0, told
    assert len({row["said"][0]["answer"] for row in told["answers"]}) > 1
    one = cli("--model", talker, "--prompt", "q3", "--max-tokens", 6, "--json")[1]
    assert one["answer"] == told["answers"][3]["said"][0]["answer"]


@pytest.mark.slow
def test_an_adapter_is_compared_with_the_base_that_it_names(talker, cli, tmp_path):
    """Each by its folder; the adapter's base is found by its own note, or named."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    adapter = tmp_path / "adapter"
    config = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(talker), config).save_pretrained(adapter)
    asked = ("--prompt", "q", "--max-tokens", 6, "--json")
    code, told = cli("--model", talker, "--against", adapter, *asked)
    assert code == 0, told
    assert told["models"] == [str(talker), str(adapter)]
    assert told["verdict"]["same"] == 0
    note = adapter / "adapter_config.json"
    note.write_text(note.read_text().replace(str(talker), "/elsewhere"))
    assert cli("--model", adapter, *asked)[0] == 8
    assert cli("--model", adapter, "--base", talker, *asked)[1]["answer"] == told["answers"][0]["said"][1]["answer"]


@pytest.mark.slow
def test_ctrl_c_ends_an_answer_that_is_made_on_this_machine(talker):
    """In a real terminal, and the conversation goes on."""
    line = [sys.executable, "-m", "trainbus", "infer", "--model", str(talker), "--interactive"]
    terminal = Terminal([*line, "--temperature", "1", "--seed", "1", "--max-tokens", "200"])
    terminal.read_until(b">>> ")
    terminal.type(b"a question\r")
    terminal.read_until(b"a question\r\n")
    terminal.read_more()  # the answer has begun
    terminal.type(b"\x03")
    terminal.read_until(b"stopped")
    terminal.read_until(b">>> ")
    terminal.type(b"/set max_tokens 2\r")
    terminal.read_until(b"max_tokens 2")
    terminal.read_until(b">>> ")
    terminal.type(b"again\r")
    terminal.read_until(b"tokens/s")
    terminal.read_until(b">>> ")
    terminal.type(b"\x04")
    assert terminal.end() == 0


def test_text_is_continued_without_a_chat_template_when_one_says_so(talker, cli, stand_in):
    """--raw: a model that was trained on plain text knows no roles."""
    code, told = cli("--model", talker, "--raw", "--prompt", "Once", "--max-tokens", 4, "--json")
    assert code == 0, told
    assert told["prompt_tokens"] == len("Once")
    cli("--server", stand_in.url, "--raw", "--prompt", "Once")
    assert stand_in.asked[-1]["prompt"] == "Once"
    assert "messages" not in stand_in.asked[-1]


def test_a_missing_library_is_named(talker, cli, monkeypatch):
    """A machine that only asks servers has no torch."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "torch" else object())
    code, told = cli("--model", talker, "--prompt", "x")
    assert code == 8
    assert "trainbus[trainer]" in told
    assert os.environ.get("HF_HUB_OFFLINE") == "1"
