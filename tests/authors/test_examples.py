"""The example plugins work for somebody who installs them."""

from __future__ import annotations

import json
import shutil

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = ("throughput", "glance", "board")


@pytest.fixture(scope="module")
def examples(stranger, repository, tmp_path_factory):
    """All of them, installed with pip; the folder with their sources."""
    folder = tmp_path_factory.mktemp("examples") / "plugins"
    shutil.copytree(repository / "examples" / "plugins", folder)
    stranger.run("pip", "install", "--quiet", *(str(folder / name) for name in EXAMPLES))
    yield folder
    stranger.run("pip", "uninstall", "--quiet", "-y", *(f"trainbus-{name}" for name in EXAMPLES))


def test_the_examples_are_all_there_are(repository):
    """A new one must be tested here."""
    folders = {path.parent.name for path in (repository / "examples" / "plugins").glob("*/pyproject.toml")}
    assert folders == set(EXAMPLES)


@pytest.mark.timeout(500)
def test_the_examples_pass_their_own_tests(stranger, examples, tmp_path):
    """In one run; what needs tensorboard is skipped where that is missing."""
    folders = (str(examples / name) for name in EXAMPLES)
    result = stranger.run("pytest", "-q", "--import-mode=importlib", *folders, home=tmp_path, timeout=400.0)
    assert "passed" in result.stdout
    assert "failed" not in result.stdout


def test_the_examples_are_listed_with_their_hooks(stranger, examples, tmp_path):
    """As every installed plugin."""
    listed = {row["name"]: row for row in json.loads(stranger.run("trainbus", "plugins", "list", "--json", home=tmp_path).stdout)}
    assert listed["throughput"]["hooks"] == ["config_schema", "on_run_ended", "on_step"]
    assert "web_panels" in listed["glance"]["hooks"]
    assert listed["board"]["distribution"] == "trainbus-board"
