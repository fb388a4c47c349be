"""What the examiner tells the bus. Everything names its run and checkpoint: it is published long after the event that caused it."""

from __future__ import annotations

from trainbus.bus import events
from trainbus.hookspecs import Context
from trainbus.plugins.inference.pending import Waiting
from trainbus.plugins.inference.questions import Question
from trainbus.plugins.inference.scoring import Score, correct, summary

LOST = "server_lost"
"""Key in ``context.state`` of the standing alert: a restart must still be able to clear it."""

LONGEST_TEXT = 100_000
"""Characters of a prompt or an answer in a sample event; what is longer is cut, so that no answer can outgrow the wire."""


class Reporter:
    """Publishes results and alerts."""

    def __init__(self, context: Context, dataset: str) -> None:
        self._context = context
        self._dataset = dataset

    def results(
        self, entry: Waiting, questions: list[Question], answers: dict[str, str], scores: list[Score], scorer: str, duration: float
    ) -> None:
        """All samples in the order of the questions, then the one eval event that sums them up."""
        for question, scored in zip(questions, scores, strict=True):
            self._context.publish(
                events.Sample(
                    run=entry.run,
                    step=entry.step,
                    prompt=_cut(question.prompt),
                    expected=None if question.expected is None else _cut(question.expected),
                    answer=_cut(answers[question.id]),
                    correct=correct(scored, scorer),
                    example=question.id,
                    dataset=self._dataset,
                    checkpoint=entry.id,
                )
            )
        metrics = summary(scores, scorer)
        self._context.publish(
            events.Eval(
                run=entry.run,
                step=entry.step,
                dataset=self._dataset,
                metrics=metrics,
                examples=len(questions),
                duration=duration,
                checkpoint=entry.id,
            )
        )
        told = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()) or "nothing to compare"
        self._context.logger.info("checkpoint %s: %d questions in %.1f s, %s", entry.id, len(questions), duration, told)

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
