"""The pages of the three plugins say what their schemas say."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from trainbus.plugins.anomaly.config import AnomalyConfig, RuleConfig, RulesConfig, SnapshotConfig
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.retention.config import RetentionConfig

DOCS = Path(__file__).parents[2] / "docs" / "plugins"
PAGES = {"anomaly": AnomalyConfig, "retention": RetentionConfig, "memory": MemoryConfig}


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


@pytest.mark.parametrize(("name", "schema"), [("retention", RetentionConfig), ("memory", MemoryConfig), ("anomaly", SnapshotConfig)])
def test_every_key_is_documented_with_its_default(name, schema):
    """Lists of tables are described in words."""
    documented = rows(name)
    for key, default in msgspec.to_builtins(schema()).items():
        assert key in documented
        if key != "keep_best":
            assert documented[key].strip("`") in (
                msgspec.json.encode(default).decode(),
                f"{default:g}" if isinstance(default, float) else "",
            )


@pytest.mark.parametrize("rule", RulesConfig.__struct_fields__)
def test_every_rule_is_documented_with_its_own_parameters(rule):
    """Name and default as they would be written."""
    (line,) = [line for line in page("anomaly").splitlines() if line.startswith(f"| `{rule}` |")]
    config = getattr(RulesConfig(), rule)
    for key, default in msgspec.to_builtins(config).items():
        if key not in RuleConfig.__struct_fields__ or key in ("metrics", "severity"):
            written = msgspec.json.format(msgspec.json.encode(default), indent=0).decode()
            assert f"`{key} = {written}`" in line
