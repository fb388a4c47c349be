"""Training files: every format is known by its keys, and every fault is named by file and line."""

from __future__ import annotations

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from trainbus.errors import DataError
from trainbus.trainer_node import data
from trainbus.trainer_node.dataset import rows
from trainbus.trainer_node.dataset.inspection import QUICK_ROWS, glance, inspect
from trainbus.trainer_node.dataset.reading import Reading


@pytest.fixture
def lines(tmp_path):
    """Write lines (objects or raw text) to a file."""

    def write(*rows, name="data.jsonl", end="\n"):
        path = tmp_path / name
        path.write_bytes("".join((row if isinstance(row, str) else json.dumps(row)) + end for row in rows).encode())
        return path

    return write


@pytest.mark.parametrize(
    ("row", "name", "turns"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages", ["user a", "assistant b"]),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "ShareGPT", ["user a", "assistant b"]),
        ({"instruction": "a", "input": "x", "output": "b"}, "alpaca", ["user a\n\nx", "assistant b"]),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca", ["user a", "assistant b"]),
        ({"prompt": "a", "completion": "b"}, "prompt and completion", ["user a", "assistant b"]),
        ({"question": "a", "answer": "b", "id": 3}, "question and answer", ["user a", "assistant b"]),
    ],
)
def test_each_format_is_known_by_its_keys(lines, row, name, turns):
    """A row becomes the conversation that its format means; further columns do no harm."""
    loaded = data.load_file(lines(row))
    assert loaded.format == name
    assert [f"{turn.role} {turn.content}" for turn in loaded.examples[0].turns] == turns


def test_a_files_own_column_names_can_be_mapped(lines):
    """Also those of turns; a row's own id is kept."""
    path = lines({"frage": "a", "antwort": "b", "id": "x7"})
    loaded = data.load(str(path), Reading(columns={"question": "frage", "answer": "antwort"}))
    assert (loaded.format, [turn.content for turn in loaded.examples[0].turns], loaded.examples[0].id) == (
        "question and answer", ["a", "b"], "x7",
    )  # fmt: skip
    path = lines({"dialogue": [{"who": "user", "says": "a"}, {"who": "assistant", "says": "b"}]})
    loaded = data.load(str(path), Reading(columns={"messages": "dialogue", "role": "who", "content": "says"}))
    assert [f"{turn.role} {turn.content}" for turn in loaded.examples[0].turns] == ["user a", "assistant b"]


def test_a_json_list_is_read_in_pieces_and_its_faults_are_placed(tmp_path, monkeypatch):
    """However the pieces fall: numbers, escapes and letters of several bytes at their edges, and what is broken is told by its element."""
    monkeypatch.setattr(rows, "READ_BYTES", 7)
    path = tmp_path / "data.json"
    values = [{"text": "Grüße 🚀"}, {"text": 'a"]\\,'}, {"text": "c", "n": 12345.5}, 12, {"text": "d"}]
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1))
    assert [value for _, value in rows.rows_of(path)] == values
    for broken, says in ((json.dumps(values)[:-2], "after 4 elements"), ("[{}, NaN]", "NaN"), ("[{} {}]", "after 0 elements")):
        path.write_text(broken)
        with pytest.raises(DataError, match=says):
            list(rows.rows_of(path))


def test_a_format_that_is_not_known_is_refused(lines):
    """Deny by default: a row, or the settings, may name the format; an unknown name is refused whatever else is there (L-31)."""
    named = {"$schema": "question_answer", "question": "a", "answer": "b"}
    assert data.load_file(lines(named, GOOD)).format == "question and answer"
    for wrong in ("chat/9", "https://json-schema.org/draft", 7):
        with pytest.raises(DataError, match="is unknown") as caught:
            data.load_file(lines({**GOOD, "$schema": wrong}))
        assert "question_answer" in caught.value.facts["allowed"]
    with pytest.raises(DataError, match="a file of question and answer"):
        data.load_file(lines(GOOD, {"$schema": "text", "text": "a"}))
    two = {"prompt": "a", "completion": "b", "text": "c"}
    assert data.load(str(lines(two)), Reading(schema="text")).format == "text"
    with pytest.raises(DataError, match="key 'instruction' holds nothing"):
        data.load(str(lines(two)), Reading(schema="alpaca"))
    with pytest.raises(DataError, match="in data of the format 'alpaca'"):
        data.load(str(lines(named)), Reading(schema="alpaca"))


