"""How an end is explained: from exit status, last lines, the kernel's counters, and signals that were seen."""

from __future__ import annotations

import signal

import pytest

from trainbus.launch.causes import CAUSES, cause_of
from trainbus.launch.environment import default_name
from trainbus.launch.signals import Ended, Sent
from trainbus.launch.verdict import crash_alert, judge
from trainbus.plugins.memory.deaths import Death

FAILED = Ended(1, None)
KILLED = Ended(None, signal.SIGKILL)


def death(verdict, *proof):
    return Death("d", verdict, list(proof), 0, 1)


SAID = [
    ("gpu_memory", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB"),
    ("gpu_memory", "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."),
    ("worker_killed", "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed."),
    ("shared_memory", "RuntimeError: unable to open shared memory object </torch_29919_1396182366> in read-write mode"),
    ("shared_memory", "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm)."),
    ("disk_full", "OSError: [Errno 28] No space left on device: 'out/checkpoint-100/model.safetensors'"),
    ("disk_full", "RuntimeError: [enforce fail at inline_container.cc:659] . PytorchStreamWriter failed writing file data/3"),
    ("host_memory", "numpy._core._exceptions._ArrayMemoryError: MemoryError"),
    ("host_memory", "terminate called after throwing an instance of 'std::bad_alloc'"),
    ("import", "ModuleNotFoundError: No module named 'flash_attn'"),
    ("import", "ImportError: flash_attn_2_cuda.cpython-311.so: undefined symbol: _ZN2at4_ops5zeros4callE"),
    ("nan", "RuntimeError: Function 'MulBackward0' returned nan values in its 0th output."),
    ("nan", "ValueError: loss is nan at step 1200"),
    ("nan", "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0"),
    ("gpu_assert", "RuntimeError: CUDA error: device-side assert triggered"),
    ("gpu_driver", "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
    ("gpu_driver", "AssertionError: Torch not compiled with CUDA enabled"),
    ("communication", "[rank0]:[E1121] [PG ID 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12, OpType=ALLREDUCE)"),
    ("port", "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: 29500, "
        "useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"),
    ("hub", "OSError: meta/llama is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'"),
    ("hub", "huggingface_hub.errors.GatedRepoError: 401 Client Error."),
    ("shape", "RuntimeError: mat1 and mat2 shapes cannot be multiplied (8x16 and 32x8)"),
    ("open_files", "OSError: [Errno 24] Too many open files"),
    ("permission", "PermissionError: [Errno 13] Permission denied: '/data/out'"),
    ("file", "FileNotFoundError: [Errno 2] No such file or directory: 'train.jsonl'"),
    ("file", "python: can't open file '/data/trian.py': [Errno 2] No such file or directory"),
    ("usage", "train.py: error: unrecognized arguments: --learing_rate"),
    ("syntax", "SyntaxError: invalid syntax"),
]  # fmt: skip
"""As these programs really say it."""


@pytest.mark.parametrize(("kind", "line"), SAID, ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(SAID)])
def test_the_last_words_of_frameworks_are_understood(kind, line):
    """Each with advice, also when other lines follow."""
    verdict = judge(FAILED, ["Traceback (most recent call last):", line, "wandb: Find logs at: ./wandb"], None, [])
    assert verdict.kind == kind
    assert verdict.outcome == "failed"
    assert line.removeprefix("[rank1]: ")[:60] in verdict.reason or kind == "communication"
    assert verdict.advice.endswith((".", ")"))


def test_every_cause_is_shown_by_an_example():
    """A pattern that nothing here fits would be untested."""
    assert {cause.kind for cause in CAUSES} == {kind for kind, _ in SAID}


def test_ordinary_lines_are_no_cause():
    """What a healthy training prints."""
    lines = [
        "{'loss': '2.805', 'grad_norm': '3.519', 'learning_rate': '0.05', 'epoch': '0.0625'}",
        "iter 10: loss 2.1, time 12.0ms, mfu 1.0%",
        "Loading weights: 100%|##########| 24/24",
        "FutureWarning: `gradient_checkpointing` is deprecated",
        "Detected kernel version 5.4.0, which is below the recommended minimum of 5.5.0",
        "trainable params: 1,000 || all params: 10,000 || trainable%: 10",
        "information found in the banner",
        "{'loss': '0', 'grad_norm': 'nan', 'learning_rate': '0.03333', 'epoch': '0.1875'}",
        "iter 2: loss nan, time 12.0ms, mfu 1.0%",
    ]
    assert cause_of(lines) is None


def test_a_traceback_at_the_end_counts_more_than_what_was_logged_before():
    """A script that survived one fault may die of another; a launcher's own traceback only reports that of its worker."""
    before = ["torch.OutOfMemoryError: CUDA out of memory. Tried again with half the batch.", "Traceback (most recent call last):"]
    assert judge(FAILED, [*before, "ValueError: something else"], None, []).reason == "ValueError: something else"
    launcher = ["Traceback (most recent call last):", "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:"]
    assert judge(FAILED, [*before, "ModuleNotFoundError: No module named 'x'", *launcher], None, []).kind == "gpu_memory"
    assert judge(FAILED, [before[1], "ModuleNotFoundError: No module named 'x'", *launcher], None, []).kind == "import"


def test_success_is_completed_and_says_nothing():
    """Whatever the last lines speak of."""
    verdict = judge(Ended(0, None), ["CUDA out of memory (retrying)"], None, [])
    assert (verdict.kind, verdict.outcome, verdict.reason, verdict.advice) == ("completed", "completed", "", "")


def test_the_kernel_s_kill_is_told_from_somebody_else_s():
    """By its counters: they rose, they did not, or they can't be read."""
    kernel = judge(KILLED, [], death("kernel", "oom_kill of /sys/fs/cgroup/x rose from 0 to 1"), [])
    assert (kernel.kind, kernel.outcome) == ("host_memory", "failed")
    assert kernel.proof == ["oom_kill of /sys/fs/cgroup/x rose from 0 to 1"]
    other = judge(KILLED, [], death("other", "no counter of kills rose"), [])
    assert (other.kind, other.outcome) == ("killed", "failed")
    assert "not the kernel" in other.reason
    unknown = judge(KILLED, [], None, [])
    assert "can't be told" in unknown.reason


def test_a_rank_that_the_kernel_killed_under_a_launcher_is_found_by_the_counters():
    """torchrun itself ends with exit code 1."""
    assert (
        judge(FAILED, ["Signal 9 (SIGKILL) received by PID 12"], death("worker", "the kernel's log names process 12"), []).kind
        == "host_memory"
    )


def test_who_stopped_it_is_told():
    """A signal that went through us, and one that a key on the terminal sent past us."""
    sent = judge(Ended(None, signal.SIGTERM), [], None, [Sent(signal.SIGTERM, "slurmstepd (process 77 of root)")])
    assert (sent.outcome, sent.reason) == ("stopped", "stopped by SIGTERM from slurmstepd (process 77 of root)")
    saved = judge(Ended(0, None), [], None, [Sent(signal.SIGTERM, "")])
    assert (saved.outcome, saved.reason) == ("completed", "ended in order after SIGTERM")
    key = judge(Ended(None, signal.SIGINT), ["KeyboardInterrupt"], None, [])
    assert (key.outcome, "Ctrl-C" in key.reason) == ("stopped", True)
    alone = judge(Ended(1, None), ["Traceback", "KeyboardInterrupt"], None, [])
    assert alone.outcome == "stopped"


def test_native_crashes_and_shells_that_report_them():
    """A signal, or 128 and its number from a shell between."""
    for ended in (Ended(None, signal.SIGSEGV), Ended(128 + signal.SIGSEGV, None)):
        verdict = judge(ended, [], None, [])
        assert (verdict.kind, verdict.outcome) == ("native_crash", "failed")
        assert "SIGSEGV" in verdict.reason
    assert judge(Ended(128 + signal.SIGKILL, None), [], death("kernel", "p"), []).kind == "host_memory"


def test_an_exception_that_nobody_knows_is_its_own_reason():
    """The last line of the traceback; without one, the exit code."""
    verdict = judge(FAILED, ["  File 'x.py', line 1", "my.package.StrangeError: it broke", "wandb: bye"], None, [])
    assert (verdict.kind, verdict.reason) == ("exception", "my.package.StrangeError: it broke")
    assert judge(Ended(9, None), ["so long"], None, []).reason == "exit code 9"


def test_the_alert_carries_what_a_person_needs():
    """Reason, advice, last lines, and where the output is kept."""
    verdict = judge(FAILED, ["ModuleNotFoundError: No module named 'x'"], None, [])
    alert = crash_alert("r", verdict, FAILED, ["a", "b"], step=7, log="/home/r.log")
    assert (alert.rule, alert.severity, alert.step, alert.plugin) == ("crash", "critical", 7, "exec")
    assert alert.evidence["last_lines"] == ["a", "b"]
    assert alert.evidence["output"] == "/home/r.log"
    assert "No module named 'x'" in alert.message
    assert alert.advice


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("python train.py --lr 1", "train"),
        ("torchrun --nproc-per-node 2 scripts/sft.py", "sft"),
        ("python -m pkg.cli.train x.yml", "train"),
        ("accelerate launch -m axolotl.cli.train c.yml", "train"),
        ("trl sft --model x", "trl-sft"),
        ("llamafactory-cli train x.yaml", "llamafactory-cli-train"),
        ("axolotl train c.yml", "axolotl-train"),
        ("/usr/bin/env", "env"),
        ("bash run.sh", "run"),
        ("./train", "train"),
    ],
)
def test_a_run_is_called_after_what_it_runs(line, name):
    """The script, the module, or the program with its verb."""
    assert default_name(line.split()) == name
