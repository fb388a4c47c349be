"""What the examiner tells the bus. Everything names its run and checkpoint: it is published long after the event that caused it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainbus.bus import events
from trainbus.hookspecs import Context
from trainbus.plugins.inference.exams import Exam, Scored
from trainbus.plugins.inference.harness import TaskResult
from trainbus.plugins.inference.harness_sitting import HarnessSitting
from trainbus.plugins.inference.leaks import TOLD, Leak
from trainbus.plugins.inference.pending import Waiting
from trainbus.plugins.inference.questions import Question

LOST = "server_lost"
"""Key in ``context.state`` of the standing alert: a restart must still be able to clear it."""

LONGEST_TEXT = 100_000
"""Characters of a prompt or an answer in a sample event; what is longer is cut, so that no answer can outgrow the wire."""


class Reporter:
    """Publishes results, alerts, and how far behind the examiner is."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._behind: dict[str, int] = {}

    def sample(self, entry: Waiting, exam: Exam, question: Question, scored: Scored) -> None:
        """One answer. Its ``example`` is the same for every checkpoint: that is how the answers of one question are followed."""
        answer = scored.answer
        held = {
            "confidence": answer.confidence,
            "answer_entropy": answer.entropy,
            "tokens": answer.tokens,
            "refused": 1.0 if answer.refused else None,
        }
        if answer.refused:
            self._context.logger.warning("checkpoint %s: question %s has no answer: %s", entry.id, question.id, answer.refused)
        self._context.publish(
            events.Sample(
                run=entry.run,
                step=entry.step,
                prompt=_cut(question.prompt),
                expected=None if question.expected is None else _cut(question.expected),
                answer=None if answer.text is None else _cut(answer.text),
                correct=scored.correct,
                loss=answer.loss,
                example=question.id,
                dataset=exam.name,
                checkpoint=entry.id,
                metrics={name: float(value) for name, value in held.items() if value is not None},
            )
        )

    def result(self, entry: Waiting, exam: Exam, metrics: dict[str, float], evidence: dict[str, Any], duration: float) -> None:
        """The eval event that sums up all samples of a set."""
        self._context.publish(
            events.Eval(
                run=entry.run,
                step=entry.step,
                dataset=exam.name,
                metrics=metrics,
                examples=len(exam.questions),
                duration=duration,
                checkpoint=entry.id,
                evidence=evidence,
            )
        )
        told = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()) or "nothing to compare"
        self._context.logger.info(
            "checkpoint %s: %d questions of %s in %.1f s, %s", entry.id, len(exam.questions), exam.name, duration, told
        )

    def harness_result(self, sitting: HarnessSitting, duration: float) -> None:
        """The eval event of a task of lm-evaluation-harness. Called when it has a result."""
        entry, result = sitting.entry, sitting.result or TaskResult(metrics={})
        self._context.publish(
            events.Eval(
                run=entry.run,
                step=entry.step,
                dataset=sitting.name,
                metrics=result.metrics,
                examples=result.examples,
                duration=duration,
                checkpoint=entry.id,
                evidence={"harness": "lm_eval", "task_version": result.version},
            )
        )

    def behind(self, run: str, waiting: int, step: int) -> None:
        """How many checkpoints of a run wait, the one at work with them; said when it changes."""
        if self._behind.get(run) != waiting:
            self._behind[run] = waiting
            self._context.publish(events.Metric(run=run, name="inference_behind", value=float(waiting), step=step, unit="checkpoints"))

    def server_lost(self, entry: Waiting, problem: str) -> None:
        """Raise the alert that the server can't be reached; once until it is back."""
        if self._context.state.get(LOST):
            return
        identity = f"inference:server:{entry.id}"
        self._context.state[LOST] = {"id": identity, "run": entry.run, "step": entry.step}
        self._alert(
            identity, entry.run, entry.step, "inference_server_lost", "raised", "warning", problem,
            advice="Start the inference server, or correct plugin.inference.url. Training goes on; checkpoints wait.",
        )  # fmt: skip

    def server_back(self, entry: Waiting) -> None:
        """Clear that alert."""
        lost = self._context.state.get(LOST)
        if lost:
            self._context.state[LOST] = None
            message = f"The inference server answers again, at checkpoint {entry.id}."
            self._alert(lost["id"], lost["run"], lost["step"], "inference_server_lost", "cleared", "info", message)

    def given_up(self, entry: Waiting, problem: str, attempts: int, answered: int, questions: int) -> None:
        """Say that a checkpoint stays without a result, and why."""
        self._alert(
            f"inference:given_up:{entry.id}",
            entry.run,
            entry.step,
            "checkpoint_not_examined",
            "raised",
            "warning",
            f"The checkpoint of step {entry.step} was not examined: {problem}",
            evidence={"checkpoint": entry.id, "attempts": attempts, "answered": answered, "questions": questions, "problem": problem},
            advice="The examiner goes on with the next checkpoint. See the server's own log for what it did.",
        )

    def leaked(self, run: str, leak: Leak, path: Path) -> None:
        """Say that a run is trained on what it is examined with."""
        count = len(leak.questions)
        self._alert(
            f"inference:leak:{run}:{leak.dataset}", run, 0, "questions_in_training_data", "raised", "warning",
            f"{path} holds {count} question{'s' if count > 1 else ''} of {leak.dataset}: results would tell what the model remembers.",
            evidence={"file": str(path), "dataset": leak.dataset, "count": count, "questions": leak.questions[:TOLD]},
            advice="Train without them: trainer.eval_file = the set, with trainer.leaks = skip. `trainbus data check FILE --against SET` "
            "names the lines.",
        )  # fmt: skip

    def scorer_failed(self, scorer: str, question: Question, error: Exception) -> None:
        """A third party's scorer raised: log it, with where it did."""
        self._context.logger.warning("scorer %s raised on question %s; its answer has no verdict", scorer, question.id, exc_info=error)

    def _alert(
        self,
        identity: str,
        run: str,
        step: int,
        rule: str,
        state: events.AlertState,
        severity: events.Severity,
        message: str,
        *,
        evidence: dict[str, object] | None = None,
        advice: str = "",
    ) -> None:
        self._context.publish(
            events.Alert(
                id=identity,
                run=run,
                step=step,
                rule=rule,
                category="inference",
                severity=severity,
                state=state,
                message=message,
                evidence=evidence or {},
                advice=advice,
                plugin=self._context.name,
            )
        )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"
