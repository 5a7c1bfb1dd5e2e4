"""What an API server would say to an object, by the schemas of several versions of Kubernetes.

Kinds that others add to a cluster have theirs below: only as much of each as the chart uses, so a
field that is misspelt, or that nobody has looked up, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from kubernetes_validate import utils
from referencing import Registry, Resource

VERSIONS = ("1.30", "1.32", "1.35", "1.37")

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
_DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w|y))+$"}


def _map(required: str = "", **fields: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": fields, "additionalProperties": False,
        "required": required.split(),
    }  # fmt: skip


def _list(of: Any) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


_RELABELING = _map(
    sourceLabels=_TEXTS, targetLabel=_TEXT, replacement={"type": "string"}, regex=_TEXT,
    action={"enum": ["replace", "keep", "drop", "labeldrop", "labelkeep", "labelmap"]},
)  # fmt: skip
_RULE = _map(
    "expr", alert=_TEXT, record=_TEXT, expr=_TEXT, labels=_LABELS, annotations=_LABELS,
    keep_firing_for=_DURATION, **{"for": _DURATION},
)  # fmt: skip
_PARENT = _map(
    "name", group=_TEXT, kind=_TEXT, name=_TEXT, namespace=_TEXT, sectionName=_TEXT,
    port={"type": "integer"},
)  # fmt: skip
_BACKEND = _map("name port", name=_TEXT, port={"type": "integer"}, weight={"type": "integer"})
_METHOD = _map(method=_map(service=_TEXT, method=_TEXT, type={"enum": ["Exact"]}))

ADDED: Mapping[tuple[str, str], Any] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _map(
        "endpoints selector",
        endpoints=_list(_map(
            "port", port=_TEXT, path=_TEXT, interval=_DURATION, scrapeTimeout=_DURATION,
            scheme={"enum": ["http", "https"]}, relabelings=_list(_RELABELING),
            metricRelabelings=_list(_RELABELING), honorLabels={"type": "boolean"},
        )),
        jobLabel=_TEXT,
        selector=_map("matchLabels", matchLabels=_LABELS),
        namespaceSelector=_map("matchNames", matchNames=_TEXTS),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _map(
        "groups",
        groups=_list(_map("name rules", name=_TEXT, interval=_DURATION, rules=_list(_RULE))),
    ),
    ("cert-manager.io/v1", "Certificate"): _map(
        "secretName issuerRef",
        secretName=_TEXT, dnsNames=_TEXTS, duration=_DURATION, renewBefore=_DURATION,
        commonName=_TEXT,
        usages=_list({"enum": ["digital signature", "key encipherment", "server auth"]}),
        issuerRef=_map("name", name=_TEXT, kind=_TEXT, group=_TEXT),
        privateKey=_map(
            algorithm={"enum": ["RSA", "ECDSA"]}, size={"enum": [256, 384, 2048, 3072, 4096]},
            rotationPolicy={"enum": ["Always", "Never"]}, encoding={"enum": ["PKCS1", "PKCS8"]},
        ),
    ),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): _map(
        "parentRefs rules",
        parentRefs=_list(_PARENT), hostnames=_TEXTS,
        rules=_list(_map("backendRefs", backendRefs=_list(_BACKEND), matches=_list(_METHOD))),
    ),
}  # fmt: skip
"""What may stand in the `spec` of each kind that is not Kubernetes' own, by version and kind."""


def faults(thing: Mapping[str, Any], version: str) -> list[str]:
    """What is wrong with an object, by the schemas of that version; a field unknown to it is."""
    name = f"{thing['kind']} {thing['metadata'].get('name')}"
    spec = ADDED.get((thing["apiVersion"], thing["kind"]))
    if spec is not None:
        metadata = _map("name", name=_TEXT, namespace=_TEXT, labels=_LABELS, annotations=_LABELS)
        whole = _map("spec", apiVersion=_TEXT, kind=_TEXT, metadata=metadata, spec=spec)
        validator = Draft202012Validator(whole)
    else:
        validator = _validator(thing["kind"].lower(), thing["apiVersion"], version)
    return [
        f"{name} in {version}: {error.json_path}: {error.message}"
        for error in validator.iter_errors(thing)
    ]


@cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    """As kubernetes-validate has it, which would read its ten megabytes anew for every object."""
    group, _, name = api_version.rpartition("/")
    file = "-".join(filter(None, (kind, group.partition(".")[0], name)))
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    schema = utils.schema_contents(f"{folder}/{file}.json", version)
    return Draft202012Validator(schema, registry=_definitions(folder, version))


@cache
def _definitions(folder: str, version: str) -> Registry[Any]:
    definitions = utils.schema_contents(f"{folder}/_definitions.json", version)
    return Resource.from_contents(definitions) @ Registry()
