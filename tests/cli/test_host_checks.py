"""What `trainbus doctor` finds on a host: recorded machines that are fit, full, limited, or tell nothing."""

from __future__ import annotations

import json
import resource

import pytest

from trainbus.cli import app, host_checks

MEMINFO = "MemTotal: 16000000 kB\nMemAvailable: {} kB\nSwapTotal: {} kB\nSwapFree: {} kB\n"


@pytest.fixture
def machine(tmp_path):
    """A /proc and a control group; ``set`` writes a file of it."""
    proc, group = tmp_path / "proc", tmp_path / "group"
    for folder in (proc / "self", proc / "pressure", group):
        folder.mkdir(parents=True)

    class Machine:
        def __init__(self):
            self.proc, self.group = proc, group
            self.set("meminfo", MEMINFO.format(12_000_000, 0, 0))
            self.set("pressure/memory", "some avg10=0.00 avg60=0 avg300=0 total=0\nfull avg10=0.00 avg60=0 avg300=0 total=0\n")
            self.set("loadavg", "0.1 0.1 0.1 1/2 3\n")
            self.set("vmstat", "pswpin 0\npswpout 0\noom_kill 0\n")
            self.set("self/mountinfo", f"29 23 0:26 / {group} rw - cgroup2 cgroup2 rw\n")
            self.set("self/cgroup", "0::/\n")

        def set(self, name, text):
            (self.proc / name).write_text(text)

        def limit(self, limit, used):
            (self.group / "memory.max").write_text(str(limit))
            (self.group / "memory.current").write_text(str(used))
            (self.group / "memory.stat").write_text("inactive_file 0\n")

        def states(self):
            return {finding.check: finding for finding in host_checks.host(self.proc)}

    return Machine()


def test_a_fit_machine_is_all_right(machine):
    """And says what it has."""
    found = machine.states()
    assert len(found) == 8
    assert found["memory"].found == "11.4 of 15.3 GiB available, no swap"
    for check in ("memory", "memory limit", "memory pressure", "load", "past kills"):
        assert (found[check].state, found[check].mend) == ("ok", "")


def test_all_faults_of_a_broken_machine_are_told_at_once_each_with_its_cure(machine):
    """Nobody wants to run it once for each."""
    machine.set("meminfo", MEMINFO.format(100_000, 8_000_000, 0))
    machine.set("pressure/memory", "some avg10=90.00 total=0\nfull avg10=55.00 total=0\n")
    machine.set("loadavg", "900 900 900 1/2 3\n")
    machine.set("vmstat", "pswpin 0\npswpout 0\noom_kill 4\n")
    machine.limit(1 << 30, int(0.9 * (1 << 30)))
    found = machine.states()
    expected = {"memory": "fail", "memory limit": "warn", "memory pressure": "warn", "load": "warn", "past kills": "warn"}
    assert {check: found[check].state for check in expected} == expected
    assert all(found[check].mend for check in expected)
    assert "4 processes" in found["past kills"].found


def test_what_cannot_be_read_is_a_warning_with_its_reason_and_not_all_right(machine):
    """No pressure, no counters, no control group."""
    machine.set("pressure/memory", "")
    machine.set("vmstat", "pswpin 0\npswpout 0\n")
    machine.set("self/mountinfo", "")
    machine.set("meminfo", "")
    found = machine.states()
    for check in ("memory", "memory limit", "memory pressure", "past kills"):
        assert found[check].state == "warn"
        assert found[check].mend
    assert "psi=1" in found["memory pressure"].mend


def test_a_small_shared_memory_and_few_open_files_are_told_before_workers_fail(tmp_path, monkeypatch):
    """With the command that raises them."""
    monkeypatch.setattr(host_checks, "SHM_WARN_BYTES", 1 << 60)
    assert "--shm-size" in host_checks.shared(tmp_path).mend
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1_024, 4_096))
    assert (host_checks.files().state, host_checks.files().mend) == ("warn", "ulimit -n 4096")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert host_checks.files().found == "unlimited (at most unlimited)"


def test_doctor_shows_the_host_and_fails_with_it(monkeypatch, machine, capsys):
    """Exit code 1 when something fails, and every finding is there."""
    machine.set("meminfo", MEMINFO.format(100, 0, 0))
    whole = host_checks.host
    monkeypatch.setattr(host_checks, "host", lambda: whole(machine.proc))
    assert app.run(["doctor", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    states = {finding["check"]: finding["state"] for finding in document["findings"]}
    assert states["memory"] == "fail"
    assert len(states) >= 18
