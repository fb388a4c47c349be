"""Files that grow, as programs and logrotate let them."""

import os
import random

import msgspec

from trainbus.sources.tail import CHUNK, Place, Tail


def test_lines_come_when_they_are_whole(tmp_path):
    """A half line waits for its end; a file that isn't there yet has none."""
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.look() == []
    path.write_text("one\ntw")
    assert tail.look() == ["one"]
    assert tail.look() == []
    with path.open("a") as stream:
        stream.write("o\r\n\nthree\n")
    assert tail.look() == ["two", "three"]


def test_another_process_goes_on_where_one_stopped(tmp_path):
    """The place is plain values."""
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthr")
    tail = Tail(path)
    assert tail.look() == ["one", "two"]
    with path.open("a") as stream:
        stream.write("ee\nfour\n")
    again = Tail(path, msgspec.convert(msgspec.to_builtins(tail.place), Place))
    assert again.look() == ["three", "four"]
    assert again.replaced == 0


def test_a_renamed_file_is_read_to_its_end_before_the_new_one(tmp_path):
    """As logrotate does it; the writer may have written behind the last look, its last line without an end."""
    path = tmp_path / "log"
    path.write_text("one\n")
    tail = Tail(path)
    assert tail.look() == ["one"]
    with path.open("a") as stream:
        stream.write("two\nlast")
    path.rename(tmp_path / "log.1")
    path.write_text("new\n")
    assert [tail.look(), tail.look()] == [["two", "last"], ["new"]]


def test_a_file_that_is_cut_or_replaced_begins_anew(tmp_path):
    """Also when it has grown past the place meanwhile: what lies before it is no longer the same."""
    path = tmp_path / "log"
    path.write_text("one\ntwo\n")
    tail = Tail(path)
    tail.look()
    os.truncate(path, 0)
    with path.open("a") as stream:
        stream.write("a\n")
    assert tail.look() == ["a"]
    path.write_text("a much longer first line\nand a second\n")
    assert tail.look() == ["a much longer first line", "and a second"]
    path.unlink()
    path.write_text("another file\n")
    assert tail.look() == ["another file"]
    assert tail.replaced == 3


def test_the_lines_of_progress_bars_end_by_carriage_returns(tmp_path):
    """Where that is asked for."""
    path = tmp_path / "log"
    path.write_bytes(b"\r 10%\r 20%\nline\r 30%")
    assert Tail(path, ends=b"\n\r").look() == [" 10%", " 20%", "line"]


def test_a_line_without_end_does_not_fill_memory(tmp_path):
    """It comes in pieces."""
    path = tmp_path / "log"
    path.write_text("x" * (CHUNK + 10) + "\nnext\n")
    tail = Tail(path)
    assert [len(line) for line in tail.look()] == [CHUNK]
    assert tail.look() == ["x" * 10, "next"]


def test_whatever_happens_to_a_rotated_log_each_line_comes_once(tmp_path):
    """Appends of any size, renames, restarts, looks between."""
    for seed in range(20):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        path, written, found, rest, turned = folder / "log", [], [], "", 0
        tail = Tail(path)
        for number in range(200):
            line = f"line {number} {'.' * chance.randrange(90)}"
            written.append(line)
            text = rest + line + "\n"
            cut = chance.randrange(len(line)) if chance.random() < 0.3 else len(text)
            with path.open("a") as stream:
                stream.write(text[:cut])
            rest = text[cut:]
            if chance.random() < 0.4:
                found += tail.look()
            if chance.random() < 0.1:
                tail = Tail(path, tail.place)
            if not rest and chance.random() < 0.05:
                while looked := tail.look():  # one rotation at a time: what was rotated away twice unseen is gone by its name
                    found += looked
                turned += 1
                path.rename(folder / f"log.{turned}")
        with path.open("a") as stream:
            stream.write(rest)
        for _ in range(3):
            found += tail.look()
        assert found == written
