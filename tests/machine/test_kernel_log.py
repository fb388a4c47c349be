"""Lines of kernel logs from Linux 2.6 to 6: who was killed for want of memory, and which GPU had a fault."""

import os

import pytest

from trainbus.machine.kernel_log import KernelLog, Kill, interesting, parse_kill, parse_xid
from trainbus.machine.text import UnknownError

LINUX_6 = (
    "Out of memory: Killed process 4242 (python3) total-vm:91234kB, anon-rss:81920kB, file-rss:0kB, shmem-rss:0kB, UID:0 "
    "pgtables:200kB oom_score_adj:0"
)
LINUX_6_GROUP = (
    "Memory cgroup out of memory: Killed process 4243 (pt_data_worker) total-vm:9kB, anon-rss:1024kB, file-rss:0kB, shmem-rss:0kB, UID:0"
)
LINUX_4 = "Out of memory: Kill process 4244 (python) score 912 or sacrifice child"
LINUX_4_GROUP = "Memory cgroup out of memory: Kill process 4245 (python) score 1000 or sacrifice child"
LINUX_4_REAPED = "Killed process 4245 (python) total-vm:9kB, anon-rss:2048kB, file-rss:4kB, shmem-rss:0kB"
SYSRQ = "Out of memory (oom_kill_allocating_task): Killed process 9 (a b) total-vm:1kB"


@pytest.mark.parametrize(
    ("line", "kill"),
    [
        (LINUX_6, Kill(4242, "python3", False, 81920 * 1024)),
        (LINUX_6_GROUP, Kill(4243, "pt_data_worker", True, 1024 * 1024)),
        (LINUX_4, Kill(4244, "python", False, None)),
        (LINUX_4_GROUP, Kill(4245, "python", True, None)),
        (LINUX_4_REAPED, Kill(4245, "python", False, 2048 * 1024)),
        (SYSRQ, Kill(9, "a b", False, None)),
        ("oom_reaper: reaped process 4242 (python3), now anon-rss:0kB", None),
        ("EXT4-fs (vda): mounted filesystem", None),
        ("", None),
    ],
)
def test_a_kill_is_read_in_the_words_of_each_kernel(line, kill):
    """Process, name, whether a control group's limit was the reason, and how big it was."""
    assert parse_kill(line) == kill


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", ("0000:3b:00", 79)),
        ("NVRM: Xid (PCI:0000:AF:00): 31, pid=2311, Ch 00000010, MMU Fault", ("0000:af:00", 31)),
        ("NVRM: Xid (0000:03:00): 13, Graphics Exception", ("0000:03:00", 13)),
        ("NVRM: loading NVIDIA UNIX x86_64 Kernel Module", None),
    ],
)
def test_a_gpu_fault_is_read_with_its_bus_and_number(line, fault):
    """As the driver writes it, also the older one."""
    assert parse_xid(line) == fault


def test_only_kills_and_faults_are_passed_on():
    """The log may hold what is nobody's business."""
    assert interesting([LINUX_6, "audit: secret", "NVRM: Xid (PCI:0000:3b:00): 79, x"]) == [LINUX_6, "NVRM: Xid (PCI:0000:3b:00): 79, x"]


def test_records_are_followed_from_now_on(tmp_path):
    """What stood there before is not news; continuation lines and a record without text do no harm."""
    log = tmp_path / "kmsg"
    log.write_text("6,1,100,-;old\n")
    kernel = KernelLog(log)
    with log.open("a") as file:
        file.write(f"3,2,200,-;{LINUX_6}\n SUBSYSTEM=memory\n")
    assert kernel.new() == [LINUX_6]
    assert kernel.new() == []
    kernel.close()


def test_a_log_that_may_not_be_read_is_unknown(tmp_path):
    """Containers have none, and kernel.dmesg_restrict closes it to others than root."""
    with pytest.raises(UnknownError, match="No such file"):
        KernelLog(tmp_path / "kmsg")


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="/dev/kmsg can't be read here")
def test_the_log_of_this_machine_can_be_followed():
    """Without waiting for a message."""
    try:
        kernel = KernelLog()
    except UnknownError as error:
        pytest.skip(str(error))
    assert isinstance(kernel.new(), list)
    kernel.close()