def test_a_quick_look_reads_the_first_rows_and_a_standard_one_all(lines):
    """So it costs the same for every file; what it can't see, the standard look and the training see."""
    path = lines(*[GOOD] * QUICK_ROWS, "{", *[GOOD] * 9)
    quick, standard = inspect(str(path), level="quick"), inspect(str(path))
    assert (quick.ok, quick.examples, quick.repeated) == (True, QUICK_ROWS, 0)
    assert (standard.ok, standard.examples, standard.repeated) == (False, QUICK_ROWS + 9, QUICK_ROWS + 8)
    assert glance(path, Reading()) == ""
    assert "no known format" in glance(lines({"colour": "red"}), Reading())


def test_plain_text_is_an_example_without_turns(lines):
    """``text`` rows are learned as they are."""
    assert data.load_file(lines({"text": "once upon"})).examples[0].text == "once upon"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_line_ends_and_blank_lines_do_not_matter_and_lines_keep_their_numbers(lines, end):
    """CRLF and blank lines pass; a fault is named by the line as an editor counts it."""
    good = {"question": "a", "answer": "b"}
    assert len(data.load_file(lines(good, good, end=end)).examples) == 2
    with pytest.raises(DataError) as caught:
        data.load_file(lines(good, "{broken", end=end))
    assert caught.value.facts["line"] == (3 if end == "\n\n" else 2)


def test_a_utf8_byte_order_mark_is_passed_over(tmp_path):
    """Files from Windows editors work."""
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n')
    assert data.load_file(path).examples[0].text == "a"


GOOD = {"question": "a", "answer": "b"}


@pytest.mark.parametrize(
    ("bad", "says", "found"),
    [
        ('{"question": "a", "answer": ', "not valid JSON", '{"question": "a", "answer":'),
        ({"question": "a"}, "key 'answer' holds nothing", "nothing"),
        ({"question": "a", "answer": 3}, "key 'answer' holds a number", "a number"),
        ({"question": "a", "answer": " "}, "key 'answer' is empty", "empty text"),
        ([GOOD], "a list where an object", "a list"),
        ("null", "null where an object", "null"),
        ("# comment", "a comment: JSON has none", "# comment"),
        ('{"question": NaN, "answer": "b"}', "NaN or Infinity", '{"question": NaN, "answer": "b"}'),
    ],
)
def test_a_bad_line_is_named_with_what_was_found_and_what_is_allowed(lines, bad, says, found):
    """Line 2 is bad: the error says so, in its text and in its facts."""
    path = lines(GOOD, bad, GOOD)
    with pytest.raises(DataError) as caught:
        data.load_file(path)
    assert f"{path}, line 2" in caught.value.problem
    assert says in caught.value.problem
    assert caught.value.facts["line"] == 2
    assert caught.value.facts["found"] == found
    assert caught.value.facts["allowed"]
    assert caught.value.hint


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": []}, "an empty list"),
        ({"messages": "hello"}, "holds text"),
        ({"messages": ["hello"]}, "turn 1 of 'messages' is text"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "role 'robot' is unknown"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no assistant turn"),
        ({"conversations": [{"from": "Customer", "value": "a"}]}, "speaker 'Customer' is unknown"),
        ({"colour": "red"}, "no known format has the keys colour"),
    ],
)
def test_a_row_that_fits_no_format_says_why(lines, row, says):
    """The first row decides on the format, so its fault is told in the words of that format."""
    with pytest.raises(DataError, match="line 1"):
        data.load_file(lines(row))
    with pytest.raises(DataError) as caught:
        data.load_file(lines(row))
    assert says in caught.value.problem


def test_all_bad_lines_are_counted_and_the_first_ones_named(lines):
    """A person sees at once how much there is to mend."""
    with pytest.raises(DataError) as caught:
        data.load_file(lines(GOOD, "{", GOOD, "{", *["{"] * 9))
    assert caught.value.facts["lines"] == [2, *range(4, 14)]
    assert "11 of 13 lines are refused; the next: 4, 5, 6, 7, …" in caught.value.problem


def test_of_a_line_without_an_end_only_the_beginning_is_kept(tmp_path, monkeypatch):
    """It is told by its number, and the lines behind it keep theirs."""
    monkeypatch.setattr(rows, "LONGEST_LINE_BYTES", 100)
    monkeypatch.setattr(rows, "READ_BYTES", 64)
    for length in (101, 102, 103, 166, 167, 5000):
        path = tmp_path / "data.jsonl"
        path.write_text(f'{{"text": "a"}}\n{"x" * length}\n{{"text": "b"}}\n')
        found = list(rows.rows_of(path))
        assert [number for number, _ in found] == [1, 2, 3]
        assert "more than 100 bytes in one line" in found[1][1].what


