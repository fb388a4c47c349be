"""Servers to ask."""

from __future__ import annotations

import pytest

from tests.inferring.stand_in import serving


@pytest.fixture
def stand_in():
    """A server that answers well and badly."""
    with serving() as server:
        yield server
