"""The list of plugins in a file changes; everything else in it stays."""

import pytest

from trainbus.bus.hosting.enabled import disable, enable
from trainbus.errors import ConfigError

FILE = """\
# my plugins
plugins = [
    "anomaly",  # watches
    "web",
]

[bus]
lost_after = 30  # seconds
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "trainbus.toml"
    path.write_text(FILE)
    return path


def test_a_plugin_is_added_and_comments_stay(file):
    """And it is not added twice."""
    assert enable(file, "memory")
    text = file.read_text()
    assert '"memory"' in text
    assert all(comment in text for comment in ("# my plugins", "# watches", "# seconds"))
    assert not enable(file, "memory")


def test_a_plugin_is_taken_off_the_list(file):
    """Its section would stay."""
    assert disable(file, "web")
    assert "web" not in file.read_text()
    assert not disable(file, "web")


def test_a_file_without_a_list_gets_one_at_its_top(tmp_path):
    """After a section header it would belong to that section."""
    path = tmp_path / "trainbus.toml"
    path.write_text("# mine\n[bus]\nlost_after = 30\n")
    enable(path, "web")
    assert path.read_text() == 'plugins = ["web"]\n# mine\n[bus]\nlost_after = 30\n'


def test_a_broken_file_is_left_alone(tmp_path):
    """The error names it."""
    path = tmp_path / "trainbus.toml"
    path.write_text("plugins = [")
    with pytest.raises(ConfigError, match="can't be changed"):
        enable(path, "web")
    path.write_text('plugins = "web"')
    with pytest.raises(ConfigError, match="no list"):
        enable(path, "web")
