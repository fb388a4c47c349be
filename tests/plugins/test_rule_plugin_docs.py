"""The pages of the rule plugins say what their schemas say."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from trainbus.plugins.anomaly.catalogue import RulesConfig
from trainbus.plugins.anomaly.config import ActionConfig, AnomalyConfig, FiguresConfig, SnapshotConfig
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.notify.config import ChannelConfig, NotifyConfig, RouteConfig
from trainbus.plugins.retention.config import RetentionConfig

DOCS = Path(__file__).parents[2] / "docs" / "plugins"
PAGES = {"anomaly": AnomalyConfig, "notify": NotifyConfig, "retention": RetentionConfig, "memory": MemoryConfig}


def page(name):
    return (DOCS / f"{name}.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_the_example_of_a_page_is_accepted_by_its_schema(name):
    """Whoever copies it has a working configuration."""
    (example,) = re.findall(r"```toml\n(.*?)```", page(name), re.DOTALL)
    content = tomllib.loads(example)
    assert content["plugins"] == [name]
    msgspec.convert(content["plugin"][name], PAGES[name])


def rows(name):
    """Default by key of the page's tables."""
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", page(name), re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "schema"), [("retention", RetentionConfig), ("memory", MemoryConfig), ("anomaly", SnapshotConfig), ("notify", NotifyConfig)]
)
def test_every_key_is_documented_with_its_default(name, schema):
    """Lists of tables are described in words."""
    documented = rows(name)
    for key, default in msgspec.to_builtins(schema()).items():
        assert key in documented
        if key not in ("keep_best", "channels", "routes"):
            assert documented[key].strip("`") in (
                msgspec.json.encode(default).decode(),
                f"{default:g}" if isinstance(default, float) else "",
            )


@pytest.mark.parametrize("rule", RulesConfig.__struct_fields__)
def test_every_rule_is_documented(rule):
    """In the generated table, whose currency another test checks."""
    (line,) = [line for line in page("anomaly").splitlines() if line.startswith(f"| `{rule}` |")]
    assert f'`severity = "{getattr(RulesConfig(), rule).severity}"`' in line


@pytest.mark.parametrize("schema", [ActionConfig, FiguresConfig, ChannelConfig, RouteConfig])
def test_every_key_of_tables_in_lists_is_documented(schema):
    """Actions, figures, channels and routes."""
    documented = rows("anomaly") | rows("notify")
    assert set(schema.__struct_fields__) <= set(documented)
