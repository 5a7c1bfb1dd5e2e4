"""Who follows the page of installation, from its first command to its last, gets what it says.

Only the cluster and the engine are missing. kubectl and Helm are real, and do what they can
without: they make what they would send, and refuse what they do not know.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from support import chart
from support.certificates import Authority
from support.pages import ROOT, SECONDS_MAX, examples
from support.redis_server import RedisServer
from support.service import Service

PAGE = "docs/install.md"
NOWHERE = "http://127.0.0.1:1"

KUBECTL = """
case "$1" in create) exec {kubectl} "$@" --dry-run=client --output=name ;; esac
told="$({kubectl} "$@" --server={nowhere} 2>&1)" || case "$told" in *refused*) told= ;; esac
if [ -n "$told" ]; then echo "$told" >&2; exit 1; fi
case "$1" in port-forward) exec sleep {seconds} ;; esac
"""
HELM = """
case "$1" in
  upgrade) shift
    for word; do shift
      case "$word" in --install | --wait) ;; *) set -- "$@" "$word" ;; esac
    done
    exec {helm} template "$@" ;;
  template) exec {helm} "$@" ;;
esac
told="$({helm} "$@" --kube-apiserver={nowhere} 2>&1)" || case "$told" in *refused*) told= ;; esac
if [ -n "$told" ]; then echo "$told" >&2; exit 1; fi
"""
MAKE = 'exec {make} --dry-run --directory={root} "$@"'


class Newcomer:
    """Types the page's commands in *folder*, a clone, beside a Redis in place of the Valkey."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self._folder, self._redis = folder, redis
        self._bin = folder / "bin"
        self.service: Service | None = None
        for name in ("helm", "docs", ".venv"):
            (folder / name).symlink_to(ROOT / name)
        self._bin.mkdir()
        helm = chart.executable()
        kubectl = shutil.which("kubectl", path=f"{Path(helm).parent}:{os.environ['PATH']}")
        if kubectl is None:
            pytest.skip("Helm is on the PATH without kubectl; scripts/helm brings both or neither")
        for name, script in {"kubectl": KUBECTL, "helm": HELM, "make": MAKE}.items():
            text = script.format(
                kubectl=kubectl, helm=helm, make=shutil.which("make"), root=ROOT, nowhere=NOWHERE,
                seconds=SECONDS_MAX,
            )  # fmt: skip
            (self._bin / name).write_text(f"#!/bin/sh\n{text}")
            (self._bin / name).chmod(0o755)

    def type(self, commands: str) -> None:
        typed = commands.replace("127.0.0.1:6379", self._redis.url.split("/")[2])
        if self.service:
            typed = typed.replace("ndoo status", f"ndoo status {self.service.address}")
            typed = typed.replace("ndoo check", f"ndoo check --target {self.service.address}")
        path = f"{self._bin}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", typed], cwd=self._folder, timeout=SECONDS_MAX,
            env={**os.environ, "PATH": path, "KUBECONFIG": "/dev/null", "HOME": str(self._folder)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, f"{commands}\n{ran.stdout}{ran.stderr}"

    def run_the_valkey(self) -> None:
        """Give its users to the Redis, with the rights and the script of the manifest."""
        objects = yaml.safe_load_all((ROOT / "helm" / "examples" / "valkey.yaml").read_text())
        script = next(each["data"]["users.sh"] for each in objects if each["kind"] == "ConfigMap")
        environment = {**os.environ, "SECRETS": "secrets", "USERS": "."}
        subprocess.run(["sh", "-c", script], cwd=self._folder, env=environment, check=True)
        users = (self._folder / "users.acl").read_text().splitlines()
        with self._redis.client() as client:
            for _, name, *rights in map(str.split, users):
                if name != "default":
                    client.execute_command("ACL", "SETUSER", name, *rights)

    def bring_secrets(self) -> None:
        """What the page supposes of somebody who has people's real choices."""
        secrets = self._folder / "secrets"
        issued = Authority(secrets).issue("server")
        for name in ("redis-ca.crt", "callers-ca.crt", "tls.crt", "redis.crt"):
            shutil.copy(issued.cert, secrets / name)
        for name in ("tls.key", "redis.key"):
            shutil.copy(issued.key, secrets / name)
        for name in ("clients.toml", "jwks.json", "sentinel", "budgets"):
            (secrets / name).write_text(name)

    def start_the_service(self) -> None:
        login = f"ndoo-reader@{self._redis.url.split('/')[2]}"
        password = self._folder / "secrets" / "reader"
        self.service = Service(f"redis://{login}/0?password_file={password}")


@pytest.fixture
def newcomer(start_redis: Callable[..., RedisServer], tmp_path: Path) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path, start_redis())
    yield newcomer
    if newcomer.service:
        newcomer.service.kill()


def test_from_a_clone_to_a_cluster(newcomer: Newcomer, tmp_path: Path) -> None:
    for commands in examples(PAGE, "sh"):
        newcomer.type(commands)
        if "statefulset/ndoo-valkey" in commands:
            newcomer.run_the_valkey()
            newcomer.bring_secrets()
        if "helm upgrade --install" in commands and not newcomer.service:
            newcomer.start_the_service()
    assert (tmp_path / "cleared.dat").read_text().split() == ["9990000018"]


@pytest.mark.parametrize(
    "misspelt",
    [
        "kubectl create secret generic x --form-file=secrets", "kubectl get pods --namspace ndoo",
        "helm rollback ndoo --wiat", "helm upgrade --install ndoo helm/ndoo --set image=x",
        "make imag",
    ],
)  # fmt: skip
def test_what_is_misspelt_is_refused(newcomer: Newcomer, misspelt: str) -> None:
    with pytest.raises(AssertionError):
        newcomer.type(misspelt)
