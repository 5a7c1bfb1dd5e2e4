"""What folding waiting changes into a new snapshot takes of the one who does it, over both feeds.

A process of its own takes two snapshots, as `ndoo snapshot` does: the first folds all changes that
wait, the second has none to fold and trims those that the first already held.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.data import WrongAnswer
from benchmarks.harness import Facts, spread
from benchmarks.machine import ROOT
from benchmarks.processes import redis_server
from benchmarks.workshop import Workshop
from ndoo.cli.demo_data import draw_register
from ndoo.nhs_number import Keys
from ndoo.publish.open import open_publisher
from ndoo.register.changes import Change, Kind

QUESTION = "What does a snapshot take, with many changes waiting?"

_APPEND_MAX = 50_000
_LOOK_UPS = 5

_TAKE = """
import json, pathlib, re, sys, time
from ndoo.publish.open import open_publisher
publisher, seconds = open_publisher(sys.argv[1]), []
for _ in range(2):
    started = time.perf_counter()
    made = publisher.snapshot()
    seconds.append(time.perf_counter() - started)
status = pathlib.Path("/proc/self/status").read_text()
told = {"seconds": seconds, "opt_outs": len(made.keys), "seq": made.revision.seq}
told["peak_mb"] = int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]) * 1024 / 1e6
print(json.dumps(told))
"""


def measure(shop: Workshop) -> Facts:
    opt_outs, waiting = shop.scale.snapshot_opt_outs, max(shop.scale.waiting_changes)
    shop.progress.say("drawing the register")
    register = draw_register(shop.rng("snapshots"), opt_outs)
    withdrawn = shop.rng("withdrawn").choice(register, waiting, replace=False)
    directory = f"dir:{shop.folder}/snapshots"
    rows = [_row(shop, "directory", directory, register, withdrawn)]
    with redis_server(shop.folder) as (server, port):
        url = f"redis://127.0.0.1:{port}/0"
        row = _row(shop, "redis", url, register, withdrawn)
        rows.append(row | {"server_peak_mb": server.memory_mb()["peak_mb"]})
    return {
        "parameters": {"opt_outs": opt_outs, "waiting": waiting},
        "rows": rows,
        "request_id_ms": spread(_look_ups(directory, int(withdrawn[0]))),
    }


def _row(shop: Workshop, name: str, url: str, register: Keys, withdrawn: Keys) -> Facts:
    shop.load(url, register)
    shop.progress.say(f"{name}, appending {len(withdrawn):,} changes")
    with contextlib.closing(open_publisher(url)) as publisher:
        for at in range(0, len(withdrawn), _APPEND_MAX):
            part = withdrawn[at : at + _APPEND_MAX].tolist()
            publisher.append([Change(Kind.OPT_IN, key=key) for key in part], request_id=f"at-{at}")
    shop.progress.say(f"{name}, taking snapshots")
    command = [sys.executable, "-c", _TAKE, url]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    told = json.loads(ran.stdout)
    if (told["opt_outs"], told["seq"]) != (len(register) - len(withdrawn), len(withdrawn)):
        raise WrongAnswer("the snapshot is not what was loaded less what was withdrawn")
    fold_s, trim_s = told["seconds"]
    return {
        "name": name,
        "fold_s": round(fold_s, 3),
        "trim_s": round(trim_s, 3),
        "peak_mb": round(told["peak_mb"], 1),
        "proof": {"opt_outs": told["opt_outs"], "seq": told["seq"]},
    }


def _look_ups(url: str, key: int) -> Sequence[float]:
    """What an append takes that looks for its id among all changes of the log, in milliseconds."""
    taken = []
    with contextlib.closing(open_publisher(url)) as publisher:
        for turn in range(_LOOK_UPS):
            started = time.perf_counter()
            publisher.append([Change(Kind.OPT_IN, key=key)], request_id=f"look-up-{turn}")
            taken.append((time.perf_counter() - started) * 1e3)
    return taken
