"""How every pod of the chart is locked down, fed and ended, whatever is asked for."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ndoo.config import Settings
from support.chart import Chart, Manifests, Pod, merged
from support.chart_values import COMBINATIONS, LEAST, rendered

ROLLOUT_S = 15
"""What remains, at least, after running calls had their time: gRPC, audit and state end in it."""

RESTRICTED_POD = {
    "runAsNonRoot": True,
    "runAsUser": 65_532,
    "runAsGroup": 65_532,
    "fsGroup": 65_532,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESTRICTED_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
WRITABLE = {"emptyDir", "persistentVolumeClaim"}
ANY_USERS_FILES = {"secret", "configMap", "projected"}
FILES = ("clients", "snapshot_public_key", "tls_certificate", "tls_client_ca", "tls_key")
OPTIONS = ("ca", "cert", "key", "password_file", "sentinel_password_file")


@pytest.fixture(params=COMBINATIONS)
def manifests(request: pytest.FixtureRequest, chart: Chart) -> Manifests:
    return rendered(chart, request.param)


def test_pods_are_locked_down(manifests: Manifests) -> None:
    assert manifests.pods()
    for pod in manifests.pods():
        spec = pod.spec
        assert spec["securityContext"] == RESTRICTED_POD, pod
        for container in pod.containers:
            assert container["securityContext"] == RESTRICTED_CONTAINER, pod
        assert spec["automountServiceAccountToken"] is False, pod
        assert spec["enableServiceLinks"] is False, f"{pod}: NDOO_SERVICE_HOST would end the server"
        assert spec.keys().isdisjoint({"hostNetwork", "hostPID", "hostIPC", "hostUsers"}), pod
        assert not any("hostPort" in port for each in pod.containers for port in _ports(each))


def _ports(container: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return container.get("ports", [])


def test_the_account_of_the_pods_can_do_nothing(manifests: Manifests) -> None:
    (account,) = manifests.of("ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert {pod.spec["serviceAccountName"] for pod in manifests.pods()} == {
        account["metadata"]["name"]
    }
    kinds = {each["kind"] for each in manifests.objects}
    assert kinds.isdisjoint({"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Secret"})


def test_pods_ask_for_what_they_are_held_to(manifests: Manifests) -> None:
    for pod in manifests.pods():
        for container in pod.containers:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), pod
            assert "memory" in resources["limits"], pod


def test_volumes_are_mounted_where_they_belong(manifests: Manifests) -> None:
    for pod in manifests.pods():
        volumes = [volume["name"] for volume in pod.spec.get("volumes", [])]
        assert len(volumes) == len(set(volumes)), pod
        mounted = {mount["name"] for mount, _ in pod.mounts().values()}
        assert mounted == set(volumes), f"{pod}: mounted or declared alone"
        for path, (mount, volume) in pod.mounts().items():
            (kind,) = volume.keys() - {"name"}
            assert kind in WRITABLE | ANY_USERS_FILES, f"{pod}: {path}"
            # The kubelet renews what is mounted whole, and nothing below a subPath.
            assert "subPath" not in mount or kind == "persistentVolumeClaim", f"{pod}: {path}"
            if kind in ANY_USERS_FILES:
                assert mount["readOnly"] is True, f"{pod}: {path}"
                assert volume[kind].get("defaultMode", 0o440) == 0o440, f"{pod}: {path}"
            if kind == "emptyDir":
                assert "sizeLimit" in volume[kind], f"{pod}: {path} may fill the node"


def test_no_password_is_in_a_manifest(manifests: Manifests) -> None:
    assert not re.search(r"://[^/\s\"'@]*:[^/\s\"'@]*@", manifests.text)
    for pod in manifests.pods():
        for container in pod.containers:
            sources = [each.get("valueFrom", {}) for each in container.get("env", ())]
            assert not any("secretKeyRef" in source for source in sources), pod
            assert not any("secretRef" in source for source in container.get("envFrom", ())), pod


def test_every_file_named_is_mounted_and_every_folder_written_to_is_writable(
    manifests: Manifests,
) -> None:
    for pod in manifests.pods():
        environment = manifests.environment(pod)
        for path in _read(pod, environment):
            assert _volume_of(pod, path).keys() & ANY_USERS_FILES, f"{pod}: {path}"
            assert _holds(_volume_of(pod, path), path, pod), f"{pod}: {path}"
        for path in _written(environment):
            assert _volume_of(pod, path).keys() & WRITABLE, f"{pod}: {path}"


def _read(pod: Pod, environment: Mapping[str, str]) -> Iterator[str]:
    """The files that the settings, and the arguments, of *pod* name."""
    for field in dataclasses.fields(Settings):
        if field.name in FILES and (path := environment.get(field.metadata["env"])):
            yield path
    for name in ("NDOO_FEED", "NDOO_BUDGETS"):
        options = parse_qs(urlsplit(environment.get(name, "")).query)
        for option in OPTIONS:
            yield from options.get(option, ())
    arguments = [each for container in pod.containers for each in container.get("args", ())]
    yield from (each.partition("=")[2] for each in arguments if each.startswith("--sign="))
    yield from (after for each, after in itertools.pairwise(arguments) if each == "--sign")


def _written(environment: Mapping[str, str]) -> Iterator[str]:
    for name in ("NDOO_STATE_DIR", "NDOO_AUDIT"):
        if environment.get(name, "-") != "-":
            yield environment[name]


def _volume_of(pod: Pod, path: str) -> Mapping[str, Any]:
    """The volume in which *path* lies; the innermost mount counts."""
    mounts = pod.mounts()
    for folder in map(str, (PurePosixPath(path), *PurePosixPath(path).parents)):
        if folder in mounts:
            return mounts[folder][1]
    raise AssertionError(f"{pod}: {path} lies in no volume")


def _holds(volume: Mapping[str, Any], path: str, pod: Pod) -> bool:
    """Whether the file is one of those that the volume shows, where it says which."""
    shown = [
        item["path"]
        for source in (volume, *volume.get("projected", {}).get("sources", ()))
        for kind in ("secret", "configMap")
        for item in source.get(kind, {}).get("items", ())
    ]
    mount = next(folder for folder, (_, of) in pod.mounts().items() if of is volume)
    return not shown or str(PurePosixPath(path).relative_to(mount)) in shown


def test_replicas_see_no_private_key_and_no_password_of_a_writer(chart: Chart) -> None:
    server = rendered(chart, "signing").server
    assert _secrets(server) == {"reader", "public"}
    (public,) = (
        source
        for _, volume in server.mounts().values()
        for source in _sources(volume)
        if source["secret"].get("secretName", source["secret"].get("name")) == "public"
    )
    assert [item["key"] for item in public["secret"]["items"]] == ["snapshot.pub"]
    (job,) = (pod for pod in rendered(chart, "signing").pods() if pod.kind == "CronJob")
    assert _secrets(job) == {"loader", "public", "private"}, "and the job has what it signs with"


def _secrets(pod: Pod) -> set[str]:
    return {
        source["secret"].get("secretName", source["secret"].get("name"))
        for _, volume in pod.mounts().values()
        for source in _sources(volume)
    }


def _sources(volume: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    every = (volume, *volume.get("projected", {}).get("sources", ()))
    return [each for each in every if "secret" in each]


def test_the_end_of_a_replica_has_its_time(chart: Chart) -> None:
    for grace_s in (0, 25, 0.5, 3600):
        manifests = chart.render(merged(LEAST, {"settings": {"graceS": grace_s}}))
        pod = manifests.server
        settings = Settings.from_env(manifests.environment(pod))
        assert settings.grace_s == grace_s
        (container,) = pod.containers
        before_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert before_s >= 5, "endpoints take some seconds to hear of it"
        after_s = pod.spec["terminationGracePeriodSeconds"] - before_s - grace_s
        assert ROLLOUT_S <= after_s <= 60


def test_a_rollout_takes_no_replica_before_another_is_ready(manifests: Manifests) -> None:
    strategy = manifests.one("Deployment")["spec"]["strategy"]
    assert strategy == {
        "type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }  # fmt: skip
    ready_s = manifests.one("Deployment")["spec"]["minReadySeconds"]
    assert ready_s >= 30, "so long gRPC waits between two looks at a name"


def test_probes_wait_for_what_takes_its_time(manifests: Manifests) -> None:
    """A processor on which code has to be compiled first, and an event loop that is held up."""
    (container,) = manifests.server.containers
    for probe, least_s in (("startupProbe", 60), ("livenessProbe", 30)):
        asked = container[probe]
        assert asked["periodSeconds"] * asked["failureThreshold"] >= least_s, probe
        assert asked["timeoutSeconds"] >= 2, probe


def test_pods_roll_when_their_settings_change_and_only_then(chart: Chart) -> None:
    def template(**settings: Any) -> Mapping[str, Any]:
        return chart.render(merged(LEAST, {"settings": settings})).server.template

    assert template(historyS=1) != template(historyS=2)
    assert template(historyS=1) == template(historyS=1)


def test_selectors_select_the_replicas_alone(manifests: Manifests) -> None:
    """Not the pods of jobs, which serve nothing; and they never change, which is refused."""
    deployment = manifests.one("Deployment")
    selector = deployment["spec"]["selector"]["matchLabels"]
    versions = {"helm.sh/chart", "app.kubernetes.io/version"}
    assert versions.isdisjoint(selector)
    others = [pod for pod in manifests.pods() if pod.kind != "Deployment"]
    selectors = [selector, *(each["spec"]["selector"] for each in manifests.of("Service"))]
    selectors += [
        each["spec"]["selector"]["matchLabels"] for each in manifests.of("PodDisruptionBudget")
    ]
    selectors += [
        each["labelSelector"]["matchLabels"]
        for each in manifests.server.spec["topologySpreadConstraints"]
    ]
    assert len(selectors) >= 4
    for each in selectors:
        assert each.items() <= manifests.server.labels.items()
        assert not any(each.items() <= other.labels.items() for other in others)


def test_nodes_that_take_no_replica_do_not_hold_others_up(manifests: Manifests) -> None:
    """Counted as empty, a node of the control plane, or one that died, would allow each other node
    a single replica, where the spread is demanded.
    """
    constraints = manifests.server.spec["topologySpreadConstraints"]
    assert {each["nodeTaintsPolicy"] for each in constraints} == {"Honor"}
    assert all(each["matchLabelKeys"] == ["pod-template-hash"] for each in constraints)


def test_nodes_can_be_drained(manifests: Manifests) -> None:
    """A budget of a single pod that must not be missing would hold a node up for ever."""
    replicas = manifests.one("Deployment")["spec"].get("replicas", 2)
    for budget in manifests.of("PodDisruptionBudget"):
        spec = budget["spec"]
        assert spec.get("maxUnavailable", 0) == 1 or spec["minAvailable"] < replicas
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_replicas_are_counted_by_one_authority(manifests: Manifests) -> None:
    scalers = manifests.of("HorizontalPodAutoscaler")
    assert ("replicas" in manifests.one("Deployment")["spec"]) is not bool(scalers)
    for scaler in scalers:
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", manifests.server.name)
        assert scaler["spec"]["metrics"]
        assert scaler["spec"]["minReplicas"] >= 2
        slowly = scaler["spec"]["behavior"]["scaleDown"]
        assert slowly["stabilizationWindowSeconds"] >= 600, "streams do not move"
        assert slowly["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 120}]


def test_jobs_never_overlap_and_end(manifests: Manifests) -> None:
    for job in manifests.of("CronJob"):
        spec = job["spec"]
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["startingDeadlineSeconds"] >= 10, "a shorter one is never met"
        assert spec["timeZone"] == "Etc/UTC", "or it is the cluster's"
        assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] >= 600
        assert spec["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"] in {
            "Never", "OnFailure",
        }  # fmt: skip


def test_what_runs_is_the_image_that_was_named(chart: Chart) -> None:
    for name, expected in (
        ("snapshots", r"registry\.example/ndoo:\d+\.\d+\.\d+"),
        ("digest", r"registry\.example/ndoo@sha256:[0-9a-f]{64}"),
    ):
        manifests = rendered(chart, name)
        images = {each["image"] for pod in manifests.pods() for each in pod.containers}
        assert all(re.fullmatch(expected, image) for image in images), images


def test_each_replica_keeps_audit_records_of_its_own(chart: Chart) -> None:
    """They share the volume, and a file has one writer."""
    server = rendered(chart, "audit-on-a-volume").server
    (container,) = server.containers
    pod_name, audit = (
        next(each for each in container["env"] if each["name"] == name)
        for name in ("POD_NAME", "NDOO_AUDIT")
    )
    assert pod_name["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert "$(POD_NAME)" in PurePosixPath(audit["value"]).name
    assert container["env"].index(pod_name) < container["env"].index(audit)
