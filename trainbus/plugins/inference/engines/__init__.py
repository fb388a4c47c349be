"""Servers that can be asked about a checkpoint, behind one interface."""

from trainbus.plugins.inference.engines.base import Answer, Engine, Likelihood
from trainbus.plugins.inference.engines.choice import make_engine

__all__ = ["Answer", "Engine", "Likelihood", "make_engine"]
