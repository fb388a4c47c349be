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
        ('{"prompt": "Hi", "completion": "Ho"}', "Hi", "Ho"),
        ('{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}', "Hi", "Ho"),
        ('{"conversations": [{"from": "system", "value": "S"}, {"from": "user", "value": "Hi"}], "answer": "Ho"}', "Hi", "Ho"),
        ('{"question": "Green?", "choices": ["snow", "grass"], "answer": "grass"}', "Green?", "grass"),
        ('{"question": "Green?", "choices": ["snow", "grass"], "answer": 1}', "Green?", "grass"),
        ('{"question": "Green?", "choices": ["snow", "grass"], "answer": "(B)"}', "Green?", "grass"),
        ('{"question": "Green?", "choices": {"text": ["snow", "grass"], "label": ["A", "B"]}, "answer": "b"}', "Green?", "grass"),
        ('{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}', "Hi", "Ho"),
        ('{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}], "answer": "Ho"}', "Hi", "Ho"),
    ],
)
def test_each_form_of_a_line_is_understood(line, prompt, expected, asked):
    """Prompt forms, instruction forms and chats."""
    (question,) = asked(line)
    assert (question.prompt, question.expected) == (prompt, expected)
    assert question.messages[-1]["role"] == "user"


def test_a_question_without_an_id_is_named_after_what_it_asks(asked):
    """So it keeps its name when lines are added before it; asked twice, the second is numbered. Blank lines ask nothing."""
    (alone,) = asked('{"prompt": "b", "answer": "1"}')
    named, first, again = asked('{"id": 7, "prompt": "a"}', "", '{"prompt": "b"}', '{"prompt": "b"}')
    assert (named.id, first.id, again.id) == ("7", alone.id, f"{alone.id}-2")


def test_only_the_first_questions_are_read_with_a_limit(asked):
    """What comes after is not even looked at."""
    assert len(asked('{"prompt": "a"}', '{"prompt": "b"}', "not JSON", limit=2)) == 2


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("not JSON", "it is no JSON"),
        (b"\xff\xfe", "it is no JSON"),
        ("[1]", "it is no JSON object"),
        ('{"answer": "4"}', "it has none of messages, conversations, prompt, question"),
        ('{"prompt": "  "}', "it has none of"),
        ('{"messages": [{"role": "user"}]}', "a message needs a role"),
        ('{"messages": [{"role": "assistant", "content": "Ho"}]}', "none of a user"),
        ('{"messages": "Hi"}', "none of a user"),
        ('{"conversations": [{"from": "ghost", "value": "Hi"}]}', "a message needs a from"),
        ('{"question": "Green?", "choices": ["grass"], "answer": 0}', "no list of two texts"),
        ('{"question": "Green?", "choices": ["grass", "grass"], "answer": 0}', "is there twice"),
        ('{"question": "Green?", "choices": ["snow", "grass"], "answer": "C"}', "none of its choices"),
        ('{"question": "Green?", "choices": ["snow", "grass"], "answer": "AB"}', "none of its choices"),
        ('{"question": "Green?", "choices": ["snow", "grass"], "answer": ""}', "none of its choices"),
        ('{"question": "Green?", "choices": ["snow", "grass"], "answer": 0.5}', "none of its choices"),
        ('{"question": "Green?", "choices": ["snow", "grass"], "answer": true}', "none of its choices"),
        ('{"question": "Green?", "choices": ["snow", "grass"]}', "none of its choices"),
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


def test_a_text_is_only_measured(asked):
    """There is nothing to ask: the text is what is expected."""
    (question,) = asked('{"text": "Once upon a time"}')
    assert (question.prompt, question.messages, question.expected) == ("", (), "Once upon a time")


def test_ones_own_column_names_are_mapped(asked):
    """The file stays as it is."""
    (question,) = asked('{"nr": 5, "frage": "2 + 2?", "antwort": "4"}', columns={"id": "nr", "question": "frage", "answer": "antwort"})
    assert (question.id, question.prompt, question.expected) == ("5", "2 + 2?", "4")


def test_the_real_set_of_gsm8k_is_read_as_it_is(shared_data):
    """1,319 questions, each with an answer and a name of its own."""
    questions = load(shared_data / "gsm8k" / "test.jsonl")
    assert len({question.id for question in questions}) == len(questions) == 1319
    assert all(question.expected and "####" in question.expected for question in questions)
