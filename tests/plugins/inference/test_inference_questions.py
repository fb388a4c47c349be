import pytest

from trainbus.errors import DataError
from trainbus.plugins.inference.questions import load


@pytest.fixture
def asked(tmp_path):
    """Loads a set from its lines."""

    def make(*lines, **arguments):
        file = tmp_path / "set.jsonl"
        file.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
        return load(file, **arguments)

    return make


@pytest.mark.parametrize(
    ("line", "prompt", "expected"),
    [
        ('{"question": "2 + 2?", "answer": "4"}', "2 + 2?", "4"),
        ('{"prompt": "Hi", "response": "Ho"}', "Hi", "Ho"),
        ('{"prompt": "Hi", "expected": 4}', "Hi", "4"),
        ('{"instruction": "Add", "input": "1, 2", "output": "3"}', "Add\n\n1, 2", "3"),
        ('{"problem": "x?"}', "x?", None),
        ('{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}', "Hi", "Ho"),
        ('{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}], "answer": "Ho"}', "Hi", "Ho"),
    ],
)
def test_each_form_of_a_line_is_understood(line, prompt, expected, asked):
    """Prompt forms, instruction forms and chats."""
    (question,) = asked(line)
    assert (question.prompt, question.expected) == (prompt, expected)
    assert question.messages[-1]["role"] == "user"


def test_a_question_is_named_by_its_id_or_its_line(asked):
    """Blank lines count as lines and ask nothing."""
    assert [question.id for question in asked('{"id": 7, "prompt": "a"}', "", '{"prompt": "b"}')] == ["7", "3"]


def test_only_the_first_questions_are_read_with_a_limit(asked):
    """What comes after is not even looked at."""
    assert len(asked('{"prompt": "a"}', '{"prompt": "b"}', "not JSON", limit=2)) == 2


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("not JSON", "it is no JSON"),
        (b"\xff\xfe", "it is no JSON"),
        ("[1]", "it is no JSON object"),
        ('{"answer": "4"}', "it has none of messages, prompt, question"),
        ('{"prompt": "  "}', "it has none of"),
        ('{"messages": [{"role": "user"}]}', "a message needs a role"),
        ('{"messages": [{"role": "assistant", "content": "Ho"}]}', "none of a user"),
        ('{"messages": "Hi"}', "none of a user"),
        ('{"id": 1, "prompt": "again"}', "the id '1' is already that of line 1"),
    ],
)
def test_a_line_that_is_no_question_is_named_by_file_and_number(line, what, asked):
    """The person finds the line at once."""
    with pytest.raises(DataError) as caught:
        asked('{"id": 1, "prompt": "fine"}', line)
    assert "set.jsonl, line 2, is no question" in caught.value.problem
    assert what in caught.value.problem
    assert caught.value.facts["line"] == 2


def test_an_empty_set_is_refused(asked):
    """Nothing to ask is a mistake, not a perfect score."""
    with pytest.raises(DataError, match="holds no question"):
        asked("", "  ")
