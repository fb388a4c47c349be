"""Lines of a training's output as events, by patterns: transformers' dictionaries, nanoGPT's and llm.c's lines, Lightning's bars.

No I/O: text goes in, in pieces of any size, and events come out. A pattern gives a row of names and numbers, which becomes a step, an
eval or both as every other row does (`trainbus.sources.rows`): names that begin with ``val_`` or ``eval_`` are of an evaluation.

A pattern of one's own is a regular expression that is searched in each line. Its named groups name what they hold; ``step``,
``total_steps``, ``epoch``, ``tokens`` and ``examples`` have their meaning, all others are metrics::

    it (?P<step>\\d+) .* loss=(?P<loss>\\S+)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import msgspec

from trainbus.bus import events
from trainbus.errors import ConfigError
from trainbus.sources.names import is_evaluation
from trainbus.sources.rows import from_row, step_of
from trainbus.sources.tables import MAX_STEP

Row: TypeAlias = dict[str, float]

MAX_LINE = 10_000
"""Characters of a line that are looked at, so that no output can hold the reader up; what comes beyond is passed over."""
FIELDS = ("total_steps", "tokens", "examples")
"""Names that are fields of a step event and no metrics."""
NUMBER = r"[-+]?(?:\d[\d_,]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Memory(msgspec.Struct):
    """What lines without a step are numbered by. Plain values: a reader that is made with it goes on where another one stopped.

    Args:
        step: The last step that was given out.
        total: The steps of the training by its progress bar: the longest bar without a label.
        bar: How far that bar is; ``pace``: the steps of an epoch, as far as bar and epochs tell.
        shown: Values that a bar goes on showing, by name: only a change is news.
        finished: The output has said that the training is complete, as transformers' last line does.
    """

    step: int = 0
    total: int = 0
    bar: int = 0
    pace: float = 0.0
    shown: dict[str, str] = {}
    finished: bool = False


class LineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of a reader's life: lines looked at, lines that a pattern knew, events made."""

    lines: int
    known: int
    events: int


class Pattern(msgspec.Struct, frozen=True):
    """One kind of line: ``read`` gives its row, None when the line is of another kind. It may note in the memory what comes later."""

    name: str
    read: Callable[[str, Memory], Row | None]


class LineReader:
    """Reads the output of one training.

    Args:
        patterns: Tried in order; the first that knows a line takes it.
        run: The run that the events are stamped with; empty leaves it to the publisher.
        memory: That of an earlier reader of the same output.
    """

    def __init__(self, patterns: Sequence[Pattern] = (), *, run: str = "", memory: Memory | None = None) -> None:
        self.patterns = tuple(patterns) or BUILT_IN
        self.run = run
        self.memory = memory or Memory()
        self._rest = ""
        self._lines = self._known = self._events = 0

    def feed(self, text: str) -> list[events.Event]:
        """The events of all lines that ``text`` ends; what is behind the last end of line waits for the next call."""
        *whole, self._rest = re.split(r"[\r\n]", self._rest + text)
        self._rest = self._rest[:MAX_LINE]
        return [event for line in whole for event in self.line(line)]

    def end(self) -> list[events.Event]:
        """The events of a last line that nothing ends."""
        last, self._rest = self._rest, ""
        return self.line(last)

    def line(self, line: str) -> list[events.Event]:
        """The events of one line, mostly none."""
        line = ANSI.sub("", line[:MAX_LINE]).strip()
        if not line:
            return []
        self._lines += 1
        for pattern in self.patterns:
            row = pattern.read(line, self.memory)
            if row is not None:
                self._known += 1
                made = self._made(row)
                self._events += len(made)
                return made
        return []

    def stats(self) -> LineStats:
        """Counts so far."""
        return LineStats(lines=self._lines, known=self._known, events=self._events)

    def _made(self, row: Row) -> list[events.Event]:
        memory = self.memory
        fields = {name: int(row.pop(name)) for name in FIELDS if name in row and abs(row[name]) < 2**63}
        step = step_of(row)
        made = from_row(row, self.run, -1)
        for event in made:
            if step is None:  # an evaluation is of the step before it; a step is where the bar is, or the next one
                memory.step = max(memory.step, memory.bar) if isinstance(event, events.Eval) else max(memory.step + 1, memory.bar)
                event.step = memory.step
            if isinstance(event, events.Step):
                event.total_steps = fields.get("total_steps") or memory.total or None
                event.tokens, event.examples = fields.get("tokens"), fields.get("examples")
        memory.step = memory.step if step is None else step
        return list(made)


