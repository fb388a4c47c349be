"""A plugin for trainbus; the entry point in pyproject.toml names it."""

from trainbus_glance.plugin import Glance

__all__ = ["Glance"]
