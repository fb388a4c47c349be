"""Somebody else's machine, made once, and real systems that are stopped at the end."""

from __future__ import annotations

import pytest

from tests.authors.stranger import Stranger
from tests.hosting.conftest import site as site


@pytest.fixture(scope="session")
def stranger(tmp_path_factory, repository):
    """An environment into which trainbus was installed with pip."""
    return Stranger(tmp_path_factory.mktemp("stranger"), repository)
