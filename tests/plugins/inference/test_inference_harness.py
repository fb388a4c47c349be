"""lm-evaluation-harness: its own API, in a process of its own; a stand-in for its package, and the real one where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import textwrap

import pytest

from tests.plugins.inference.tools import checkpoint, given_up, of
from trainbus.bus.events import Eval
from trainbus.errors import PluginError

STAND_IN = """
import json, os, sys, time
def simple_evaluate(**arguments):
    manager = arguments.pop("task_manager")
    with open(os.environ["HARNESS_LOG"], "a") as log:
        log.write(json.dumps({**arguments, "include": manager.include, "key": os.environ["OPENAI_API_KEY"], "pid": os.getpid()}) + "\\n")
    print("a library that talks")
    task = arguments["tasks"][0]
    if task == "broken":
        raise ValueError("no dataset of that name")
    if task == "endless":
        time.sleep(1_000)
    results = {"alias": task, "exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": "N/A", "acc,none": float("nan")}
    return {"results": {task: results}, "n-samples": {task: {"original": 9, "effective": 4}}, "versions": {task: 3.0}}
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package `lm_eval` that tells what it was asked."""
    package = tmp_path / "site" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    (package / "tasks.py").write_text(
        "class TaskManager:\n    def __init__(self, include_path=None):\n        self.include = include_path\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", os.getcwd())]))  # noqa: PTH109
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what it prints may come late
    monkeypatch.setenv("HARNESS_LOG", str(tmp_path / "harness.log"))
    return lambda: [json.loads(line) for line in (tmp_path / "harness.log").read_text().splitlines()]


def test_tasks_run_against_the_server_and_their_results_carry_the_checkpoints_id(stand_in, examiner, server, until, monkeypatch):
    """Beside the sets, on their own schedule; what is no number is no metric."""
    monkeypatch.setenv("EXAM_KEY", "sesame")
    harness = {"tasks": ["gsm8k"], "limit": 4, "include": "/tasks", "at_steps": [2]}
    examiner_ = examiner(policy="every", harness=harness, api_key_env="EXAM_KEY", system="Be brief.", model="{name}")
    examiner_.feed(checkpoint(1), checkpoint(2))
    until(lambda: len(of(examiner_, Eval)) == 3)
    result = of(examiner_, Eval)[2]
    assert (result.checkpoint, result.dataset, result.metrics) == ("r@2:abc", "lm_eval/gsm8k", {"exact_match,strict-match": 0.25})
    assert (result.examples, result.evidence) == (4, {"harness": "lm_eval", "task_version": "3.0"})
    (asked,) = stand_in()
    assert (asked["model"], asked["tasks"], asked["limit"], asked["include"]) == ("local-chat-completions", ["gsm8k"], 4, "/tasks")
    assert (asked["model_args"]["model"], asked["model_args"]["base_url"]) == ("checkpoint-2", f"{server.url}/chat/completions")
    assert (asked["key"], asked["apply_chat_template"], asked["system_instruction"]) == ("sesame", True, "Be brief.")


def test_tasks_that_compare_likelihoods_ask_for_completions(stand_in, examiner, server, until):
    """These need a tokenizer, too."""
    harness = examiner(harness={"tasks": ["hellaswag"], "chat": False, "tokenizer": "/models/base", "fewshot": 2})
    harness.feed(checkpoint(1))
    until(lambda: len(of(harness, Eval)) == 2)
    (asked,) = stand_in()
    assert (asked["model"], asked["num_fewshot"], asked["apply_chat_template"]) == ("local-completions", 2, False)
    assert (asked["model_args"]["base_url"], asked["model_args"]["tokenizer"]) == (f"{server.url}/completions", "/models/base")


@pytest.mark.parametrize(
    ("task", "seconds", "told"), [("broken", 60.0, "no dataset of that name"), ("endless", 0.5, "did not finish endless within 0.5 s")]
)
def test_a_task_that_fails_or_does_not_end_is_given_up_with_the_reason(task, seconds, told, stand_in, examiner, until):
    """The set's result stands, and no process is left behind."""
    harness = examiner(harness={"tasks": [task], "seconds": seconds}, attempts=1)
    harness.feed(checkpoint(1))
    until(lambda: given_up(harness))
    assert told in given_up(harness)[0].message
    assert [result.dataset for result in of(harness, Eval)] == ["sums"]
    for asked in stand_in() if (harness.context.directory / "harness.log").exists() else []:
        with pytest.raises(ProcessLookupError):
            os.kill(asked["pid"], 0)


def test_tasks_without_the_harness_are_refused_at_the_start(examiner):
    """With what to install."""
    if importlib.util.find_spec("lm_eval") is not None:
        pytest.skip("lm-evaluation-harness is installed here")
    with pytest.raises(PluginError, match="not installed") as caught:
        examiner(harness={"tasks": ["gsm8k"]})
    assert "lm_eval[api]" in caught.value.hint


@pytest.mark.slow
def test_the_real_harness_runs_a_task_of_ones_own(examiner, server, until, tmp_path):
    """A local task over local data: generation, filter and metric are the harness' own."""
    pytest.importorskip("lm_eval")
    pytest.importorskip("tenacity", reason="lm_eval[api] is not wholly there")
    lines = [json.loads(line) for line in (tmp_path / "sums.jsonl").read_text().splitlines()]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "data.json").write_text(json.dumps(lines))
    (tmp_path / "tasks" / "our_sums.yaml").write_text(
        textwrap.dedent(f"""
        task: our_sums
        dataset_path: json
        dataset_kwargs: {{data_files: {{test: {tmp_path}/tasks/data.json}}}}
        test_split: test
        output_type: generate_until
        doc_to_text: "{{{{question}}}}"
        doc_to_target: "{{{{answer}}}}"
        generation_kwargs: {{until: ["\\n"], max_gen_toks: 8}}
        metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
        """)
    )
    server.answer = lambda prompt: "4" if prompt == "2 + 2?" else "x"
    harness = examiner(harness={"tasks": ["our_sums"], "include": str(tmp_path / "tasks"), "seconds": 500.0}, attempts=1)
    harness.feed(checkpoint(1))
    until(lambda: len(of(harness, Eval)) == 2 or given_up(harness), 500.0)
    assert given_up(harness) == []
    assert of(harness, Eval)[1].metrics["exact_match,none"] == 0.2
