"""Where the server finds a checkpoint."""

from __future__ import annotations

import pytest

from trainbus.plugins.inference.travel import mapped


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/home/me/runs/a/checkpoint-1", "/mnt/runs/a/checkpoint-1"),
        ("/home/me/runs", "/mnt/runs"),
        ("/home/me/runs-old/a", "/home/me/runs-old/a"),
        ("/home/me/runs/big/b/checkpoint-1", "/big/b/checkpoint-1"),
        ("/tmp/x", "/tmp/x"),
    ],
)
def test_the_longest_prefix_that_fits_is_replaced(path, there):
    """Whole parts of a path fit, not beginnings of names."""
    assert mapped(path, {"/home/me/runs": "/mnt/runs", "/home/me/runs/big/": "/big"}) == there
