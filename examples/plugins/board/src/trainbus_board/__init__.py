"""A plugin for trainbus; the entry point in pyproject.toml names it."""

from trainbus_board.plugin import Board

__all__ = ["Board"]
