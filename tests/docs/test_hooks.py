"""Every hook says what an author must know, in the code and on the page."""

import inspect
import re

from trainbus import hookspecs
from trainbus.bus.hosting.loading import SPECS
from trainbus.hookspecs import Hooks

PROMISES = ("Called", "Raising", "Replay")


def shortcomings(hooks, page):
    """What a class of hook specifications, or the page about it, leaves out."""
    found = []
    for name in (name for name in vars(hooks) if not name.startswith("_")):
        document = inspect.getdoc(vars(hooks)[name]) or ""
        section = page.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        if not re.match(r"\S.+\.", document.partition("\n")[0]):
            found.append(f"{name}: no first sentence")
        if f"def {name}{inspect.signature(vars(hooks)[name])}" not in section:
            found.append(f"{name}: the page has not its signature")
        for promise in PROMISES:
            said = next((part for part in document.split("\n- ") if part.startswith(f"{promise}: ")), "").strip()
            if not re.search(r": \S.{10,}\.$", said, re.DOTALL):
                found.append(f"{name}: {promise} is not said")
            elif f"- {said}".replace("``", "`") not in section:
                found.append(f"{name}: {promise} is not on the page")
    return found


def page(repository):
    return (repository / "docs" / "plugins.md").read_text()


def test_every_hook_says_when_it_is_called_what_raising_does_and_what_replay_means(repository):
    """With its exact signature, in the docstring and in docs/plugins.md."""
    assert len(SPECS) > 15
    assert shortcomings(Hooks, page(repository)) == []


def test_a_hook_that_leaves_something_out_is_noticed(repository):
    """The test above can fail, for each reason."""

    class Lacking:
        def on_step(self, event):
            """An optimizer step.

            - Called: For each step.
            - Replay: Never.
            """

        def on_comet(self, event):
            """ """

    found = shortcomings(Lacking, page(repository))
    assert "on_step: the page has not its signature" in found
    assert "on_step: Raising is not said" in found
    assert "on_step: Called is not on the page" in found
    assert {"on_comet: no first sentence", "on_comet: Called is not said"} <= set(found)


def test_the_promise_of_hook_api_is_written_down(repository):
    """Which changes raise it, for how long the one before is understood, and what a plugin states."""
    promise = page(repository).partition("\n## What HOOK_API promises\n")[2].partition("\n## ")[0]
    assert f"now {hookspecs.HOOK_API}" in promise
    for words in ("hook_api =", "new hook", "removed", "Deprecat", "meaning"):
        assert words in promise, words
