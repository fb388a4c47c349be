"""Which engine a configuration names."""

from __future__ import annotations

from trainbus.plugins.inference.config import InferenceConfig
from trainbus.plugins.inference.engines.base import Engine
from trainbus.plugins.inference.engines.openai import OpenAIEngine
from trainbus.plugins.inference.engines.trainbus import TrainbusEngine
from trainbus.plugins.inference.engines.transformers import TransformersEngine
from trainbus.plugins.inference.engines.vllm import VllmEngine
from trainbus.plugins.inference.http import Line

ENGINES: dict[str, type[OpenAIEngine]] = {
    "openai": OpenAIEngine,
    "vllm": VllmEngine,
    "transformers": TransformersEngine,
    "trainbus": TrainbusEngine,
}


def make_engine(config: InferenceConfig, line: Line) -> Engine:
    """The engine that ``config.engine`` names, on an open line."""
    return ENGINES[config.engine](config, line)
