"""Values that the chart is to take: the least, and what can be asked for beside it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from support.chart import Chart, Manifests, merged

Values = Mapping[str, Any]

LEAST: Values = {
    "image": {"repository": "registry.example/ndoo"},
    "feed": {
        "url": "redis://ndoo-reader@redis.example:6379/0",
        "passwordSecret": {"name": "reader"},
    },
    "plaintext": True,
}
_TLS: Values = {"plaintext": False, "tls": {"certificateSecret": {"name": "serving"}}}
_SNAPSHOTS: Values = {"enabled": True, "user": "ndoo-loader", "passwordSecret": {"name": "loader"}}
_SHOWS_CERTIFICATE: Values = {
    "caSecret": {"name": "redis-ca", "key": "authorities.pem"},
    "certificateSecret": {"name": "redis-certificate"},
}
_PEER = [{"ipBlock": {"cidr": "10.0.0.0/8"}}]

COMBINATIONS: Mapping[str, Values] = {
    "least": {},
    "one-replica": {"replicaCount": 1},
    "digest": {"image": {"digest": f"sha256:{'fedcba9876543210' * 4}"}},
    "pull-secret": {"image": {"pullPolicy": "Always"}, "imagePullSecrets": [{"name": "pull"}]},
    "names": {"fullnameOverride": "checks", "commonLabels": {"team": "data", "part": "x.y_z-1"}},
    "ipv6": {"listenAddress": "[::]"},
    "tls": _TLS,
    "tls-ipv6": {**_TLS, "listenAddress": "[::]"},
    "tls-callers": {
        "plaintext": False,
        "tls": {"certificateSecret": {"name": "serving"}, "clientCaSecret": {"name": "callers-ca"}},
    },
    "cert-manager": {
        "plaintext": False,
        "tls": {"certManager": {
            "enabled": True, "issuerRef": {"name": "ca"}, "dnsNames": ["ndoo.example"],
        }},
    },
    "redis-tls": {"feed": {
        "url": "rediss://ndoo-reader@redis.example:6380/3", **_SHOWS_CERTIFICATE,
    }},
    "redis-tls-of-the-system": {"feed": {"url": "rediss://ndoo-reader@redis.example/0"}},
    "redis-ipv6": {"feed": {"url": "redis://ndoo-reader@[fd00::1]:7000/0"}},
    "sentinels": {
        "feed": {
            "url": "rediss+sentinel://ndoo-reader@a.example:26379,b.example,c.example:26380/main/1",
            "sentinelUser": "watcher", "sentinelPasswordSecret": {"name": "sentinel"},
            **_SHOWS_CERTIFICATE,
        },
    },
    "cluster": {"feed": {
        "url": "redis+cluster://ndoo-reader@a.example:7001,b.example:7002",
    }},
    "clients-of-a-secret": {"clients": {"secretName": "policy"}},
    "clients-of-a-config-map": {"clients": {"configMapName": "policy", "key": "callers.toml"}},
    "budgets": {
        "clients": {"secretName": "policy"},
        "budgets": {
            "failOpen": True, "url": "rediss://ndoo-budgets@budgets.example:6399/0",
            "passwordSecret": {"name": "budgets"}, **_SHOWS_CERTIFICATE,
        },
    },
    "snapshots": {"snapshots": _SNAPSHOTS},
    "signed": {"signing": {"publicKeySecret": {"name": "public"}}},
    "signing": {
        "signing": {
            "publicKeySecret": {"name": "public"}, "privateKeySecret": {"name": "private"},
        },
        "snapshots": _SNAPSHOTS,
    },
    "audit-in-the-log": {"audit": {"destination": "stdout", "required": True}},
    "audit-on-a-volume": {"audit": {
        "destination": "volume", "bytesMax": 65_536,
        "volume": {"persistentVolumeClaim": {"claimName": "audit"}},
    }},
    "traces": {"traces": {
        "enabled": True, "env": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.example:4317"},
    }},
    "scaled-by-cpu": {"autoscaling": {"enabled": True}},
    "scaled-by-numbers": {
        "autoscaling": {"enabled": True, "cpuPercent": 0, "numbersPerSecond": 5_000_000},
    },
    "placed": {
        "spread": "DoNotSchedule", "nodeSelector": {"disk": "ssd"}, "priorityClassName": "high",
        "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {}}, "podAnnotations": {"example/reason": "none"},
    },
    "no-policy-of-the-network": {"networkPolicy": {"enabled": False}},
    "network": {"networkPolicy": {
        "callers": [{"namespaceSelector": {}}], "scrapers": _PEER, "dns": _PEER, "redis": _PEER,
        "redisPorts": [6380, 6381],
    }},
    "watched": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True}, "networkPolicy": {"scrapers": _PEER},
    },
    "routed": {"grpcRoute": {
        "enabled": True, "hostnames": ["checks.example"],
        "parentRefs": [{"name": "gateway", "namespace": "gateways", "sectionName": "https"}],
    }},
    "further-objects": {"extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-a"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-b\n",
    ]},
}  # fmt: skip
"""What is laid over the least, by name."""

EVERYTHING: Values = merged(
    LEAST,
    *(COMBINATIONS[name] for name in (
        "digest", "pull-secret", "cert-manager", "sentinels", "budgets", "signing",
        "audit-on-a-volume", "traces", "scaled-by-cpu", "placed", "network", "watched", "routed",
    )),
)  # fmt: skip
"""As many objects as the chart can make of one release."""


@cache
def rendered(chart: Chart, name: str) -> Manifests:
    """The combination of that *name*; rendered once a run."""
    return chart.render(merged(LEAST, COMBINATIONS[name]), name="blue")
