"""Who installs the chart by docs/install.md has every Secret that it mounts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.certificates import Authority
from support.chart import EXAMPLES, Chart, Manifests, kubectl, read
from support.commands import Command, commands

PAGE = [each for each in commands() if each.page == "docs/install.md" and each.in_block]
CREATED = [each for each in PAGE if each.words[:2] == ["kubectl", "create"]]
MADE_BY_CERT_MANAGER = "ndoo-tls"

Files = dict[tuple[str, str], set[str]]
"""The entries of each Secret and ConfigMap, by kind and name."""


@pytest.fixture(scope="module")
def created(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What the page's commands create, in its order."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "secrets").mkdir()
    for user in ("reader", "writer", "loader"):
        (folder / "secrets" / user).touch()
    found: Files = {}
    for command in CREATED:
        _bring_files(folder, command)
        for each in read(kubectl(*command.words[1:], folder=folder)):
            entries = {*(each.get("data") or {}), *(each.get("binaryData") or {})}
            assert found.setdefault((each["kind"], each["metadata"]["name"]), entries) == entries
    return found


def _bring_files(folder: Path, command: Command) -> None:
    """Those that a command names: a pair of certificate and key where it looks into them."""
    if "tls" in command.words:
        issued = Authority(folder).issue("issued")
        for flag, path in (("--cert=", issued.cert), ("--key=", issued.key)):
            (name,) = (word for word in command.words if word.startswith(flag))
            shutil.copy(path, folder / name.removeprefix(flag))
    for name in re.findall(r"secrets/[\w.-]+", command.text):
        (folder / name).touch()


def _mounted(manifests: Manifests) -> Iterator[tuple[str, str, set[str]]]:
    """Kind, name and needed entries of each Secret and ConfigMap that some pod mounts."""
    for pod in manifests.pods():
        for _, volume in pod.mounts().values():
            for source in (volume, *volume.get("projected", {}).get("sources", ())):
                for kind, name in (("secret", "Secret"), ("configMap", "ConfigMap")):
                    if kind in source:
                        shown = source[kind]
                        entries = {item["key"] for item in shown.get("items", ())}
                        yield name, shown.get("secretName") or shown["name"], entries


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("values-*.yaml")), ids=lambda it: it.stem)
def test_every_secret_that_an_example_mounts_was_created(
    chart: Chart, created: Files, example: Path
) -> None:
    name = example.stem.partition("-")[2]
    made = {MADE_BY_CERT_MANAGER} if name == "production" else set()
    needed = [each for each in _mounted(chart.example(name)) if each[1] not in made]
    assert len(needed) >= 1
    for kind, secret, entries in needed:
        assert entries <= created[kind, secret], f"{kind} {secret}"


def test_every_secret_that_is_created_is_mounted(chart: Chart, created: Files) -> None:
    names = [path.stem.partition("-")[2] for path in EXAMPLES.glob("values-*.yaml")]
    mounted = {(kind, name) for each in names for kind, name, _ in _mounted(chart.example(each))}
    mounted.add(("Namespace", "ndoo"))
    assert created.keys() <= mounted


def test_names_of_the_page_are_those_of_the_examples(chart: Chart) -> None:
    """What commands of the cluster name exists once the examples are installed."""
    named = {
        word for each in PAGE for word in each.words if re.match(r"(?:deployment|service)/", word)
    }
    valkey = read((EXAMPLES / "valkey.yaml").read_text("utf-8"))
    objects = [*chart.example("dev").objects, *valkey]
    there = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in objects}
    assert named
    assert named <= there
