"""How fast a replica that was away takes in the changes that wait for it, over both feeds.

The service is started on a feed whose snapshot is followed by so many changes; the time between its
phases CATCHING_UP and LIVE is what the changes take, less what the same start takes with none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from benchmarks.data import WrongAnswer
from benchmarks.harness import Facts, spread
from benchmarks.processes import Served, redis_server
from benchmarks.workshop import Workshop
from ndoo.client import get_register, open_channel
from ndoo.nhs_number import Keys
from ndoo.publish.open import open_publisher
from ndoo.register.changes import Change, Kind

QUESTION = "How fast does a replica catch up?"

FEEDS = ("redis", "directory")
_APPEND_MAX = 50_000
_TAKEN_IN_MAX = 300_000  # for each point, so that a long one is not repeated


def measure(shop: Workshop) -> Facts:
    with redis_server(shop.folder) as (_, port):
        urls = {"redis": f"redis://127.0.0.1:{port}/0", "directory": f"dir:{shop.folder}/waiting"}
        rows = [row for name in FEEDS for row in _rows(shop, name, urls[name])]
    return {
        "parameters": {"opt_outs": len(shop.register), "waiting": shop.scale.waiting_changes},
        "rows": rows,
    }


def _rows(shop: Workshop, name: str, url: str) -> list[Facts]:
    """Ever more changes behind one snapshot, beginning with none."""
    shop.load(url, shop.register)
    idle_s, idle_cpu_s = map(
        min, zip(*(_start(shop, url, len(shop.register)) for _ in range(shop.scale.starts)))
    )
    others = _others(shop)
    rows, waiting = [], 0
    for count in shop.scale.waiting_changes:
        shop.progress.say(f"{name}, appending {count:,} changes")
        _append(url, others[waiting:count])
        waiting = count
        turns = max(1, min(shop.scale.starts, _TAKEN_IN_MAX // count))
        starts = [_start(shop, url, len(shop.register) + count) for _ in range(turns)]
        seconds = [max(1e-3, start - idle_s) for start, _ in starts]
        rows.append({
            "name": f"{name}, {count:,} waiting", "feed": name, "waiting": count,
            "seconds": [round(value, 4) for value in seconds],
            "changes_per_s": spread([count / value for value in seconds]),
            "cpu_us_a_change": spread([(cpu - idle_cpu_s) / count * 1e6 for _, cpu in starts]),
        })  # fmt: skip
    return rows


def _start(shop: Workshop, url: str, opt_outs: int) -> tuple[float, float]:
    """Seconds from CATCHING_UP to LIVE of a fresh start, and all its processor time."""
    with shop.service(url) as served:
        _prove(served, opt_outs)
        return served.phase("LIVE") - served.phase("CATCHING_UP"), served.cpu_s()


def _prove(served: Served, opt_outs: int) -> None:
    with open_channel(served.target) as channel:
        found = get_register(channel).opt_outs
    if found != opt_outs:
        raise WrongAnswer(f"{found:,} opt-outs are held where there should be {opt_outs:,}")


def _others(shop: Workshop) -> Keys:
    """Keys of people who have not opted out, each once, in random order."""
    most = max(shop.scale.waiting_changes)
    cleared = shop.asked.numbers[shop.asked.truth.cleared]
    keys = np.unique(cleared // np.uint64(10))
    if len(keys) < most:
        raise ValueError("there are too few questions to draw so many people from")
    return shop.rng("waiting").permutation(keys)[:most]


def _append(url: str, keys: Sequence[int]) -> None:
    with contextlib.closing(open_publisher(url)) as publisher:
        for at in range(0, len(keys), _APPEND_MAX):
            part = keys[at : at + _APPEND_MAX].tolist()
            publisher.append([Change(Kind.OPT_OUT, key=key) for key in part])
