"""Write the parts of the chart that follow from others: `make chart`.

- of Chart.yaml `version` and `appVersion`, from pyproject.toml
- of values.schema.json `settings`, from ndoo.config.Settings
- the tables of the chart's README.md, from values.yaml and ndoo.config.Settings
- tests/golden/chart/*.yaml, which is what helm/examples/values-*.yaml render to
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ndoo.config import Settings

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "ndoo"
EXAMPLES = ROOT / "helm" / "examples"
GOLDEN = ROOT / "tests" / "golden" / "chart"

PLACED = {
    "NDOO_AUDIT", "NDOO_AUDIT_BYTES_MAX", "NDOO_AUDIT_REQUIRED",
    "NDOO_BUDGETS", "NDOO_BUDGETS_FAIL_OPEN", "NDOO_CLIENTS",
    "NDOO_FEED", "NDOO_HEALTH_LISTEN", "NDOO_HTTP_LISTEN", "NDOO_LISTEN",
    "NDOO_PLAINTEXT", "NDOO_SNAPSHOT_PUBLIC_KEY", "NDOO_STATE_DIR", "NDOO_TLS_CERTIFICATE",
    "NDOO_TLS_CLIENT_CA", "NDOO_TLS_KEY", "NDOO_TRACES",
}  # fmt: skip
"""Settings that need a port, a volume or a secret, so they have a value of their own."""

_VERSION = re.compile(r"(?<=^version: ).*$", re.MULTILINE)
_APP_VERSION = re.compile(r"(?<=^appVersion: ).*$", re.MULTILINE)
_KEY = re.compile(r"( *)([A-Za-z]\w*):")
_TOLD = re.compile(r" *# (?:-- )?(.*)")
_HIDDEN = {"dashboard.yaml", "prometheusrule.yaml"}
"""Templates that hold a file of ops as it is."""

Field = dataclasses.Field[Any]


def main() -> None:
    for path, text in generated().items():
        path.write_text(text, "utf-8")
    GOLDEN.mkdir(parents=True, exist_ok=True)
    helm = subprocess.run(
        [ROOT / "scripts" / "helm"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    for example in sorted(EXAMPLES.glob("values-*.yaml")):
        ran = subprocess.run(
            [helm, "template", "ndoo", CHART, "--namespace", "checks", "--values", example],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        if ran.returncode:
            sys.exit(ran.stderr)
        golden_of(example).write_text(golden(ran.stdout), "utf-8")


def generated() -> dict[Path, str]:
    """What the files that are generated, or have a part that is, are to hold."""
    chart, schema, readme = (
        CHART / name for name in ("Chart.yaml", "values.schema.json", "README.md")
    )
    return {
        chart: _versions(chart.read_text("utf-8")),
        schema: _schema(schema.read_text("utf-8")),
        readme: _tables(readme.read_text("utf-8")),
    }


def golden_of(example: Path) -> Path:
    return GOLDEN / example.name.removeprefix("values-")


def golden(rendered: str) -> str:
    """*rendered*, but files of ops are named only: a test compares them with their source."""
    documents = rendered.split("---\n# Source: ")
    kept = [
        document.splitlines(keepends=True)[0] if _template(document) in _HIDDEN else document
        for document in documents
    ]
    return "---\n# Source: ".join(kept)


def _template(document: str) -> str:
    return document.partition("\n")[0].rpartition("/")[2]


def _versions(text: str) -> str:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    return _APP_VERSION.sub(f'"{version}"', _VERSION.sub(version, text))


def value_name(setting: Field) -> str:
    """NDOO_STALENESS_MAX_S is stalenessMaxS below `settings`."""
    first, *others = setting.metadata["env"].removeprefix("NDOO_").lower().split("_")
    return "".join([first, *map(str.capitalize, others)])


def tunables() -> list[Field]:
    """The settings that are given below `settings`."""
    return [each for each in dataclasses.fields(Settings) if each.metadata["env"] not in PLACED]


def _schema(text: str) -> str:
    schema = json.loads(text)
    settings = schema["properties"]["settings"]
    settings["type"], settings["additionalProperties"] = "object", False
    settings["properties"] = {value_name(each): _property(each) for each in tunables()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _property(setting: Field) -> dict[str, Any]:
    told = {"description": setting.metadata["help"]}
    bounds = setting.metadata
    if setting.type == "bool":
        return {**told, "type": "boolean"}
    if setting.type != "str":
        kind = "integer" if setting.type == "int" else "number"
        return {**told, "type": kind, "minimum": bounds["low"], "maximum": bounds["high"]}
    if re.fullmatch(r"[a-z|]+", bounds["pattern"]):
        return {**told, "type": "string", "enum": bounds["pattern"].split("|")}
    return {**told, "type": "string", "pattern": f"^{bounds['pattern']}$"}


def _tables(text: str) -> str:
    values = [(f"`{path}`", f"`{shown}`", told) for path, shown, told in documented()]
    settings = [
        (f"`settings.{value_name(each)}`", f"`{_plain(each.default)}`", each.metadata["help"])
        for each in tunables()
    ]
    text = _between(text, "values", _table("value", values))
    return _between(text, "settings", _table("setting", settings))


def _table(what: str, rows: list[tuple[str, str, str]]) -> str:
    lines = [(what, "default", "what it is"), ("---", "---", "---"), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _between(text: str, name: str, table: str) -> str:
    place = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
    return place.sub(lambda _: table, text, count=1)


def _plain(value: Any) -> str:
    """As one writes it in YAML."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def documented() -> Iterator[tuple[str, str, str]]:
    """Each value of values.yaml that a comment `# -- ...` stands above: path, default, comment."""
    text = (CHART / "values.yaml").read_text("utf-8")
    defaults = yaml.safe_load(text)
    path: list[str] = []
    told: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("# -- ") or (told and line.lstrip().startswith("# ")):
            told.append(_TOLD.fullmatch(line)[1])
            continue
        if key := _KEY.match(line):
            path[len(key[1]) // 2 :] = [key[2]]
            if told:
                yield ".".join(path), _plain(_default(defaults, path)), " ".join(told)
        told = []


def _default(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


if __name__ == "__main__":
    main()
