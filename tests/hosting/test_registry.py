"""What is installed is read without running it."""

import sys

import pytest

from trainbus.bus.hosting.registry import development, find, installed
from trainbus.errors import PluginError


def test_an_installed_plugin_is_listed_with_its_distribution_and_version(site):
    """Name, target, distribution and version come from the package's metadata."""
    module = site.install("patience", "class P: pass")
    assert installed()["patience"].target == f"{module}:P"
    assert (installed()["patience"].distribution, installed()["patience"].version) == ("patience-dist", "1.2.3")


def test_listing_never_imports_plugin_code(site):
    """A plugin whose import would fail is listed all the same."""
    module = site.install("broken", "raise SystemExit('imported!')")
    assert "broken" in installed()
    assert module not in sys.modules


def test_an_unknown_name_is_answered_with_the_nearest_and_all_installed(site):
    """Somebody who types anomlay learns of anomaly."""
    site.install("patience", "class P: pass")
    with pytest.raises(PluginError, match=r"no plugin named 'patinece'. Did you mean 'patience'\?") as caught:
        find("patinece")
    assert "patience" in caught.value.hint
    assert caught.value.facts["found"] == "patinece"


def test_a_plugin_in_development_is_named_after_its_object():
    """No distribution is needed for trying one."""
    assert development("my.pkg:LossWatchPlugin").name == "losswatch"
    assert development("my.pkg:Plugin").name == "plugin"
    assert development("my.pkg:thing", "mine").name == "mine"


@pytest.mark.parametrize("target", ["no_object", "a b:c", ":x", "a:", "../x:y"])
def test_what_is_no_module_and_object_is_refused(target):
    """Paths and half targets are told apart from plugins."""
    with pytest.raises(PluginError, match="names no plugin"):
        development(target)


@pytest.mark.parametrize("name", ["broker", "..", "a b", "x" * 65])
def test_a_name_that_would_clash_or_lead_elsewhere_is_refused(site, name):
    """It is also the name of a directory and of a log."""
    with pytest.raises(PluginError, match="can't be named"):
        development("my.pkg:thing", name)
