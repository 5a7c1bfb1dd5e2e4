"""What the schema lets through renders to what Kubernetes and the server take, or is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, note, settings
from hypothesis.strategies import SearchStrategy

from core.settings import CORE
from ndoo.config import Settings
from support import kubernetes
from support.chart import ROOT, Chart, HelmRefused, Manifests, at, merged
from support.chart_values import COMBINATIONS, EVERYTHING, LEAST

SCHEMA = json.loads((ROOT / "helm" / "ndoo" / "values.schema.json").read_text("utf-8"))
SENTENCE = re.compile(r"execution error at \(ndoo/templates/\S+\): [A-Z\w].*\.\n")
EXAMPLES_MAX = 60
NEWEST = kubernetes.VERSIONS[-1]

TRAPS = (
    "on", "null", "true", "~", "123", "1e3", "0x1f", "0o17", "1_000", "1.5", "2026-11-22", "y", "-",
    "- a", "a: b", "a #b", "{{ .Release.Name }}", "%s", "'", '"', "\\", "*", "&a", "!!str", "é",
    "a\nb: c", " ", "x" * 63, "00", "=",
)  # fmt: skip
"""Texts that YAML, or a template, takes for something else unless they are quoted."""


def leaves(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every value that the schema describes as no map of known keys, with its schema."""
    if reference := schema.get("$ref"):
        schema = SCHEMA["definitions"][reference.rpartition("/")[2]]
    if "properties" not in schema:
        yield path, schema
    for name, value in schema.get("properties", {}).items():
        yield from leaves(value, f"{path}.{name}".removeprefix("."))


def values(schema: Mapping[str, Any]) -> SearchStrategy[Any]:
    """What the schema takes."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(values, schema["anyOf"]))
    strategies = {
        "boolean": st.booleans(), "string": texts(schema), "array": st.just([]),
        "integer": whole_numbers(schema), "number": numbers(schema), "object": maps(schema),
    }  # fmt: skip
    return strategies[schema["type"]]


def whole_numbers(schema: Mapping[str, Any]) -> SearchStrategy[int]:
    low = math.ceil(schema.get("minimum", 1))  # without one, zero is excluded
    return st.integers(low, int(schema.get("maximum", 10**6)))


def numbers(schema: Mapping[str, Any]) -> SearchStrategy[float]:
    low = schema.get("minimum", 0.5)
    return whole_numbers(schema) | st.floats(low, schema.get("maximum", 1e6))


def maps(schema: Mapping[str, Any]) -> SearchStrategy[Mapping[str, str]]:
    """Labels and annotations; what has a structure of its own stays empty."""
    any_name = {"^[a-z]{1,8}$": schema.get("additionalProperties")}
    ((pattern, value),) = schema.get("patternProperties", any_name).items()
    if not isinstance(value, Mapping):
        return st.just({})
    names = st.from_regex(pattern, fullmatch=True).filter(str.isascii)
    return st.dictionaries(names, texts(value), max_size=2)


def texts(schema: Mapping[str, Any]) -> SearchStrategy[str]:
    pattern = schema.get("pattern", "(?s).*").removeprefix("^").removesuffix("$")
    traps = [
        trap
        for trap in TRAPS
        if re.fullmatch(pattern, trap)
        and schema.get("minLength", 0) <= len(trap) <= schema.get("maxLength", 63)
    ]
    drawn = st.from_regex(pattern, fullmatch=True).filter(str.isascii).filter(str.isprintable)
    fits = drawn.filter(lambda text: schema.get("minLength", 0) <= len(text) <= 63)
    return st.sampled_from(traps) | fits if traps else fits


OTHERS = ("audit.volume", "extraObjects", "global")
"""What is Kubernetes' own to describe."""

LEAVES = [(path, schema) for path, schema in leaves(SCHEMA) if not path.startswith(OTHERS)]


@st.composite
def changes(draw: st.DrawFn) -> Mapping[str, Any]:
    chosen = draw(st.lists(st.sampled_from(LEAVES), min_size=1, max_size=6))
    return merged(*(at(path, draw(values(schema), label=path)) for path, schema in chosen))


@given(base=st.sampled_from(["everything", *COMBINATIONS]), change=changes())
@settings(CORE, max_examples=EXAMPLES_MAX, suppress_health_check=list(HealthCheck))
def test_what_is_let_through_can_be_installed(
    chart: Chart, base: str, change: Mapping[str, Any]
) -> None:
    ground = EVERYTHING if base == "everything" else merged(LEAST, COMBINATIONS[base])
    try:
        manifests = chart.render(merged(ground, change))
    except HelmRefused as refusal:
        note(str(refusal))
        assert SENTENCE.search(str(refusal))  # noqa: PT017
    else:
        _installs(manifests)


def _installs(manifests: Manifests) -> None:
    assert [fault for each in manifests.objects for fault in kubernetes.faults(each, NEWEST)] == []
    for pod in manifests.pods():
        Settings.from_env(manifests.environment(pod))
