"""The chart as Helm renders it, and what is in it as Kubernetes would read it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "helm" / "examples"
WORKLOADS: Mapping[str, Callable[[Any], Any]] = {
    "Deployment": lambda spec: spec["template"],
    "StatefulSet": lambda spec: spec["template"],
    "CronJob": lambda spec: spec["jobTemplate"]["spec"]["template"],
}
"""Where each kind that starts pods keeps how they are made."""

_WAIT_S_MAX = 60.0


class HelmRefused(Exception):
    """Helm would not; says why in Helm's words."""


@cache
def executable() -> str:
    """The path of Helm; fetched if this machine has none."""
    return os.environ.get("HELM") or subprocess.run(
        [ROOT / "scripts" / "helm"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()  # fmt: skip


def helm(*arguments: str | Path, stdin: str | None = None) -> str:
    """What Helm writes. Raises HelmRefused. Reads and keeps nothing in the user's home."""
    ran = subprocess.run(
        [executable(), *arguments],
        input=stdin, capture_output=True, check=False, text=True, timeout=_WAIT_S_MAX,
        env={
            "PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/dev/null",
            "HELM_PLUGINS": "/nonexistent",
        },
    )  # fmt: skip
    if ran.returncode:
        raise HelmRefused(ran.stderr)
    return ran.stdout


def kubectl(*arguments: str, folder: Path) -> str:
    """What kubectl writes that asks no cluster: the one beside Helm, else that on the PATH."""
    beside = Path(executable()).with_name("kubectl")
    return subprocess.run(
        [beside if beside.exists() else "kubectl", *arguments, "--dry-run=client", "--output=yaml"],
        cwd=folder, check=True, stdout=subprocess.PIPE, text=True, timeout=_WAIT_S_MAX,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/dev/null"},
    ).stdout  # fmt: skip


class _Strict(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuses a key that is there twice, as the API server does; YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is there twice in line {node.start_mark.line}"
        return super().construct_mapping(node, deep)


def read(text: str) -> list[dict[str, Any]]:
    """The objects in *text*."""
    return [each for each in yaml.load_all(text, _Strict) if each]


@dataclass(frozen=True)
class Pod:
    """How the pods of one workload are made."""

    kind: str
    name: str
    template: Mapping[str, Any]

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.template["spec"]

    @property
    def labels(self) -> Mapping[str, str]:
        return self.template["metadata"]["labels"]

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def mounts(self) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """The mount and its volume, by path."""
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes", ())}
        return {
            mount["mountPath"]: (mount, volumes[mount["name"]])
            for container in self.containers
            for mount in container.get("volumeMounts", ())
        }

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Manifests:
    """What one rendering holds."""

    text: str

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        return read(self.text)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        (found,) = self.of(kind)
        return found

    def pods(self) -> list[Pod]:
        return [
            Pod(each["kind"], each["metadata"]["name"], WORKLOADS[each["kind"]](each["spec"]))
            for each in self.objects
            if each["kind"] in WORKLOADS
        ]

    @property
    def server(self) -> Pod:
        (found,) = (pod for pod in self.pods() if pod.kind == "Deployment")
        return found

    def environment(self, pod: Pod) -> dict[str, str]:
        """What the one container of *pod* has in its environment, as the kubelet would put it."""
        (container,) = pod.containers
        maps = {each["metadata"]["name"]: each.get("data", {}) for each in self.of("ConfigMap")}
        environment: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            environment |= maps[source["configMapRef"]["name"]]
        for variable in container.get("env", ()):
            environment[variable["name"]] = variable.get("value", "")
        return environment


@dataclass(frozen=True)
class Chart:
    """A chart, packaged or in a folder."""

    path: Path

    def render(
        self,
        values: Mapping[str, Any] | None = None,
        *files: Path,
        name: str = "ndoo",
        flags: tuple[str, ...] = (),
    ) -> Manifests:
        """With the values in *files*, and *values* on top. Raises HelmRefused."""
        chosen = [flag for file in files for flag in ("--values", str(file))]
        return Manifests(
            helm(
                "template", name, self.path, "--namespace", "checks", *chosen, "--values", "-",
                *flags, stdin=json.dumps(values or {}),
            )
        )  # fmt: skip

    def example(self, name: str) -> Manifests:
        """As with helm/examples/values-NAME.yaml."""
        return _rendered(self, name)


@cache
def _rendered(chart: Chart, name: str) -> Manifests:
    return chart.render(None, EXAMPLES / f"values-{name}.yaml")


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as Helm would lay each over those before it."""
    whole: dict[str, Any] = {}
    for each in values:
        for key, value in each.items():
            if isinstance(value, Mapping) and isinstance(whole.get(key), Mapping):
                whole[key] = merged(whole[key], value)
            else:
                whole[key] = value
    return whole


def at(path: str, value: Any) -> dict[str, Any]:
    """The values that hold *value* at *path*, as in `tls.secret`."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that is no map, with its path."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
