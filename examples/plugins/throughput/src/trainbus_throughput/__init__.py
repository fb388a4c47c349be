"""A plugin for trainbus; the entry point in pyproject.toml names it."""

from trainbus_throughput.plugin import Throughput

__all__ = ["Throughput"]
