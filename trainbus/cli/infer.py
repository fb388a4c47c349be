"""``trainbus infer``: ask a model: once, in a conversation, a set of questions, or two models beside each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from trainbus.bus.home import write_atomically
from trainbus.cli.app import UsageError
from trainbus.cli.infer_models import Where, opened
from trainbus.cli.infer_options import open_server, sampling_options, server_options
from trainbus.cli.infer_print import Printer, print_rows, print_statistics, print_verdict, row_document
from trainbus.cli.options import json_option
from trainbus.cli.output import json_line, note, print_json, progress
from trainbus.errors import DataError
from trainbus.inferring.asking import Answer, Asked, Prompt, Sampling
from trainbus.inferring.comparing import Row, Said, Scorer, verdict
from trainbus.judging.matching import SCORERS
from trainbus.plugins.inference.questions import Question
from trainbus.plugins.inference.questions import load as load_questions


@click.command()
@click.option("--model", "-m", "name", default="", metavar="NAME", help="A folder, RUN:STEP, RUN:latest, RUN:best[:METRIC], OWNER/NAME.")
@click.option("--against", metavar="NAME", help="Ask this model, too, and show both answers beside each other.")
@click.option("--prompt", "-p", metavar="TEXT", help="What is asked; - reads it from the input.")
@click.option("--file", "-f", "file", type=click.Path(path_type=Path), help="Ask every question of this JSON Lines file.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask the first so many of the file.")
@click.option("--scorer", type=click.Choice(list(SCORERS)), default="normalised_match", show_default=True, help="What counts as right.")
@click.option("--interactive", "-i", is_flag=True, help="A conversation: /help explains it, Ctrl-D ends it.")
@click.option("--system", metavar="TEXT", default="", help="The system message.")
@click.option("--raw", is_flag=True, help="Let the model continue the prompt as plain text, without its chat template.")
@sampling_options(temperature=0.0)
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write the answer, or one line of JSON each, here.")
@server_options
@click.option("--device", default="auto", show_default=True, help="Without a server: auto, cpu, cuda, cuda:1, ...")
@click.option("--dtype", default="auto", show_default=True, help="Without a server: auto, float32, bfloat16, float16.")
@click.option("--base", default="", metavar="DIRECTORY", help="The base of an adapter, where its own note of it doesn't hold here.")
@json_option
def command(
    name: str,
    against: str | None,
    prompt: str | None,
    file: Path | None,
    limit: int | None,
    scorer: str,
    interactive: bool,
    system: str,
    raw: bool,
    output: Path | None,
    server: str | None,
    api_key_env: str,
    timeout: float,
    device: str,
    dtype: str,
    base: str,
    as_json: bool,
    stop: tuple[str, ...],
    **drawn: Any,
) -> None:
    """Ask a model, on this machine or on a server.

    NAME is a folder, or a checkpoint: RUN:STEP, RUN:latest, RUN:best, RUN:best:METRIC, where RUN is a run (its id or the beginning
    of it) or a folder of checkpoints. `latest`, `best` or a step alone is of the run that is running, or the last that left a
    checkpoint here. On a server it may be any name that the server knows; left out, its first model.

    Without --prompt and --file the prompt comes from a pipe; on a terminal a conversation begins. The answer comes piece by piece;
    Ctrl-C ends it.
    """
    sampling = Sampling(stop=stop, **drawn).clamped()
    where = Where(
        server=open_server(server, api_key_env, timeout) if server else None,
        device=device,
        dtype=dtype,
        base=base,
    )
    if prompt is None and file is None and not interactive:
        interactive = sys.stdin.isatty()
        prompt = None if interactive else "-"
    _require_one_way(prompt, file, interactive=interactive, against=against, as_json=as_json)
    if raw and (interactive or system):
        raise UsageError("--raw knows no conversation and no system message.", hint="Put all of it into the prompt.")
    if not name and not server:
        raise UsageError("No model is named.", hint="Name one by --model: a folder, RUN:latest, RUN:best, RUN:STEP; or a --server.")
    if interactive:
        from trainbus.cli.infer_chat import chat

        chat(name, where, sampling, system)
        return
    questions = _questions(prompt, file, limit, system)
    if len(questions) == 1 and file is None and not against:
        _ask_once(name, where, questions[0], _asked(questions[0], raw), sampling, output, as_json=as_json)
        return
    names = [name, against] if against else [name]
    labels, answers = [], []
    for one in names:  # one after the other: memory for two models may not be there
        with opened(one, where) as model:
            labels.append(model.name)
            answers.append(_ask_all(model, [_asked(question, raw) for question in questions], sampling))
    rows = _judged(questions, answers, SCORERS[scorer])
    if output is not None:
        _write(output, b"".join(json_line(row_document(row, labels)).encode() + b"\n" for row in rows))
    told = verdict(rows)
    if as_json:
        print_json({"models": labels, "answers": [row_document(row, labels) for row in rows], "verdict": told, "noise": told.noise})
        return
    print_rows(rows, labels)
    print_verdict(told, labels, scorer)


def _require_one_way(prompt: str | None, file: Path | None, *, interactive: bool, against: str | None, as_json: bool) -> None:
    given = [option for option, there in (("--prompt", prompt), ("--file", file), ("--interactive", interactive)) if there]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other.", hint="Ask once, a set, or in a conversation.")
    if interactive and (against or as_json):
        raise UsageError("A conversation has one model and no JSON.", hint="Give --prompt or --file with --against and --json.")


def _questions(prompt: str | None, file: Path | None, limit: int | None, system: str) -> list[Question]:
    if file is not None:
        asked = [question for question in load_questions(file, limit=limit or 0) if question.messages]
    else:
        text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt or ""
        if not text.strip():
            raise UsageError("There is nothing to ask: the prompt is empty.", hint="Give --prompt TEXT, --file SET or --interactive.")
        asked = [Question(id="1", prompt=text, messages=({"role": "user", "content": text},), expected=None)]
    before = ({"role": "system", "content": system},) if system else ()
    return [Question(id=one.id, prompt=one.prompt, messages=(*before, *one.messages), expected=one.expected) for one in asked]


def _asked(question: Question, raw: bool) -> Prompt:
    return question.prompt if raw else question.messages


def _ask_once(
    name: str, where: Where, question: Question, asked: Prompt, sampling: Sampling, output: Path | None, *, as_json: bool
) -> None:
    with opened(name, where) as model:
        printer = Printer(quiet=as_json or output is not None)
        answer = model.ask(asked, sampling, printer.piece)
        printer.end()
    if as_json:
        print_json({"model": model.name, "prompt": question.prompt, "sampling": sampling, **_fields(answer)})
    if output is not None:
        _write(output, answer.text.encode() if answer.text.endswith("\n") else answer.text.encode() + b"\n")
        if not as_json:
            note(f"{output} is written.")
    if not as_json:
        print_statistics(answer, model.name)


def _ask_all(model: Asked, prompts: Sequence[Prompt], sampling: Sampling) -> list[Answer]:
    answers: dict[int, Answer] = {}
    with progress(f"asking {model.name}", total=len(prompts)) as bar:
        for number, answer in model.ask_all(prompts, sampling):
            answers[number] = answer
            bar.advance(bar.task_ids[0])
    return [answers[number] for number in range(len(prompts))]


def _judged(questions: Sequence[Question], answers: Sequence[Sequence[Answer]], scorer: Scorer) -> list[Row]:
    return [
        Row(
            id=question.id,
            prompt=question.prompt,
            expected=question.expected,
            said=[
                Said(
                    answer=answer.text,
                    right=None if question.expected is None else scorer(answer.text, question.expected),
                    finish_reason=answer.finish_reason,
                    completion_tokens=answer.completion_tokens,
                    seconds=answer.seconds,
                )
                for answer in (of_model[number] for of_model in answers)
            ],
        )
        for number, question in enumerate(questions)
    ]


def _fields(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": answer.seconds,
        "first_seconds": answer.first_seconds,
    }


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path.expanduser().absolute(), content, mode=0o644)
    except OSError as error:
        raise DataError(f"{path} can't be written: {error.strerror}.", hint="Name another file by --output.", file=str(path)) from error
