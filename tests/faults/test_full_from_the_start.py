"""`trainbus up` where there is no room from the start: the reason is said, also when nobody watches and the log can't be written."""

import pytest

from tests.broker.broker_process import fill, small_disk
from tests.support import trainbus


@pytest.mark.parametrize("arguments", [["--detach"], []], ids=["detached", "foreground"])
def test_up_on_a_full_disk_says_so_and_leaves_nothing_running(tmp_path, monkeypatch, arguments):
    """Exit code 5, as for every journal that can't be written; with room again it starts."""
    with small_disk(tmp_path / "small", 24) as folder:
        (folder / "home").mkdir(mode=0o700)
        monkeypatch.setenv("TRAINBUS_HOME", str(folder / "home"))
        fill(folder / "ballast")
        found = trainbus("up", "--plugins", "", *arguments)
        assert found.returncode == 5, found.stderr
        assert "full" in found.stderr
        assert "space" in found.stderr
        (folder / "ballast").unlink()
        again = trainbus("up", "--plugins", "", "--detach")
        assert (again.returncode, trainbus("down").returncode) == (0, 0), again.stderr
