"""What children print is kept and shown whole, whatever bytes it is made of."""

import io
import re

from rich.console import Console

from trainbus.bus.hosting.output import MAX_LINE_BYTES, KeptLog, LineSplitter, Output


def test_lines_are_put_together_from_pieces():
    """Pipes cut anywhere, also within a character."""
    splitter = LineSplitter()
    euro = "a€b\n".encode()
    assert [splitter.feed(euro[:2]), splitter.feed(euro[2:]), splitter.feed(b"rest")] == [[], ["a€b"], []]
    assert splitter.close() == ["rest"]


def test_broken_utf8_and_progress_bars_are_readable():
    """Bytes that are no text become U+FFFD; of a line drawn over and over the last picture stays."""
    assert LineSplitter().feed(b"bad \xff\xfe byte\n10%\r50%\r100%\r\n") == ["bad \ufffd\ufffd byte", "100%"]


def test_a_line_without_end_is_cut():
    """Memory stays bounded."""
    lines = LineSplitter().feed(b"x" * (3 * MAX_LINE_BYTES + 5))
    assert [len(line) for line in lines] == [MAX_LINE_BYTES] * 3


def test_kept_logs_rotate_and_stay_below_their_size(tmp_path):
    """At most `files` files of about `size` bytes, the newest lines in NAME.log."""
    log = KeptLog(tmp_path / "p.log", size=2_000, files=3)
    for number in range(500):
        log.write(f"line {number}")
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["p.log", "p.log.1", "p.log.2"]
    assert all(path.stat().st_size <= 2_000 for path in tmp_path.iterdir())
    assert (tmp_path / "p.log").read_text().endswith("line 499\n")


def test_a_log_that_can_t_be_written_stops_nobody(tmp_path):
    """It is counted."""
    log = KeptLog(tmp_path / "logs" / "p.log", size=1_000, files=2)
    (tmp_path / "logs").rmdir()
    (tmp_path / "logs").write_text("in the way")
    log.write("lost")
    assert log.errors == 1


def test_output_is_shown_with_its_prefix_and_kept_with_its_time(tmp_path):
    """Brackets of the child are no markup of ours."""
    shown = io.StringIO()
    output = Output("anomaly", KeptLog(tmp_path / "anomaly.log", 10_000, 2), Console(file=shown, width=200))
    output.feed(b"[bold]spike[/bold] at 7\n")
    output.close()
    assert shown.getvalue().strip() == "anomaly | [bold]spike[/bold] at 7"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} \[bold\]spike\[/bold\] at 7\n", (tmp_path / "anomaly.log").read_text())
    assert list(output.last) == ["[bold]spike[/bold] at 7"]


def test_the_last_lines_of_a_kept_log_are_told(tmp_path, monkeypatch):
    """Whole lines only, also of a log that is longer than what is looked at; a log that is not there has none."""
    output = Output("p", KeptLog(tmp_path / "p.log", 1_000_000, 2))
    assert output.tail(5) == []
    output.feed("".join(f"line {number}\n" for number in range(50)).encode())
    assert [line.partition(" ")[2] for line in output.tail(3)] == ["line 47", "line 48", "line 49"]
    assert (output.tail(0), output.tail("many"), len(output.tail(10**9))) == ([], [], 50)
    monkeypatch.setattr("trainbus.bus.hosting.output.TAIL_BYTES", 100)
    assert [line.partition(" ")[2] for line in output.tail(50)] == ["line 47", "line 48", "line 49"]
    output.close()
