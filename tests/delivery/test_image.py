"""The image: its file is in order, and its steps, done here without an engine, give a service that
starts as a stranger who may write nothing, compiles nothing, answers right and ends when told to.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from llvmlite import binding
from packaging.requirements import Requirement
from prometheus_client import CollectorRegistry

from ndoo.config import Settings
from ndoo.ops import probe
from ndoo.ops.http import HttpEndpoint
from ndoo.register.compiled import LEVELS, best_level
from ndoo.v1 import check_pb2, check_pb2_grpc
from support import dockerfile
from support.dockerfile import Stage
from support.people import number
from support.places import Place
from support.service import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = ROOT / "Dockerfile"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
STEPS = dockerfile.read(DOCKERFILE)
FINAL = STEPS[max(at for at, step in enumerate(STEPS) if step.word == "FROM") :]
PINNED = re.compile(r"python:3\.\d+-slim-\w+@sha256:[0-9a-f]{64}")
DIFFERENTIAL = (
    "any_size or every_half or a_view_answers or marking or any_set or every_kind or never_issued"
)


def told(word: str) -> str:
    (text,) = (step.text for step in FINAL if step.word == word)
    return text


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE.read_text()


def test_every_stage_begins_from_one_pinned_python():
    bases = [step.arguments for step in STEPS if step.word == "FROM"]
    (first, *others) = bases
    assert PINNED.fullmatch(first[0])
    assert {other[0] for other in others} == {first[2]}


def test_the_last_stage_adds_what_was_built_and_nothing_else():
    words = [step.word for step in FINAL]
    assert [step.text for step in FINAL if step.word == "COPY"] == [
        "--from=builder /opt/ndoo /opt/ndoo"
    ]
    (only_run,) = (step.text for step in FINAL if step.word == "RUN")
    assert only_run.startswith("rm -rf ")
    assert "ADD" not in words


def test_whoever_runs_it_is_a_number_and_a_signal_reaches_the_service():
    assert told("USER") == "65532:65532"
    assert json.loads(told("ENTRYPOINT")) == ["ndoo"]
    assert json.loads(told("CMD")) == ["serve"]
    assert told("STOPSIGNAL") == "SIGTERM"


def test_the_ports_are_those_of_the_settings():
    fields = Settings.__dataclass_fields__
    listened = [fields[name].default.rpartition(":")[2] for name in ("listen", "http_listen")]
    assert told("EXPOSE").split() == listened


def test_nothing_is_set_for_who_runs_it():
    """What crosses a network in plain text is asked for by name, not by default."""
    assert "NDOO_" not in DOCKERFILE.read_text()


def test_the_labels_come_with_the_build():
    labels = told("LABEL")
    for name in ("version", "revision", "created"):
        assert f'image.{name}="${name.upper()}"' in labels
        assert f"{name.upper()}=" in told("ARG")


@pytest.mark.parametrize("platforms", ["", "linux/amd64,linux/arm64"])
def test_make_image_tells_the_build_what_it_is_of(platforms: str, tmp_path: Path):
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(0o755)
    made = subprocess.run(
        ["make", "image", "IMAGE=registry.example/ndoo", f"PLATFORMS={platforms}"], cwd=ROOT,
        capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    words = made.stdout.split("\n")
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    assert {f"VERSION={VERSION}", f"REVISION={head}", f"registry.example/ndoo:{VERSION}"} <= {
        *words
    }
    assert any(re.fullmatch(r"CREATED=\d{4}-\d\d-\d\dT.*", word) for word in words)
    assert ("--push" in words, "--load" in words) == (bool(platforms), not platforms)


def test_no_step_names_a_processor():
    assert not re.search(r"amd64|x86|arm64|aarch64", "\n".join(step.text for step in STEPS))


def test_the_probe_asks_where_the_service_listens():
    endpoint = HttpEndpoint("0.0.0.0:0", CollectorRegistry(), has_started=bool, is_ready=bool)
    with contextlib.closing(endpoint):
        asked = {"NDOO_HTTP_LISTEN": endpoint.address}
        assert probe.complaint(asked) is None
    assert probe.complaint(asked) == (
        f"No service answers at {endpoint.address}; start it, with NDOO_HTTP_LISTEN as it is set "
        "here."
    )


def test_the_probe_is_not_content_with_anything_that_answers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probe, "_PATH", "/elsewhere")
    endpoint = HttpEndpoint("[::1]:0", CollectorRegistry(), has_started=bool, is_ready=bool)
    with contextlib.closing(endpoint):
        complaint = probe.complaint({"NDOO_HTTP_LISTEN": endpoint.address})
    assert (
        complaint
        == f"/elsewhere at {endpoint.address} answers 404; see the log of what listens there."
    )
    assert "is not HOST:PORT" in probe.complaint({"NDOO_HTTP_LISTEN": "everywhere"})


# From here on, of what the steps lead to.


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if reason := dockerfile.why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("image")
    yield dockerfile.build(DOCKERFILE, folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def packages(image: Stage) -> Path:
    (found,) = (image.root / "opt" / "ndoo" / "lib").glob("python3*/site-packages")
    return found


def run(image: Stage, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = dockerfile.command(image, arguments, env=env)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_holds_what_is_locked_and_the_service(packages: Path):
    lock = (ROOT / "requirements-server.lock").read_text()
    lines = re.findall(r"^([\w.-]+==[^\\\n]*)", lock, re.MULTILINE)
    locked = {
        (each.name, str(each.specifier)[2:])
        for each in map(Requirement, lines)
        if each.marker is None or each.marker.evaluate()
    }
    found = {
        (each.name.lower().replace("_", "-"), each.version)
        for each in importlib.metadata.distributions(path=[str(packages)])
    }
    assert found == locked | {("ndoo", VERSION)}
    assert (packages / "ndoo" / "__init__.py").is_file()  # not a link to the sources


def test_it_holds_nothing_that_installs_or_builds(image: Stage, packages: Path):
    assert not list((image.local / "lib").glob("python3*/site-packages/*"))
    for tool in ("pip", "ensurepip", "setuptools", "hatchling", "wheel"):
        assert run(image, "python", "-c", f"import {tool}").returncode == 1, tool
        assert not (packages / tool).exists()
    programs = {path.name for path in (image.root / "opt" / "ndoo" / "bin").iterdir()}
    assert not programs & {"pip", "pip3", "uv", "hatchling"}


def test_a_source_that_somebody_patches_is_what_runs(packages: Path, tmp_path: Path):
    """In an image built on this one, say. Code that is not compared would go on as it was."""
    shutil.copytree(packages / "ndoo", tmp_path / "ndoo")
    with (tmp_path / "ndoo" / "nhs_number.py").open("a") as patched:
        patched.write("PATCHED = True\n")
    command = [sys.executable, "-c", "import ndoo.nhs_number; print(ndoo.nhs_number.PATCHED)"]
    environment = {"PATH": "", "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    assert subprocess.check_output(command, text=True, env=environment) == "True\n"


def test_its_byte_code_is_there(packages: Path):
    sources = list((packages / "ndoo").rglob("*.py"))
    assert len(sources) > 100
    for source in sources:
        (code,) = (source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")
        assert code.read_bytes()[4:8] == (3).to_bytes(4, "little"), "not a checked hash"
    (code,) = (packages / "numpy" / "__pycache__").glob("__init__.cpython-*.pyc")
    assert code.read_bytes()[4:8] == (1).to_bytes(4, "little"), "not an unchecked hash"


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_answers_as_the_reference(level: str, packages: Path, tmp_path: Path):
    """On a processor that is taken for one that knows no better level."""
    features = [name for name, is_known in binding.get_host_cpu_features().items() if is_known]
    if best_level([level], features) is None:
        pytest.skip("this processor does not know the level")
    others = shutil.ignore_patterns(*(LEVELS.keys() - {level}))
    shutil.copytree(packages / "ndoo", tmp_path / "ndoo", ignore=others)
    script = f"""