def own_pattern(name: str, expression: str) -> Pattern:
    """A pattern of one's own.

    Raises:
        ConfigError: It is no regular expression, or names nothing.
    """
    hint = r"For example: it (?P<step>\d+) .* loss=(?P<loss>\S+)"
    try:
        compiled = re.compile(expression)
    except re.error as error:
        problem = f"The pattern {name!r} is no regular expression: {error}."
        raise ConfigError(problem, hint=hint, key=name, found=expression) from error
    if not compiled.groupindex:
        raise ConfigError(f"The pattern {name!r} has no named group: it would give nothing.", hint=hint, key=name, found=expression)

    def read(line: str, memory: Memory) -> Row | None:
        return _row(compiled.search(line))

    return Pattern(name, read)


def chosen(names: Iterable[str]) -> tuple[Pattern, ...]:
    """Built-in patterns by name.

    Raises:
        ConfigError: There is none of this name.
    """
    known = {pattern.name: pattern for pattern in BUILT_IN}
    for name in names:
        if name not in known:
            hint = f"There are: {', '.join(known)}."
            raise ConfigError(f"No pattern is called {name!r}.", hint=hint, found=name, allowed=list(known))
    return tuple(known[name] for name in names)


def number(text: str) -> float | None:
    """A number as trainings print them: ``1,024``, ``3e-4``, ``nan``, ``-inf``; None for anything else."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _row(match: re.Match[str] | None) -> Row | None:
    if match is None:
        return None
    found = {name: number(text) for name, text in match.groupdict().items() if text is not None}
    row = {name: value for name, value in found.items() if value is not None}
    return row or None


# --- transformers, TRL, Axolotl, LLaMA-Factory: {'loss': 2.1, 'grad_norm': 0.9, 'learning_rate': 5e-05, 'epoch': 0.01} ---

_PAIR = re.compile(rf"""['"]([^'"]+)['"]: (?:np\.float\d+\()?['"]?({NUMBER})['"]?\)?(?=[,}}])""", re.IGNORECASE)
EXACT_STEPS = 1000
"""Up to here an epoch of four digits names the step exactly."""
_BAR = re.compile(r"^\s*\d+%\|[^|]*\| *(\d{1,15})/(\d{1,15}) \[")


def _transformers(line: str, memory: Memory) -> Row | None:
    """The step is not in it: the progress bar tells it, where the output has one."""
    # tqdm writes the dictionary behind the bar that it wipes out: the bar's line and the dictionary's may be one.
    bar = _BAR.match(line)
    if bar is not None and int(bar[2]) >= memory.total:  # a shorter one is that of an evaluation
        memory.bar, memory.total = int(bar[1]), int(bar[2])
    start = line.find("{'")
    if start < 0 or not line.endswith("}"):
        return None
    row = {name: value for name, text in _PAIR.findall(line[start:]) if (value := number(text)) is not None}
    if "train_runtime" in row:  # the last one sums the training up: no step logged it
        memory.finished = True
        return None
    if not 0 <= row.get("epoch", -1.0) < MAX_STEP or not ("loss" in row or any(name.startswith("eval_") for name in row)):
        return None
    # A bar is drawn ten times a second at most, so behind a fast training it is late. The epoch is not.
    if row["epoch"] > 0:
        memory.pace = max(memory.pace, memory.bar / row["epoch"])
    reached = round(row["epoch"] * memory.pace) if memory.pace < MAX_STEP else 0
    if 0 < reached < EXACT_STEPS:
        row["step"] = max(reached, memory.bar, memory.step + ("loss" in row))
    return row


# --- nanoGPT ---

_NANOGPT = re.compile(rf"^iter (?P<step>\d+): loss (?P<loss>{NUMBER})(?P<rest>.*)$", re.IGNORECASE)
_NANOGPT_REST = re.compile(rf"(time|mfu|lr) ({NUMBER})", re.IGNORECASE)
_NANOGPT_EVAL = re.compile(
    rf"^step (?P<step>\d+): train loss (?P<eval_train_loss>{NUMBER}), val loss (?P<eval_loss>{NUMBER})", re.IGNORECASE
)
_NANOGPT_NAMES = {"time": "step_time_ms", "mfu": "mfu", "lr": "lr"}


def _nanogpt(line: str, memory: Memory) -> Row | None:
    """``iter 10: loss 2.3456, time 123.45ms, mfu 12.30%`` and ``step 250: train loss 2.1, val loss 2.2``."""
    if (match := _NANOGPT.match(line)) is None:
        return _row(_NANOGPT_EVAL.match(line))
    row = {"step": float(match["step"]), "loss": float(match["loss"])}
    for name, text in _NANOGPT_REST.findall(match["rest"]):
        if (value := number(text)) is not None:
            row[_NANOGPT_NAMES[name.lower()]] = value
    return row


# --- llm.c, and what follows its lines (modded-nanogpt, build-nanogpt) ---

_LLMC = re.compile(rf"^step\s+(?P<step>\d+)(?:/(?P<total_steps>\d+))?\s*(?:\||:) *(?:train )?loss (?P<loss>{NUMBER})", re.IGNORECASE)
_LLMC_REST = (
    re.compile(rf"\bnorm (?P<grad_norm>{NUMBER})", re.IGNORECASE),
    re.compile(rf"\blr (?P<lr>{NUMBER})", re.IGNORECASE),
    re.compile(rf"(?P<step_time_ms>{NUMBER}) ms\b", re.IGNORECASE),
    re.compile(rf"(?P<mfu>{NUMBER})% (?:\w+ )?MFU", re.IGNORECASE),
    re.compile(rf"(?P<tokens_per_second>{NUMBER}) tok/s", re.IGNORECASE),
)
_LLMC_EVAL = re.compile(rf"^val loss (?P<eval_loss>{NUMBER})$", re.IGNORECASE)


def _llmc(line: str, memory: Memory) -> Row | None:
    """``step    1/18865 | loss 11.009463 (+nanz)| norm 15.4225 (+nanz)| lr 8.57e-07 | 1234.56 ms | 50.1% bf16 MFU | 424312 tok/s``."""
    match = _LLMC.match(line)
    row = _row(match)
    if match is None or row is None:
        return _row(_LLMC_EVAL.match(line))
    for expression in _LLMC_REST:
        row |= _row(expression.search(line, match.end())) or {}
    return row


# --- Lightning's bars, tqdm's and rich's ---

_LIGHTNING = re.compile(r"^Epoch (?P<epoch>\d{1,15})(?:/\d+)?:?\s.*?(?P<batch>\d{1,15})/(?P<batches>\d{1,15})(?P<rest>.*)$")
_LIGHTNING_PAIR = re.compile(rf"([A-Za-z_][\w./-]*)(?:=|: )({NUMBER})(?=[,\]\s]|$)", re.IGNORECASE)
_LIGHTNING_STALE = ("v_num", "it/s", "s/it")


def _lightning(line: str, memory: Memory) -> Row | None:
    """``Epoch 0:  10%|#  | 10/100 [00:01<00:09, 9.56it/s, v_num=0, train_loss=2.30]``: one row for each step that the bar stops at."""
    match = _LIGHTNING.match(line)
    if match is None:
        return None
    epoch, batch, batches = int(match["epoch"]), int(match["batch"]), int(match["batches"])
    found = {name: value for name, text in _LIGHTNING_PAIR.findall(match["rest"]) if (value := number(text)) is not None}
    # `loss_step` is the value of this step; `loss_epoch` beside it is that of the epoch before.
    named = {name.removesuffix("_step"): value for name, value in found.items() if name not in _LIGHTNING_STALE}
    # What was validated stays on the bar until the next time: only a change is news. As text, because NaN equals nothing.
    validated = {name: value for name, value in named.items() if is_evaluation(name)}
    row = {name: value for name, value in validated.items() if memory.shown.get(name) != repr(value)}
    memory.shown |= {name: repr(value) for name, value in validated.items()}
    step = epoch * batches + batch
    if batch and step != memory.step:
        row |= {name: value for name, value in named.items() if name not in validated}
    if not row:
        return None
    return {**row, "step": float(step), "epoch": epoch + batch / max(batches, 1)}


BUILT_IN: tuple[Pattern, ...] = (
    Pattern("transformers", _transformers),
    Pattern("nanogpt", _nanogpt),
    Pattern("llm.c", _llmc),
    Pattern("lightning", _lightning),
)
"""What is known without a word of configuration."""
