"""A real Prometheus of one's own, which scrapes quickly, and promtool."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prometheus"
INTERVAL_S = 0.2
_WAIT_S_MAX = 60.0
_ASK_AGAIN_S = 0.02
_LISTENING = re.compile(r'msg="Listening on" address=(\S+)')

T = TypeVar("T")


@cache
def executable(name: str) -> str:
    """The path of `prometheus` or `promtool`; fetched if this machine has none."""
    found = os.environ.get("PROMETHEUS_BIN") or subprocess.run(
        [SCRIPT], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()  # fmt: skip
    path = shutil.which(name, path=found)
    assert path, f"no {name} in {found}"
    return path


def promtool(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [executable("promtool"), *arguments],
        input=stdin, capture_output=True, text=True, check=False, timeout=_WAIT_S_MAX,
    )  # fmt: skip


def api(address: str, what: str, **parameters: str) -> Any:
    """What the Prometheus at *address* tells of *what*. AssertionError if it refuses."""
    url = f"http://{address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=_WAIT_S_MAX) as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as refused:
        raise AssertionError(json.load(refused)["error"]) from None


def asked_until(look: Callable[[], T], what: str) -> T:
    """What *look* finds once it finds *what*. For what only asking can tell."""
    deadline = time.monotonic() + _WAIT_S_MAX
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(_ASK_AGAIN_S)
    return found


@dataclass(frozen=True)
class Sample:
    labels: Mapping[str, str]
    value: float


class Prometheus:
    """Scrapes /metrics of *targets* (HOST:PORT), which are of the job ndoo or else given by job,
    and evaluates the rules in *rules*, each as often as *interval_s* says. Keeps its files in
    *directory*, which is to be empty. Its first scrape comes some five seconds after its start.
    """

    def __init__(
        self,
        directory: Path,
        targets: Iterable[str] | Mapping[str, Iterable[str]],
        rules: Iterable[Path] = (),
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        by_job = targets if isinstance(targets, Mapping) else {"ndoo": targets}
        jobs = {job: list(each) for job, each in by_job.items()}
        self._targets = sum(map(len, jobs.values()))
        config = directory / "prometheus.yaml"
        config.write_text(_config(jobs, rules, interval_s), "utf-8")
        self._process = subprocess.Popen(
            [
                executable("prometheus"), f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}", "--web.listen-address=127.0.0.1:0",
            ],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.address = self._listening()
        self._drain = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._drain.start()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._drain.join()
        self._process.stderr.close()

    def query(self, expression: str) -> list[Sample]:
        """What *expression*, which gives a vector or a scalar, is now. AssertionError if wrong."""
        data = self._get("query", query=expression)
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [Sample(each["metric"], float(each["value"][1])) for each in data["result"]]

    def alerts(self, state: str = "firing") -> dict[str, list[Mapping[str, str]]]:
        """The labels of the alerts in *state* (pending or firing) now, by name."""
        found: dict[str, list[Mapping[str, str]]] = {}
        for alert in self._get("alerts")["alerts"]:
            if alert["state"] == state:
                found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found

    def wait_for(self, expression: str) -> list[Sample]:
        """What *expression* gives as soon as it gives anything."""
        return asked_until(lambda: self.query(expression), expression)

    def wait_for_alert(self, name: str) -> list[Mapping[str, str]]:
        return asked_until(lambda: self.alerts().get(name), f"the alert {name}")

    def wait_for_scrape(self) -> None:
        """Return once every target was scraped, successfully, after this was called."""
        since = time.time()
        asked_until(lambda: self._scraped(since), "a scrape of every target")

    def _scraped(self, since: float) -> bool:
        """Whether `up` is 1, by samples taken after *since*: a scrape has the time it began at."""
        oldest = self.query("min(timestamp(up))")
        all_up = self.query(f"sum(up) == {self._targets}")  # one not scraped yet has none
        return bool(all_up and oldest and oldest[0].value > since)

    def _get(self, what: str, **parameters: str) -> Any:
        return api(self.address, what, **parameters)

    def _listening(self) -> str:
        """The address, once it is ready there."""
        lines, address = [], ""
        for line in self._process.stderr:
            lines.append(line)
            if match := _LISTENING.search(line):
                address = match[1]
            if "Server is ready to receive web requests" in line:
                return address
        raise AssertionError(f"Prometheus does not start:\n{''.join(lines)}")


def _config(jobs: Mapping[str, list[str]], rules: Iterable[Path], interval_s: float) -> str:
    """YAML, in the part of it that is JSON."""
    interval = f"{round(interval_s * 1000)}ms"
    return json.dumps({
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": targets}]}
            for job, targets in jobs.items()
        ],
    })  # fmt: skip