def test_an_empty_file_and_a_missing_one_are_errors(tmp_path):
    """Nothing to train on is said before anything is loaded."""
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="is empty"):
        data.load(str(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="There is no file"):
        data.load(str(tmp_path / "missing.jsonl"))
    with pytest.raises(DataError, match="is a directory"):
        data.load(str(tmp_path))


VERDICTS = {
    "all_null_lines.jsonl": (1, "null where an object"),
    "comments_and_blanks.jsonl": (1, "a comment"),
    "crlf.ndjson": (1, "no known format"),
    "gsm8k_broken_lines_excerpt.jsonl": (2, "not valid JSON"),
    "lfs_pointer.json": (1, "Git LFS pointer"),
    "list_per_line.jsonl": (1, "a list where an object"),
    "nan_literals.jsonl": (1, "NaN or Infinity"),
    "nan_results.jsonl": (1, "no known format"),
    "pretty_printed_object.jsonl": (1, "spread over many lines"),
    "prose_first_line.jsonl": (1, "not valid JSON"),
    "stderr_text.jsonl": (1, "not valid JSON"),
    "utf16_bom.jsonl": (1, "UTF-16"),
}


def test_every_malformed_file_found_in_the_wild_gets_a_clear_verdict(shared_data):
    """Real broken files: each is refused with its line and the fault's name, and never by a traceback."""
    files = sorted(path for path in (shared_data / "messy_jsonl").iterdir() if path.suffix != ".md")
    assert {path.name for path in files} == set(VERDICTS)
    for path in files:
        line, says = VERDICTS[path.name]
        with pytest.raises(DataError) as caught:
            data.load_file(path)
        assert (caught.value.facts["line"], says in caught.value.problem, path.name) == (line, True, path.name), caught.value.problem


def test_gsm8k_is_read_whole(shared_data):
    """The real training file has 7,473 questions."""
    loaded = data.load_file(shared_data / "gsm8k" / "train.jsonl")
    assert (loaded.format, len(loaded.examples)) == ("question and answer", 7473)


def test_held_out_examples_are_the_same_for_the_same_seed_and_are_not_trained_on(lines):
    """No example is in both parts, and none is lost."""
    examples = data.load_file(lines(*[{"text": str(i)} for i in range(100)])).examples
    training, held = data.split(examples, 0.1, seed=1)
    assert (len(training), len(held)) == (90, 10)
    assert {e.text for e in training} | {e.text for e in held} == {str(i) for i in range(100)}
    assert data.split(examples, 0.1, seed=1)[1] == held
    assert data.split(examples, 0.1, seed=2)[1] != held
    assert data.split(examples[:1], 0.5, seed=1) == (examples[:1], [])


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".json", ".parquet"])
def test_compressed_files_lists_and_parquet_hold_the_same_examples_as_json_lines(tmp_path, ending):
    """What a file is, its first bytes tell."""
    rows = [{"question": f"{i}?", "answer": str(i)} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = tmp_path / f"data{ending}"
    if ending == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines))
    elif ending == ".jsonl.zst":
        path.write_bytes(pyarrow.compress(lines, codec="zstd", asbytes=True))
    elif ending == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    loaded = data.load(str(path))
    assert (loaded.format, [example.turns[1].content for example in loaded.examples]) == ("question and answer", ["0", "1", "2"])


@pytest.mark.parametrize("ending", [".jsonl.gz", ".parquet"])
def test_a_file_that_was_cut_in_the_middle_is_told_in_words(tmp_path, ending):
    """Half a download."""
    rows = [{"text": str(i) * 50} for i in range(1000)]
    path = tmp_path / f"data{ending}"
    if ending == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="damaged"):
        data.load(str(path))


def test_bad_lines_can_be_left_out_with_their_reasons_unless_they_are_most_of_the_file(lines):
    """The quarantine: what it holds can be mended; a file that is mostly bad is refused whole."""
    loaded = data.load_file(lines(GOOD, '{"prompt": ', GOOD, {"prompt": "x"}), tolerant=True)
    assert len(loaded.examples) == 2
    assert [(one.line, one.content) for one in loaded.rejected] == [(2, '{"prompt":'), (4, {"prompt": "x"})]
    assert "not valid JSON" in loaded.rejected[0].reason
    with pytest.raises(DataError, match="2 of 3 lines are refused"):
        data.load_file(lines(GOOD, "{", "{"), tolerant=True)
