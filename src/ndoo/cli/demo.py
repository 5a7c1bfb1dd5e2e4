"""`ndoo demo`: the whole path at full size, with every answer held against the truth."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from ndoo.cli.console import FAILED
from ndoo.cli.demo_data import draw_other, draw_questions, draw_register
from ndoo.cli.demo_run import Shown, Streamed, ask_all, show_changes
from ndoo.cli.demo_server import running_server
from ndoo.cli.options import publisher_to
from ndoo.config import Settings
from ndoo.errors import FeedEmpty, InputError, SnapshotRefused
from ndoo.nhs_number import Keys

if TYPE_CHECKING:
    from ndoo.publish.publisher import Publisher


@dataclass(frozen=True, slots=True)
class _Outcome:
    opt_outs: int
    seed: int
    streamed: Streamed
    ready_s: float
    rss_mb: float | None
    changes: list[Shown]

    @property
    def numbers_per_s(self) -> int:
        return int(self.streamed.received / self.streamed.seconds)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.option("--feed", metavar="URL", help="Use this feed, and leave the made-up register in it.")
@click.option("--numbers", type=click.IntRange(1, 200_000_000), default=20_000_000)
@click.option("--opt-outs", type=click.IntRange(1, 20_000_000), default=3_619_104)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, help="Of all that is drawn.")
@click.option("--force", is_flag=True, help="Replace the register that the feed holds.")
@click.pass_context
def demo(
    context: click.Context,
    as_json: bool,
    feed: str | None,
    numbers: int,
    opt_outs: int,
    seed: int,
    force: bool,
) -> None:
    """Run the main job once, at full size, with made-up people.

    \b
    ndoo demo
    ndoo demo --json --feed redis://127.0.0.1:6379/0

    Draws a register and loads it into a feed (a temporary folder, unless --feed names one), starts
    the real server in its own process, streams numbers through it, and compares every answer with
    the truth. Then records an opt-out and an opt-in, and waits until the verdict follows.

    Exit code 1 if any answer is wrong.
    """  # noqa: D301  (\b is for click)
    say: Callable[[str], None] = (
        (lambda text: click.echo(text, err=True)) if as_json else click.echo
    )
    with _feed(feed, force=force) as url:
        outcome = _run(url, numbers, opt_outs, seed, say, force=force)
    if feed is not None:
        say("The feed still holds these made-up people: load the real ones before it is used.")
    say(_told(outcome))
    if as_json:
        click.echo(json.dumps(_facts(outcome)))
    if outcome.streamed.wrong:
        context.exit(FAILED)


@contextlib.contextmanager
def _feed(given: str | None, *, force: bool) -> Iterator[str]:
    """The feed to use: the one given, if it is free, or a temporary folder."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix="ndoo-demo-") as folder:
            yield f"dir:{Path(folder) / 'feed'}"
    else:
        if not force:
            _refuse_loaded(given)
        yield given


def _refuse_loaded(url: str) -> None:
    """Raise InputError if the feed holds a register."""
    from ndoo.feed.url import open_feed  # noqa: PLC0415  (the base install has no feeds)

    settings = Settings.from_env(os.environ, feed=url)
    with contextlib.closing(open_feed(settings.feed, settings.prefix)) as feed:
        try:
            feed.load()
        except FeedEmpty:
            return
        except SnapshotRefused:
            pass  # damaged, but somebody's
    raise InputError(
        "This feed holds a register already, and the demo would replace it by made-up people; name "
        "an empty feed, or say --force."
    )


def _run(
    url: str, numbers: int, opt_outs: int, seed: int, say: Callable[[str], None], *, force: bool
) -> _Outcome:
    rng = np.random.default_rng(seed)
    say(f"Drawing {opt_outs:,} people who opted out, and {numbers:,} numbers to ask about ...")
    register = draw_register(rng, opt_outs)
    questions = draw_questions(rng, register, numbers)
    say("Loading the feed, and starting the server ...")
    with publisher_to(url) as publisher:
        _load(publisher, register, force=force)
        with running_server(url) as server:
            say("Asking ...")
            streamed = ask_all(server.target, questions)
            rss_mb = server.rss_mb()
            changes = show_changes(server.target, publisher, draw_other(rng, register))
    return _Outcome(opt_outs, seed, streamed, round(server.ready_s, 3), rss_mb, changes)


def _load(publisher: Publisher, register: Keys, *, force: bool) -> None:
    from pyroaring import BitMap  # noqa: PLC0415  (the base install has no publisher)

    from ndoo.publish.source import Terms  # noqa: PLC0415

    publisher.load(BitMap(register), Terms(accept_jump=force))


def _told(outcome: _Outcome) -> str:
    streamed = outcome.streamed
    memory = "unknown" if outcome.rss_mb is None else f"{outcome.rss_mb:,.0f} MB in the server"
    asked = f"over {streamed.streams} streams in {streamed.seconds:.2f} s"
    lines = [
        ("register", f"{outcome.opt_outs:,} opt-outs, drawn from seed {outcome.seed}"),
        ("ready", f"{outcome.ready_s:.2f} s after the server's process was started"),
        ("asked", f"{streamed.received:,} numbers {asked}"),
        ("speed", f"{outcome.numbers_per_s:,} numbers a second"),
        ("cleared", f"{streamed.cleared:,}"),
        ("opted out", f"{streamed.opted_out:,}"),
        ("invalid", f"{streamed.invalid:,}"),
        ("wrong", f"{streamed.wrong:,}"),
        ("memory", memory),
    ]
    lines += [
        (
            shown.change.replace("_", "-"),
            f"shows as {shown.verdict} after {shown.visible_ms:.1f} ms",
        )
        for shown in outcome.changes
    ]
    return "\n".join(f"  {name:<12}{text}" for name, text in lines)


def _facts(outcome: _Outcome) -> dict[str, object]:
    """The outcome in JSON. `change_visible_ms` is that of the slower of the changes."""
    return {
        "opt_outs": outcome.opt_outs,
        "seed": outcome.seed,
        **asdict(outcome.streamed),
        "numbers_per_s": outcome.numbers_per_s,
        "ready_s": outcome.ready_s,
        "rss_mb": outcome.rss_mb,
        "change_visible_ms": max(shown.visible_ms for shown in outcome.changes),
        "changes": [asdict(shown) for shown in outcome.changes],
    }
