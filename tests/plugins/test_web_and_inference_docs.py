import re
from pathlib import Path

import msgspec
import pytest

from trainbus.plugins.inference.config import InferenceConfig
from trainbus.plugins.web.config import WebConfig
from trainbus.plugins.web.routes import ROUTES

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
    page = (DOCS / "web.md").read_text()
    assert [route.path for route in ROUTES if f"`{route.method} {route.path}" not in page] == []
    assert [name for route in ROUTES for name, _ in route.query if f"`{name}`" not in page and f"{name}=" not in page] == []
