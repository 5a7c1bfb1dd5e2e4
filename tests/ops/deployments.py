"""Deployments of real servers, each a job of its own, and one Prometheus that watches them all."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc

from ndoo.feed import log
from ndoo.feed.url import open_feed
from ndoo.ops.http import HttpEndpoint
from ndoo.ops.metrics import Metrics
from ndoo.ops.stalls import watching_for_stalls
from ndoo.publish.open import open_publisher
from ndoo.publish.publisher import Publisher
from ndoo.publish.source import Terms
from ndoo.register import snapshot as snapshots
from ndoo.register.replica import Replica
from ndoo.v1 import check_pb2_grpc
from support.certificates import Authority
from support.places import bitmap
from support.policies import client, write_policy
from support.prometheus import Prometheus
from support.redis_server import RedisServer

RULES = Path(__file__).parents[2] / "ops" / "prometheus"
INTERVAL_S = 0.5
LONG_AGO = "2001-02-03T04:05:06Z"
FIRED = 'max_over_time(ALERTS{{alertname="{alert}",job="{job}",alertstate="firing"}}[10m])'
CLIENTS = {
    name: client(certificate_names=[f"DNS:{name}"], **limits)
    for name, limits in {
        "letters": {"numbers_per_day": 10_000, "numbers_per_message": 5},
        "daily": {"numbers_per_day": 3},
        "prober": {},
        "hasty": {"numbers_per_second": 1},
    }.items()
}
STALLS = 5
_LOOK_S = 0.05
AUDIT_KIB_MAX = 4  # room for some ten records


class Server:
    """`ndoo serve` with settings of its own; its files may grow to *files_kib_max*."""

    def __init__(self, feed: str, *, files_kib_max: int | None = None, **settings: object) -> None:
        named = {f"NDOO_{name.upper()}": str(value) for name, value in settings.items()}
        addresses = {"NDOO_LISTEN": "127.0.0.1:0", "NDOO_HTTP_LISTEN": "127.0.0.1:0"}
        limit = f"ulimit -f {'unlimited' if files_kib_max is None else files_kib_max}"
        self.process = subprocess.Popen(
            ["bash", "-c", f'{limit}; exec "$0" -m ndoo serve', sys.executable],
            stdout=subprocess.PIPE, text=True,
            env=os.environ | addresses | {"NDOO_FEED": feed} | named,
        )  # fmt: skip

    def listen(self) -> None:
        """Return when it answers; its log is read to the end, so that it never waits for us."""
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "listening":
                self.grpc, self.http = event["grpc"], event["http"]
                threading.Thread(target=self.process.stdout.read, daemon=True).start()
                return
        raise AssertionError("the service ended before it listened")

    @contextlib.contextmanager
    def stub(
        self, credentials: grpc.ChannelCredentials | None = None
    ) -> Iterator[check_pb2_grpc.OptOutCheckStub]:
        channel = (
            grpc.secure_channel(self.grpc, credentials)
            if credentials
            else grpc.insecure_channel(self.grpc)
        )
        with channel:
            yield check_pb2_grpc.OptOutCheckStub(channel)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Blocked:
    """An event loop that stands still, again and again, then for good; watched and shown as that of
    a service is.
    """

    def __init__(self) -> None:
        self._metrics = Metrics(Replica(1.0), "test")
        self.begin, self._free = threading.Event(), threading.Event()
        self._endpoint = HttpEndpoint(
            "127.0.0.1:0", self._metrics.registry, has_started=bool, is_ready=bool
        )
        self.http = self._endpoint.address
        self._thread = threading.Thread(target=asyncio.run, args=(self._stand_still(),))
        self._thread.start()

    def listen(self) -> None:
        """It does not."""

    async def _stand_still(self) -> None:
        with watching_for_stalls(self._metrics):
            await asyncio.to_thread(self.begin.wait)
            for times in range(1, STALLS + 1):
                while self._stalls < times and not self._free.wait(_LOOK_S):
                    pass
                await asyncio.sleep(0)  # now it runs again, for a moment
            self._free.wait()

    @property
    def _stalls(self) -> float:
        return self._metrics.registry.get_sample_value("ndoo_event_loop_stalls_total")

    def kill(self) -> None:
        self._free.set()
        self.begin.set()
        self._thread.join()
        self._endpoint.close()


class World:
    """All deployments, with what they need, in *directory*; *ending* takes it down."""

    def __init__(self, directory: Path, ending: contextlib.ExitStack) -> None:
        self.directory = directory
        self._ending = ending
        self.redis, self.redis_away, self.budgets = (self._redis(name) for name in ("r", "a", "b"))
        self.authority = Authority(directory)
        self.certificate = self.authority.issue("server")
        self.shown = {
            name: self.authority.issue(name, names=f"DNS:{name}")
            for name in (*CLIENTS, "stranger")
        }  # fmt: skip
        self.policy = write_policy(directory / "clients.toml", CLIENTS)
        self.publishers: dict[str, Publisher] = {}
        self._load_feeds()
        self.jobs = self._started()
        for server in self.servers:
            server.listen()
        targets = {job: [each.http for each in of.values()] for job, of in self.jobs.items()}
        self.prometheus = Prometheus(
            self._folder("prometheus"), targets, shortened(directory), interval_s=INTERVAL_S
        )
        ending.callback(self.prometheus.close)
        self.prometheus.wait_for_scrape()

    @property
    def servers(self) -> list[Server | Blocked]:
        return [server for of in self.jobs.values() for server in of.values()]

    def server(self, job: str) -> Server:
        """The only one of *job*."""
        (server,) = self.jobs[job].values()
        return server

    def restart(self, job: str) -> None:
        """End the only server of *job*, and start another in its place."""
        before = self.server(job)
        before.process.kill()
        before.process.wait()
        after = self._serve(self.redis.url, http_listen=before.http)
        after.listen()
        self.jobs[job]["one"] = after

    def wait_until_fired(self, job: str, *alerts: str) -> None:
        for alert in alerts:
            self.prometheus.wait_for(FIRED.format(alert=alert, job=job))

    def feed(self, name: str) -> Path:
        return self.directory / f"feed-{name}"

    def credentials(self, name: str) -> grpc.ChannelCredentials:
        """What the client *name* shows, and trusts."""
        shown = self.shown[name]
        files = (self.authority.cert, shown.key, shown.cert)
        return grpc.ssl_channel_credentials(*(path.read_bytes() for path in files))

    def _load_feeds(self) -> None:
        for name in ("a", "signs", "lost"):
            self._load(name, f"dir:{self.feed(name)}")
        self._load("healthy", self.redis.url)
        self._load("away", self.redis_away.url)
        shutil.copytree(self.feed("a"), self.feed("b"))
        self._open("b", f"dir:{self.feed('b')}")
        _backdate(self.feed("signs"))
        self.feed("empty").mkdir()

    def _started(self) -> Mapping[str, dict[str, Server | Blocked]]:
        a, b, empty, lost, signs = (
            f"dir:{self.feed(name)}" for name in ("a", "b", "empty", "lost", "signs")
        )
        state = self._folder("state")
        (state / "register").write_bytes(b"neither register nor anything else")
        return {
            "ndoo-healthy": {each: self._serve(self.redis.url) for each in ("one", "two")},
            "ndoo-apart": {"a": self._serve(a), "b": self._serve(b)},
            "ndoo-away": {"one": self._serve(self.redis_away.url, staleness_max_s=8)},
            "ndoo-empty": {"one": self._serve(empty)},
            "ndoo-lost": {"one": self._serve(lost)},
            "ndoo-restarted": {"one": self._serve(self.redis.url)},
            "ndoo-signs": {
                "one": self._serve(
                    signs, silence_max_s=1, jump_max=0.01, streams_max=1, state_dir=state
                )
            },
            "ndoo-guarded": {"one": self._guarded()},
            "ndoo-blocked": {"one": self._blocked()},
        }

    def _guarded(self) -> Server:
        """It knows its clients, and has little room for their records."""
        return self._serve(
            self.redis.url,
            files_kib_max=AUDIT_KIB_MAX,
            tls_certificate=self.certificate.cert,
            tls_key=self.certificate.key,
            tls_client_ca=self.authority.cert,
            clients=self.policy,
            budgets=self.budgets.url,
            audit=self.directory / "audit.jsonl",
        )

    def _blocked(self) -> Blocked:
        blocked = Blocked()
        self._ending.callback(blocked.kill)
        return blocked

    def _serve(self, feed: str, **settings: object) -> Server:
        server = Server(feed, **settings)
        self._ending.callback(server.kill)
        return server

    def _redis(self, name: str) -> RedisServer:
        server = RedisServer(self._folder(f"redis-{name}"))
        self._ending.callback(server.kill)
        return server

    def _load(self, name: str, url: str) -> None:
        self._open(name, url)
        self.publishers[name].load(bitmap(*range(100)), Terms(accept_jump=True))

    def _open(self, name: str, url: str) -> None:
        publisher = contextlib.closing(open_publisher(url))
        self.publishers[name] = self._ending.enter_context(publisher)

    def _folder(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir()
        return folder


def shortened(directory: Path) -> list[Path]:
    """The rules, to be waited for in seconds: as they are, but for how long each must hold."""
    paths = [directory / "recording.yaml", directory / "alerts.yaml"]
    for path in paths:
        rules = (RULES / path.name).read_text("utf-8")
        rules = re.sub(r"\bfor: \w+", "for: 2s", rules)
        path.write_text(rules.replace("offset 5m", "offset 3s"), "utf-8")
    return paths


def _backdate(feed: Path) -> None:
    """Have the snapshot in *feed* say that it was made long ago."""
    with contextlib.closing(open_feed(f"dir:{feed}")) as reader:
        old = dataclasses.replace(reader.load(), created_at=LONG_AGO)
    (feed / "snapshot").write_bytes(log.encode_snapshot(snapshots.pack(old)))
