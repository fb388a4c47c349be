"""`trainbus exec` as people see it: exit codes, output, signals, terminals, what is left behind."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.exec.conftest import DEADLINE, exec_line
from tests.support import wait_for

SLEEPER = "import time\nprint('ready', flush=True)\ntime.sleep(600)\n"


def process_is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_output_input_and_exit_code_pass_through_byte_for_byte(execute, published, trainbus_home, tmp_path):
    """Each stream arrives as it was written, in the kept file too; the run says how it ended, with no broker anywhere."""
    script = (
        "import sys; sys.stdout.buffer.write(bytes(range(256)) * 400 + sys.stdin.buffer.read()); sys.stderr.write('to err'); sys.exit(7)"
    )
    line = exec_line(sys.executable, "-S", "-c", script, options=("--run", "r", "--name", "n", "-q"))
    result = subprocess.run(line, input=b"typed", capture_output=True, check=False, cwd=tmp_path, timeout=DEADLINE)
    assert result.returncode == 7
    assert result.stdout == bytes(range(256)) * 400 + b"typed"
    assert result.stderr == b"to err"
    kept = (trainbus_home / "logs" / "exec" / "r.log").read_bytes()
    assert sorted(kept) == sorted(result.stdout + b"to err")
    (started,) = published("run_started")
    assert (started.run, started.name, started.command[1:3]) == ("r", "n", ["-S", "-c"])
    (ended,) = published("run_ended")
    assert (ended.outcome, ended.exit_code, ended.signal) == ("failed", 7, None)
    assert any("to err" in line for line in ended.last_lines)
    (alert,) = published("alert")
    assert (alert.rule, alert.severity, alert.evidence["exit_code"]) == ("crash", "critical", 7)
    assert {metric.name for metric in published("metric")} <= {
        "tree_rss", "tree_pss", "tree_cpu", "tree_processes", "tree_files", "tree_gpu_memory",
    }  # fmt: skip


def test_a_signal_that_ends_the_command_is_128_and_its_number(execute, published):
    """Killed by somebody: told apart from the kernel's kill by its counters, where they can be read."""
    result = execute("sh", "-c", "echo last words; kill -9 $$", options=("--run", "r"))
    assert result.returncode == 128 + signal.SIGKILL
    (ended,) = published("run_ended")
    assert (ended.outcome, ended.exit_code, ended.signal, ended.last_lines) == ("failed", None, 9, ["last words"])
    assert "SIGKILL" in ended.reason or "killed" in ended.reason
    assert "trainbus: failed" in result.stderr


