"""A data profile: how plain questions and answers are dressed for a training, and answers undressed again when they are judged.

Data stay as they are on the disk, and one setting decides on the form that a model learns: a system message, words around each question,
marks around each answer.
"""

from __future__ import annotations

from msgspec import Struct

from trainbus.trainer_node.formats import Example, RowError, Turn

HERE = "{}"
"""Stands in a form for what is dressed."""


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes conversations; plain text has no question and stays as it is.

    Args:
        system: A system message before each conversation that has none of its own.
        question: The form of what the user says; ``{}`` stands for it.
        answer: The form of what the assistant says; ``{}`` stands for it.
    """

    system: str = ""
    question: str = HERE
    answer: str = HERE

    def __post_init__(self) -> None:
        for name, form in (("question", self.question), ("answer", self.answer)):
            if form.count(HERE) != 1:
                raise ValueError(f"{name} holds {HERE} once, where the text goes: {form!r}")

    def encode(self, example: Example) -> Example:
        """Dress a conversation."""
        if not example.turns or self == PLAIN:
            return example
        before = (Turn("system", self.system),) if self.system and example.turns[0].role != "system" else ()
        forms = {"user": self.question, "assistant": self.answer}
        turns = tuple(Turn(turn.role, _dress(forms.get(turn.role, HERE), turn.content)) for turn in example.turns)
        return Example(turns=before + turns, text=example.text, line=example.line, id=example.id)

    def decode(self, example: Example) -> Example:
        """The conversation that `encode` has dressed.

        Raises:
            RowError: A turn does not have its form.
        """
        turns = []
        for number, turn in enumerate(example.turns):
            if not number and (turn.role, turn.content) == ("system", self.system):
                continue
            form = {"user": self.question, "assistant": self.answer}.get(turn.role, HERE)
            plain = _undress(form, turn.content)
            if plain is None:
                shown = turn.content if len(turn.content) <= 60 else f"{turn.content[:60]}…"
                raise RowError(f"turn {number + 1} does not have the form {form!r}", found=shown, allowed=form)
            turns.append(Turn(turn.role, plain))
        return Example(turns=tuple(turns), text=example.text, line=example.line, id=example.id)

    def answer_in(self, said: str) -> str | None:
        """What was answered, without its form; None when it was not said in that form. White space around it may be missing."""
        return _undress(self.answer, said)

    def question_in(self, asked: str) -> str:
        """What was asked, without its form; all of it when it does not have that form."""
        plain = _undress(self.question, asked)
        return asked if plain is None else plain


def _dress(form: str, text: str) -> str:
    return form.replace(HERE, text)


def _undress(form: str, text: str) -> str | None:
    """What stands in a form: exactly, else with white space lost at both ends; None when the form is another."""
    before, _, after = form.partition(HERE)
    for first, last, whole in ((before, after, text), (before.lstrip(), after.rstrip(), text.strip())):
        if whole.startswith(first) and whole.endswith(last) and len(whole) >= len(first) + len(last):
            return whole[len(first) : len(whole) - len(last)]
    return None


PLAIN = Profile()
"""Changes nothing."""
