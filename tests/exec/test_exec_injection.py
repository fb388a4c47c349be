"""What `trainbus exec` brings into Python processes: it watches them from inside, and never fails them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tests.exec.conftest import DEADLINE, OFFLINE, SCRIPTS


@pytest.fixture
def write(tmp_path):
    """A file of a package that shadows an installed one: scripts in this folder import it first."""

    def make(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return str(path)

    return make


@pytest.mark.timeout(400)
def test_transformers_trainer_publishes_every_raw_loss_without_a_change_to_the_script(execute, published, tmp_path):
    """NaN included, which Trainer itself logs as 0; its output is what it is without us; checkpoints are published."""
    result = execute(
        sys.executable,
        str(SCRIPTS / "hf_trainer.py"),
        options=("--run", "r", "--name", "n"),
        env={**OFFLINE, "NAN_AT": "3", "FAIL": "1"},
        timeout=380.0,
    )
    assert result.returncode == 1, result.stderr
    assert "this program is not watched" not in result.stderr
    raw = [line.removeprefix("raw ") for line in result.stdout.splitlines() if line.startswith("raw ")]
    steps = published("step")
    assert [repr(step.metrics["loss"]) for step in steps] == raw
    assert raw[2] == "nan"
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[0].total_steps == 6
    assert steps[0].metrics["learning_rate"] == pytest.approx(0.05)
    assert {"grad_norm", "tokens_per_second"} <= set(steps[0].metrics)
    complete = [event.path for event in published("checkpoint") if event.state == "complete"]
    assert complete == [str(tmp_path / "out" / "checkpoint-4"), str(tmp_path / "out" / "checkpoint-6")]
    assert {event.run for event in published()} == {"r"}
    first, second = published("run_started")
    assert second.config["per_device_train_batch_size"] == 4
    assert second.config["trainer"] == "LoggingTrainer"
    assert first.pid == second.pid
    (ended,) = published("run_ended")
    assert (ended.outcome, ended.exit_code, ended.step) == ("failed", 1, 6)
    assert ended.reason == "ValueError: the script fails after training"
    assert ended.last_lines[-1] == "ValueError: the script fails after training"


def test_another_sitecustomize_runs_as_ever(execute, write):
    """Ours stands before it on the path, and hands on."""
    folder = write("theirs/sitecustomize.py", "import sys\nprint('theirs', flush=True)\nmarker = 7\n")
    script = "import sitecustomize; print(sitecustomize.marker)"

    path = os.pathsep.join(filter(None, (folder.rpartition("/")[0], os.environ.get("PYTHONPATH"))))
    result = execute(sys.executable, "-c", script, env={"PYTHONPATH": path})
    assert result.stdout.endswith("theirs\n7\n"), result.stderr
    assert result.stdout.count("theirs") == 2, "once in trainbus itself, once in the command"


def test_a_failure_of_the_injection_is_one_line_and_the_script_goes_on(execute, write, published):
    """Here the framework is not what we know: other names in one version, other behaviour in another."""
    write("transformers/__init__.py", "")
    write("transformers/trainer.py", "class Trainer:\n    def train(self):\n        print('trained')\n        return 5\n")
    write("lightning/__init__.py", "")
    write("lightning/pytorch/__init__.py", "")
    write("lightning/pytorch/trainer/__init__.py", "")
    write("lightning/pytorch/trainer/trainer.py", "class Trainee:\n    pass\n")
    script = write(
        "script.py",
        """
        import lightning.pytorch.trainer.trainer as other
        from transformers.trainer import Trainer
        trainer = Trainer()
        assert trainer.train() == 5 and trainer.train() == 5
        import inspect
        assert "trained" in inspect.getsource(inspect.getmodule(Trainer))
        print("done")
        """,
    )
    result = execute(sys.executable, script, options=("--run", "r", "-q"))
    assert result.returncode == 0, result.stderr
    assert result.stdout == "trained\ntrained\ndone\n"
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 2, result.stderr
    assert all(line.startswith("trainbus: ") for line in lines)
    assert published("run_ended")[0].outcome == "completed"


def test_an_error_of_the_training_itself_is_its_own(execute, write):
    """What `train` raises reaches the script unchanged, also when our part has failed before."""
    write("transformers/__init__.py", "")
    write("transformers/trainer.py", "class Trainer:\n    def train(self):\n        raise KeyError('theirs')\n")
    script = write(
        "script.py", "from transformers.trainer import Trainer\ntry:\n    Trainer().train()\nexcept KeyError as e:\n    print(e)\n"
    )
    result = execute(sys.executable, script)
    assert (result.returncode, result.stdout) == (0, "'theirs'\n")


def test_a_python_without_trainbus_runs_unwatched_and_says_why(execute, write, tmp_path):
    """The command's environment need not be ours; a grandchild of a shell is reached all the same."""
    made = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True, timeout=DEADLINE)
    write("accelerate/__init__.py", "")
    write(
        "accelerate/accelerator.py",
        "class Accelerator:\n    is_main_process, trackers = True, []\n    def init_trackers(self, name):\n        print('theirs')\n",
    )
    script = write("script.py", "from accelerate.accelerator import Accelerator\nAccelerator().init_trackers('x')\n")
    result = execute("sh", "-c", f"{made}/bin/python {script}; exit 4")
    assert (result.returncode, result.stdout) == (4, "theirs\n"), result.stderr
    assert "trainbus: " in result.stderr
    assert "No module named" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_inject_leaves_python_alone(execute, write):
    """--no-inject: no sitecustomize of ours, nothing on the path."""
    script = write(
        "script.py",
        "import sys; print([type(finder).__name__ for finder in sys.meta_path], [p for p in sys.path if p.endswith('inject/site')])",
    )
    assert "_Finder" in execute(sys.executable, script).stdout
    plain = execute(sys.executable, script, options=("--no-inject",)).stdout
    assert "_Finder" not in plain
    assert plain.endswith("[]\n")