def test_a_command_that_is_not_there_is_named_with_what_to_do(execute, tmp_path, published):
    """127 for what is not found and 126 for what can't be run, as shells say; nothing has begun then."""
    (tmp_path / "train.py").write_text("print('hello')\n")
    for words, code, said in (
        (["no-such-command-anywhere"], 127, "There is no command no-such-command-anywhere"),
        (["./train.py"], 126, "exec -- python"),
        (["."], 126, "is a folder"),
    ):
        result = execute(*words)
        assert result.returncode == code
        assert said in result.stderr
        assert "Traceback" not in result.stderr
    result = subprocess.run([sys.executable, "-m", "trainbus", "exec"], capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert result.returncode == 2
    assert "There is no command" in result.stderr
    assert execute("true", options=("--cwd", "nowhere")).returncode == 2


def test_cwd_name_and_environment_reach_the_command(execute, tmp_path, published):
    """--cwd is where it works; a program in it is found by ./, and the run is called after it."""
    folder = tmp_path / "work"
    folder.mkdir()
    script = folder / "train.sh"
    script.write_text("#!/bin/sh\npwd\necho run=$TRAINBUS_EXEC_RUN path=$PYTHONPATH\n")
    script.chmod(0o755)
    path = os.pathsep.join(filter(None, ("/somewhere", os.environ.get("PYTHONPATH"))))
    result = execute("./train.sh", options=("--cwd", "work", "--no-inject"), env={"PYTHONPATH": path})
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == str(folder)
    (started,) = published("run_started")
    assert started.name == "train"
    assert lines[1] == f"run={started.run} path={path}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_go_to_the_whole_group_and_a_stop_is_no_crash(begin, published, tmp_path, number):
    """The command and its child get it, both may end in order; the run is stopped, by whom is told."""
    script = (
        "import os, signal, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', \"import signal, sys, time; "
        "signal.signal(int(sys.argv[1]), lambda *_: (open('child', 'w').write('got it'), sys.exit(0))); "
        "print('ready', flush=True); time.sleep(600)\", sys.argv[1]])\n"
        "def end(*_):\n    child.wait()\n    print('saved', flush=True)\n    sys.exit(3)\n"
        "signal.signal(int(sys.argv[1]), end)\n"
        "while True:\n    time.sleep(0.1)\n"
    )
    process = begin(
        sys.executable, "-S", "-c", script, str(int(number)), options=("--run", "r"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.wait(DEADLINE) == 3
    assert process.stdout.read() == "saved\n"
    assert (tmp_path / "child").read_text() == "got it"
    (ended,) = published("run_ended")
    assert ended.outcome == "stopped"
    assert signal.Signals(number).name in ended.reason
    assert f"process {os.getpid()} " in ended.reason
    assert published("alert") == []


def test_other_signals_are_forwarded_and_change_nothing(begin, published):
    """SIGUSR1 is what schedulers warn with: the command decides what it means."""
    script = "trap 'echo warned; exit 0' USR1; echo ready; while :; do sleep 0.05; done"
    process = begin("sh", "-c", script, options=("--run", "r"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.wait(DEADLINE) == 0
    assert process.stdout.read() == "warned\n"
    (ended,) = published("run_ended")
    assert (ended.outcome, ended.exit_code) == ("completed", 0)


def daemonising(ignoring=""):
    """A program that leaves a process in a session of its own behind and ends."""
    return (
        "import os, signal, sys, time\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork():\n        os._exit(0)\n"
        f"    {ignoring or 'pass'}\n"
        "    open('pid', 'w').write(str(os.getpid()))\n"
        "    os.write(write, b'!')\n"
        "    time.sleep(600)\n"
        "os.read(read, 1)\n"
    )


@pytest.mark.parametrize(
    "ignoring", ["", pytest.param("signal.signal(signal.SIGTERM, signal.SIG_IGN)", marks=pytest.mark.slow)], ids=["obeys", "ignores"]
)
def test_what_the_command_leaves_behind_ends_with_it(execute, tmp_path, ignoring):
    """Also a daemon in a session of its own, and one that ignores SIGTERM: it would hold memory, GPU and ports; it is named."""
    result = execute(sys.executable, "-S", "-c", daemonising(ignoring))
    assert result.returncode == 0
    pid = int((tmp_path / "pid").read_text())
    assert f"({pid})" in result.stderr
    assert not process_is_there(pid)


def test_keep_children_leaves_them_alone(execute, tmp_path):
    """For a command that starts a service on purpose."""
    result = execute(sys.executable, "-S", "-c", daemonising(), options=("--keep-children",))
    pid = int((tmp_path / "pid").read_text())
    try:
        assert result.returncode == 0
        assert process_is_there(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_reader_that_goes_away_costs_its_output_and_not_the_training(begin, tmp_path, trainbus_home):
    """`trainbus exec -- ... | head -1`: the rest goes on into the kept file."""
    script = "import time\nprint('first', flush=True)\nfor i in range(2000):\n    print(i, flush=True)\nopen('done', 'w').close()\n"
    process = begin(sys.executable, "-S", "-c", script, options=("--run", "r"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stdout = None
    assert process.wait(DEADLINE) == 0
    assert (tmp_path / "done").exists()
    assert (trainbus_home / "logs" / "exec" / "r.log").read_text().splitlines()[-1] == "1999"


class Terminal:
    """A terminal with `trainbus exec` in it, as a shell would start it."""

    def __init__(self, line, cwd, size=(24, 77)):
        import fcntl
        import struct
        import termios

        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execv(line[0], line)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.seen = b""

    def read_until(self, word):
        deadline = time.monotonic() + DEADLINE
        while word not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    data = os.read(self.master, 65_536)
                except OSError:
                    data = b""
                assert data, self.seen
                self.seen += data
        return self.seen

    def type(self, data):
        os.write(self.master, data)

    def end(self):
        """Exit code of what ran in it."""
        deadline = time.monotonic() + DEADLINE
        while True:
            if select.select([self.master], [], [], 0.02)[0]:
                try:
                    self.seen += os.read(self.master, 65_536)
                except OSError:
                    break
            assert time.monotonic() < deadline, self.seen
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_terminal_stays_a_terminal(tmp_path, published):
    """All three streams are terminals for the command, of the right size; keys go through; Ctrl-C ends it as ever, and it is no crash."""
    script = (
        "import os, sys\n"
        "while os.get_terminal_size().columns != 77: pass\n"
        "print('tty', *(os.isatty(fd) for fd in range(3)), os.get_terminal_size().columns, flush=True)\n"
        "print('got', input(), flush=True)\n"
        "print('ready', flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    terminal = Terminal(exec_line(sys.executable, "-S", "-c", script, options=("--run", "r")), tmp_path)
    terminal.read_until(b"tty True True True 77\r\n")
    terminal.type(b"some words\r")
    terminal.read_until(b"got some words\r\n")
    terminal.read_until(b"ready\r\n")
    terminal.type(b"\x03")
    assert terminal.end() == 128 + signal.SIGINT
    assert b"KeyboardInterrupt" in terminal.seen
    (ended,) = published("run_ended")
    assert (ended.outcome, ended.signal) == ("stopped", signal.SIGINT)
    assert "Ctrl-C" in ended.reason


def test_only_what_is_a_terminal_becomes_one(tmp_path):
    """Output into a file stays plain while errors are shown on the terminal."""
    script = "import os; print(os.isatty(1)); import sys; print('err', os.isatty(2), file=sys.stderr)"
    line = exec_line(sys.executable, "-S", "-c", script, options=("-q",))
    shell = ["/bin/sh", "-c", 'exec "$@" > out', "sh", *line]
    terminal = Terminal(shell, tmp_path)
    assert terminal.end() == 0
    assert b"err True\r\n" in terminal.seen
    assert (tmp_path / "out").read_bytes() == b"False\n"


def test_lines_of_output_become_steps_where_nothing_else_tells_of_them(execute, published):
    """nanoGPT's lines are known; a pattern of one's own comes first."""
    script = "echo 'iter 1: loss 2.5, time 12.0ms, mfu 1.0%'; echo 'iter 2: loss nan, time 12.0ms, mfu 1.0%'; echo 'my 3 lost=1.5'"
    assert execute("sh", "-c", script, options=("--pattern", r"my (?P<step>\d+) lost=(?P<loss>\S+)")).returncode == 0
    steps = published("step")
    assert [step.step for step in steps] == [1, 2, 3]
    assert [str(step.metrics["loss"]) for step in steps] == ["2.5", "nan", "1.5"]
    assert published("run_ended")[0].step == 3
    refused = execute("true", options=("--pattern", "("))
    assert refused.returncode == 2
    assert "no regular expression" in refused.stderr


def test_with_a_broker_the_run_is_live_and_everything_arrives(begin, broker, trainbus_home):
    """While the command runs, the run is running, and what it uses is told; nothing waits in a spool when it is over."""
    process = begin(sys.executable, "-S", "-c", SLEEPER, options=("--run", "r"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"

    def state():
        result = subprocess.run(
            [sys.executable, "-m", "trainbus", "runs", "list", "--json"], capture_output=True, text=True, check=True, timeout=DEADLINE
        )
        return [run["state"] for run in json.loads(result.stdout) if run["run"] == "r"]

    wait_for(lambda: state() == ["running"], DEADLINE)
    wait_for(lambda: broker("metric", run="r"), DEADLINE)
    process.terminate()
    assert process.wait(DEADLINE) == 128 + signal.SIGTERM
    assert "wait in the spool" not in process.stderr.read()
    assert [event.outcome for event in broker("run_ended", run="r")] == ["stopped"]
    assert list((trainbus_home / "spool").iterdir()) == []
