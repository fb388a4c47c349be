"""A data profile: plain data in, dressed data to the model, plain answers out."""

from __future__ import annotations

import json

import msgspec
import pytest

from trainbus.cli.app import cli
from trainbus.errors import ConfigError, DataError
from trainbus.trainer_node import data
from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
from trainbus.trainer_node.config import Resume, TrainerConfig
from trainbus.trainer_node.dataset.reading import Reading
from trainbus.trainer_node.evaluation.questions import questions
from trainbus.trainer_node.formats import Example, RowError, Turn
from trainbus.trainer_node.plan import make_plan
from trainbus.trainer_node.profile import PLAIN, Profile
from trainbus.trainer_node.tokens import tokenize

DRESSED = Profile(system="Be brief.", question="Q: {}\nThink.", answer="<answer>\n{}\n</answer>")
ANSWERS = ("4", "", " 4 ", "<answer>", "</answer>", "<answer>\n4\n</answer>", "{}", "a\nb", "\n", "日本")


@pytest.mark.parametrize("profile", [DRESSED, PLAIN, Profile(answer="{}!"), Profile(answer="  {}")])
def test_what_was_dressed_is_undressed_to_what_it_was(profile):
    """The round trip is exact, also for answers that look like parts of the form (A-92)."""
    for answer in ANSWERS:
        example = Example(turns=(Turn("user", f"{answer}?"), Turn("assistant", answer), Turn("tool", "x"), Turn("assistant", "y")), line=3)
        encoded = profile.encode(example)
        assert profile.decode(encoded) == example
        assert profile.answer_in(encoded.turns[-3].content) == answer
        own = Example(turns=(Turn("system", "Mine."), *example.turns), line=3)
        assert profile.decode(profile.encode(own)) == own


def test_an_answer_in_another_form_is_none():
    """White space at the ends may be lost, as tokenizers and stops lose it; anything else is another form."""
    assert DRESSED.answer_in(" <answer>\n4\n</answer>\n ") == "4"
    for wrong in ("4", "<answer>\n4", "4\n</answer>", "so: <answer>\n4\n</answer>", ""):
        assert DRESSED.answer_in(wrong) is None
    with pytest.raises(RowError, match="turn 2 does not have the form"):
        DRESSED.decode(Example(turns=(Turn("user", "Q: a\nThink."), Turn("assistant", "4"))))


def test_a_profile_changes_what_is_read_and_questions_are_shown_plain(tmp_path):
    """The model gets the system message and the forms; people see the bare question and answer."""
    path = tmp_path / "d.jsonl"
    path.write_text('{"question": "2+2?", "answer": "4"}\n{"question": "3+3?", "answer": "6"}\n')
    (first, _) = data.load(str(path), Reading(profile=DRESSED)).examples
    assert [turn.content for turn in first.turns] == ["Be brief.", "Q: 2+2?\nThink.", "<answer>\n4\n</answer>"]
    tokenizer = byte_tokenizer()
    dataset = tokenize([first], tokenizer, 200)
    (asked,) = questions(dataset, tokenizer, 200, source="d", dataset="validation", limit=1, profile=DRESSED)
    assert (asked.prompt, asked.expected) == ("2+2?", "4")
    assert "Be brief." in tokenizer.decode(asked.prompt_ids)


def test_a_form_without_its_place_is_refused_and_a_stop_may_not_cut_the_form(questions, tiny_base):
    """Both would make every answer wrong."""
    with pytest.raises(msgspec.ValidationError, match=r"answer holds \{\} once"):
        msgspec.convert({"answer": "yes"}, Profile)
    config = TrainerConfig(model=str(tiny_base), data=str(questions), profile=DRESSED, eval_stops=["</answer>"])
    with pytest.raises(ConfigError, match="answers of the profile end with"):
        make_plan(config, Resume())


def test_the_command_line_dresses_a_file_and_undresses_it(tmp_path, capfdbinary):
    """What comes out of --decode is what went in."""
    rows = [{"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": str(i)}]} for i in range(3)]
    plain, dressed = tmp_path / "plain.jsonl", tmp_path / "dressed.jsonl"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    profile = ["--set", 'trainer.profile={system = "Be brief.", answer = "<answer>{}</answer>"}']

    def run(*arguments):
        cli.main(["data", "profile", *map(str, arguments), *profile], standalone_mode=False)
        return capfdbinary.readouterr().out

    dressed.write_bytes(run(plain))
    assert b'"<answer>1</answer>"' in dressed.read_bytes()
    assert [json.loads(line) for line in run(dressed, "--decode").splitlines()] == rows
    with pytest.raises(DataError, match="line 1: turn 2 does not have the form"):
        run(plain, "--decode")
