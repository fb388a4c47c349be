"""The harness takes and refuses what a plugin host takes and refuses."""

from typing import Annotated

import msgspec
import pytest

from trainbus import hookimpl
from trainbus.bus.events import Step
from trainbus.errors import ConfigError, PluginError
from trainbus.testing import MemoryContext, PluginHarness


class Settings(msgspec.Struct):
    limit: Annotated[int, msgspec.Meta(ge=1)] = 3


class Plain:
    @hookimpl
    def config_schema(self):
        return Settings

    @hookimpl
    def on_step(self, event, context):
        context.state["limit"] = context.config.limit


def test_a_class_or_an_instance_may_be_given_and_settings_are_typed():
    """Defaults hold where nothing is set."""
    for plugin in (Plain, Plain()):
        harness = PluginHarness(plugin, config={"limit": 5})
        harness.feed(Step(run="r", step=1))
        assert harness.context.state == {"limit": 5}
    assert PluginHarness(Plain).context.config == Settings()


def test_a_second_harness_on_the_same_context_is_a_restart():
    """State and history stay; settings may have changed."""
    context = MemoryContext()
    PluginHarness(Plain, context=context).feed(Step(run="r", step=1))
    PluginHarness(Plain, context=context, config={"limit": 7}).feed(Step(run="r", step=2))
    assert context.state == {"limit": 7}
    assert [event.offset for event in context.history] == [0, 1]


@pytest.mark.parametrize("config", [{"limt": 5}, {"limit": 0}, {"limit": "many"}])
def test_settings_that_a_host_refuses_are_refused(config):
    """With the sentence that `trainbus up` would print."""
    with pytest.raises(ConfigError, match=r"plugin\.mine\.lim"):
        PluginHarness(Plain, config=config, name="mine")


def test_hooks_that_a_host_refuses_are_refused():
    """A misspelt name or argument, no hooks, another HOOK_API."""

    class Misspelt:
        @hookimpl
        def on_setp(self, event):
            pass

    class Argument:
        @hookimpl
        def on_step(self, evnt):
            pass

    class Later:
        hook_api = 2

        @hookimpl
        def on_step(self):
            pass

    for plugin, words in ((Misspelt, "on_setp"), (Argument, "evnt"), (Later, "HOOK_API 2"), (object, "implements no hook")):
        with pytest.raises(PluginError, match=words):
            PluginHarness(plugin)
