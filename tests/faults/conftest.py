"""A storm for each test: a home, two recording plugins to choose from, and nothing left behind."""

from __future__ import annotations

import pytest

from tests.faults.storm import RECORDER, Storm
from tests.hosting.conftest import site as site


@pytest.fixture
def storm(site, trainbus_home, tmp_path, monkeypatch):
    """Not started yet; the plugins `alpha` and `beta` record what they are given."""
    seen = tmp_path / "seen"
    seen.mkdir()
    monkeypatch.setenv("SEEN", str(seen))
    for name in ("alpha", "beta"):
        site.install(name, RECORDER)
    made = Storm(trainbus_home, tmp_path)
    yield made
    made.close()