import sys, pytest
from numba.core import event
with event.install_recorder("numba:compile") as compiled:
    from ndoo.register import kernel, sets
assert not compiled.buffer
assert sets.__file__.startswith({str(tmp_path)!r})
assert kernel.check.targetctx.codegen().magic_tuple()[1:] == ({level!r}, "")
tests = ["tests/core/test_kernel.py", "tests/core/test_sets.py"]
sys.exit(pytest.main([*tests, "-x", "-p", "no:cacheprovider", "-k", {DIFFERENTIAL!r}]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


class Container:
    """The service as the first process in the image, under the names and limits of a cluster."""

    def __init__(self, image: Stage, feed: str) -> None:
        self.listen, self.http = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.env = {
            "NDOO_FEED": feed,
            "NDOO_LISTEN": self.listen,
            "NDOO_HTTP_LISTEN": self.http,
            "NUMBA_DEBUG_CACHE": "1",
            "PYTHONUNBUFFERED": "1",  # numba prints what it loads
        }
        started = [*json.loads(told("ENTRYPOINT")), *json.loads(told("CMD"))]
        command = dockerfile.command(image, started, env=self.env)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.said = list(self._until_live())

    def _until_live(self) -> Iterator[str]:
        for line in self.process.stdout:
            yield line
            if line.startswith("{") and json.loads(line).get("phase") == "LIVE":
                return
        raise AssertionError("the service ended before it was live")

    @property
    def inner(self) -> int:
        """What is process 1 inside."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children)

    def end(self) -> None:
        """Whoever changed its user does not die with its parent, so it is process 1 that ends."""
        if self.process.poll() is None:
            os.kill(self.inner, signal.SIGKILL)

    def status(self) -> Mapping[str, str]:
        lines = Path(f"/proc/{self.inner}/status").read_text().splitlines()
        return dict(line.split(":", 1) for line in lines)

    def ask(self, path: str) -> int:
        connection = http.client.HTTPConnection(self.http)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().status


@pytest.fixture
def container(image: Stage, redis_place: Place) -> Iterator[Container]:
    redis_place.loaded(1, 2, 3)
    started = Container(image, redis_place.url)
    with started.process:
        yield started
        started.end()


def test_a_service_that_answers_and_ends_as_told(container: Container, image: Stage):
    assert container.status()["Uid"].split() == ["65532"] * 4
    assert container.status()["NSpid"].split()[1] == "1"
    assert [container.ask(path) for path in ("/livez", "/startupz", "/readyz")] == [200] * 3
    with grpc.insecure_channel(container.listen) as channel:
        stub = check_pb2_grpc.OptOutCheckStub(channel)
        asked = [check_pb2.CheckRequest(nhs_number=number(person)) for person in (1, 9)]
        verdicts = [stub.Check(each).verdict for each in asked]
        assert verdicts == [check_pb2.VERDICT_OPTED_OUT, check_pb2.VERDICT_CLEARED]
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "ndoo.v1.OptOutCheck"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    probed = run(image, *healthcheck(), **container.env)
    assert (probed.returncode, probed.stdout, probed.stderr) == (0, "", "")
    os.kill(container.inner, signal.SIGTERM)
    container.process.communicate(timeout=60)
    assert container.process.returncode == 0
    assert run(image, *healthcheck(), **container.env).returncode == 1


def test_it_compiles_nothing(container: Container):
    loaded = [line for line in container.said if line.startswith("[cache] data loaded")]
    assert len(loaded) == sum(
        path.read_text().count("\n@compiled(") for path in (ROOT / "src").rglob("*.py")
    )
    assert not [line for line in container.said if "saved" in line]


def healthcheck() -> list[str]:
    return json.loads(told("HEALTHCHECK").partition("CMD ")[2])
