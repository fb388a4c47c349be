import re
from pathlib import Path

import msgspec
import pytest

from trainbus.plugins.inference.config import InferenceConfig
from trainbus.plugins.web.config import WebConfig

DOCS = Path(__file__).parents[2] / "docs" / "plugins"


@pytest.mark.parametrize(("page", "schema"), [("web.md", WebConfig), ("inference.md", InferenceConfig)])
def test_the_table_of_settings_is_what_the_schema_says(page, schema):
    """Every key with its default, and no other."""
    settings = (DOCS / page).read_text().partition("## Settings")[2].partition("\n## ")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", settings, flags=re.MULTILINE))
    actual = {}
    for field in msgspec.structs.fields(schema):
        default = field.default_factory() if field.default is msgspec.NODEFAULT and callable(field.default_factory) else field.default
        told = "required" if default is msgspec.NODEFAULT else "none" if default is None else msgspec.json.encode(default).decode()
        actual[field.name] = told
    assert documented == actual


def test_every_address_of_the_api_is_documented():
    """Nothing hidden."""
    server = (DOCS.parents[1] / "trainbus" / "plugins" / "web" / "server.py").read_text()
    routes = [route for route in re.findall(r'web\.get\("([^"]+)"', server) if "path:" not in route]
    page = (DOCS / "web.md").read_text()
    assert len(routes) == 6
    assert [route for route in routes if f"`GET {route}" not in page] == []
