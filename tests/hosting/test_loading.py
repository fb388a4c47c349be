"""Every mistake of a plugin's author is one sentence that names the guilty function and the right one."""

import msgspec
import pytest

from trainbus import hookimpl
from trainbus.bus.hosting.loading import create, hook_mistakes, load
from trainbus.bus.hosting.registry import Installed, find
from trainbus.errors import ConfigError, PluginError


def refused(site, source, options=None):
    site.install("bad", source)
    with pytest.raises((PluginError, ConfigError)) as caught:
        load(find("bad"), options or {}, file="trainbus.toml")
    return caught.value


def test_a_class_a_module_and_an_instance_can_be_plugins(site):
    """Whatever the entry point names; a class is made an instance of."""
    hook = "class P:\n    @hookimpl\n    def on_step(self, event): pass\n"
    site.install("of_class", hook)
    site.install("of_instance", hook + "p = P()\n", attribute="p")
    assert load(find("of_class"), {}).hooks == ("on_step",)
    assert load(find("of_instance"), {}).hooks == ("on_step",)
    site.install("of_module", "@hookimpl\ndef on_eval(event): pass\n")
    assert load(Installed(name="of_module", target="site_plugin_of_module"), {}).hooks == ("on_eval",)


def test_only_the_kinds_of_the_hooks_are_subscribed_to(site):
    """on_event means all, and a plugin without event hooks subscribes to none."""
    site.install("some", "class P:\n    @hookimpl\n    def on_step(self): pass\n    @hookimpl\n    def on_alert(self): pass\n")
    site.install("all", "class P:\n    @hookimpl\n    def on_step(self): pass\n    @hookimpl\n    def on_event(self): pass\n")
    site.install("none", "class P:\n    @hookimpl\n    def every(self): pass\n")
    assert load(find("some"), {}).kinds == ("step", "alert")
    assert load(find("all"), {}).kinds == ()
    assert load(find("none"), {}).kinds is None


def test_a_misspelt_hook_is_refused_with_the_right_name_and_signature(site):
    """pluggy alone would pass over it silently until check_pending."""
    error = refused(site, "class P:\n    @hookimpl\n    def on_setp(self, event): pass\n")
    assert "there is no hook named 'on_setp'. Did you mean 'on_step'?" in error.problem
    assert "def on_step(self, event, context)" in error.hint


def test_an_unknown_argument_is_refused_with_the_right_name_and_signature(site):
    """The message names hook, argument and what it may ask for."""
    error = refused(site, "class P:\n    @hookimpl\n    def on_step(self, evnt, context): pass\n")
    assert "hook 'on_step' has no argument named 'evnt'. Did you mean 'event'?" in error.problem
    assert "def on_step(self, event, context)" in error.hint


def test_an_import_error_is_one_line_that_names_the_missing_module(site):
    """The cause is kept for the log."""
    error = refused(site, "import surely_not_installed\n")
    assert "can't be imported: ModuleNotFoundError" in error.problem
    assert "\n" not in error.problem
    assert "surely_not_installed" in error.hint
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_a_constructor_that_raises_and_a_wrong_entry_point_are_told_apart(site):
    """Each names what to look at."""
    assert "can't be created: ValueError: no" in refused(site, "class P:\n    def __init__(self): raise ValueError('no')\n").problem
    site.install("bad", "class Q: pass\n")
    with pytest.raises(PluginError, match="has no 'Missing'"):
        load(Installed(name="bad", target="json:Missing"), {})


def test_a_plugin_without_hooks_is_refused(site):
    """It would sit there and do nothing: most likely the marker was forgotten."""
    error = refused(site, "class P:\n    def on_step(self, event): pass\n")
    assert "implements no hook" in error.problem
    assert "@trainbus.hookimpl" in error.hint


def test_another_hook_api_is_refused(site):
    """A plugin may state the HOOK_API that it was written for."""
    error = refused(site, "class P:\n    hook_api = 2\n    @hookimpl\n    def on_step(self): pass\n")
    assert "HOOK_API 2; this trainbus speaks 1" in error.problem
    assert "newer trainbus" in error.hint


SCHEMA = """
class Config(msgspec.Struct, kw_only=True):
    window: int = 50
    rules: list[str] = []

class P:
    @hookimpl
    def config_schema(self): return Config
    @hookimpl
    def on_step(self): pass
"""


def test_config_is_validated_against_the_plugins_schema(site):
    """The context gets an instance with defaults filled in."""
    site.install("good", SCHEMA)
    config = load(find("good"), {"window": 7}).config
    assert (config.window, config.rules) == (7, [])


@pytest.mark.parametrize(
    ("options", "words"),
    [({"windw": 7}, ["plugin.bad.windw", "`plugin.bad.window`"]), ({"window": "7"}, ["plugin.bad.window", '"7"', "must be"])],
)
def test_bad_config_names_the_key_and_what_is_allowed(site, options, words):
    """Unknown keys are refused even where the Struct would pass over them; nothing is converted from text."""
    error = refused(site, SCHEMA, options)
    assert all(word in f"{error.problem} {error.hint}" for word in [*words, "trainbus.toml"])


def test_settings_for_a_plugin_that_has_none_are_refused(site):
    """They would be passed over in silence otherwise."""
    error = refused(site, "class P:\n    @hookimpl\n    def on_step(self): pass\n", {"a": 1})
    assert "plugin.bad.a" in error.problem


def test_a_schema_that_is_no_struct_is_refused(site):
    """An instance instead of the class is the usual slip."""
    error = refused(site, SCHEMA.replace("return Config", "return Config()"))
    assert "no msgspec Struct class" in error.problem


def test_inherited_hooks_count():
    """Base classes with hooks are how families of plugins share code."""

    class Base:
        @hookimpl
        def on_step(self, event): ...

    class Mine(Base):
        @hookimpl
        def stop(self): ...

    from trainbus.bus.hosting.loading import Loaded

    assert Loaded(Installed(name="mine", target="x:Mine"), Mine(), {}).hooks == ("stop", "on_step")
    assert msgspec.__name__


def test_a_config_schema_that_raises_is_a_refusal(site):
    """One sentence with its place; the host does not die of it, and restarting it would not help."""
    error = refused(site, "class P:\n    @hookimpl\n    def config_schema(self): 1 / 0\n")
    assert "can't say its settings: ZeroDivisionError" in error.problem
    assert "site_plugin_bad.py" in error.problem


def test_all_mistakes_can_be_had_at_once(site):
    """For `trainbus plugins check`; loading stops at the first."""
    source = "class P:\n    @hookimpl\n    def on_setp(self): pass\n    @hookimpl\n    def on_eval(self, evnt, contxt): pass\n"
    site.install("several", source)
    plugin = find("several")
    assert [mistake.facts["found"] for mistake in hook_mistakes(plugin, create(plugin))] == ["evnt", "contxt", "on_setp"]
