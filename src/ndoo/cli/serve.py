"""`ndoo serve`: wires settings, feed, follower, gRPC and HTTP, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ndoo.config import Settings
from ndoo.ops.logs import log_event, set_up
from ndoo.ops.memory import collect_rarely, use_one_heap

if TYPE_CHECKING:
    from ndoo.feed.feed import Feed
    from ndoo.feed.keeper import Keeper, KeeperObserver
    from ndoo.ops.watch import Sign, Watch
    from ndoo.register.replica import Replica, State

FIRST_REGISTER_S_MAX = 2.0
"""How long "listening" waits for the first register, so that who waits for it finds answers."""

LAST_WRITE_S_MAX = 10.0
"""How long the end waits for the state directory."""


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """One flag for each setting, told once, in `config.Settings`."""
    for field in reversed(dataclasses.fields(Settings)):
        env, default = field.metadata["env"], field.default
        flag = "--" + env.removeprefix("NDOO_").lower().replace("_", "-")
        shown = (
            ""
            if default is dataclasses.MISSING
            else f" Default: {default:,.9g}."
            if isinstance(default, int | float)
            else f" Default: {default or 'none'}."
        )
        text = f"{field.metadata['help']}{shown} [{env}]"
        command = click.option(flag, field.name, metavar=field.type.upper(), help=text)(command)
    return command


@click.command(no_args_is_help=False)
@_settings_options
def serve(**overrides: Any) -> None:
    """Answer checks over gRPC from the register in FEED, and keep it up to date.

    \b
    ndoo serve --feed dir:./feed
    NDOO_FEED=redis://cache.internal:6379/0 ndoo serve --listen 0.0.0.0:50551

    Logs JSON lines; the one with "event": "listening" names both addresses once calls are welcome.
    SIGTERM stops it in order: health says NOT_SERVING, running calls finish, exit 0.
    """  # noqa: D301  (\b is for click)
    settings = Settings.from_env(os.environ, **overrides)
    use_one_heap()
    import uvloop

    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from ndoo.feed.follower import Follower
    from ndoo.feed.url import open_feed
    from ndoo.ops.http import HttpEndpoint
    from ndoo.ops.metrics import Metrics
    from ndoo.ops.watch import Watch
    from ndoo.register.replica import Replica
    from ndoo.server.server import Server, is_ready

    collect_rarely()

    stop = _stop_signal()  # first: whatever runs from here on is ended in order
    set_up(settings.log_level)
    feed = open_feed(settings.feed, settings.prefix)
    replica = Replica(settings.staleness_s_max)
    replica.listen(_StateLog())
    watch = Watch(settings.silence_s_max, settings.jump_max)
    replica.listen(_SignLog(watch))
    software = version("ndoo")
    metrics = Metrics(replica, software, watch=watch)
    keeper = _keeper(settings, feed, metrics)
    follower = Follower(
        feed,
        replica,
        clock=time.time,
        observer=metrics,
        history_s=settings.history_s,
        keeper=keeper,
    )
    server = Server(settings, replica, metrics, software)
    thread = threading.Thread(target=follower.run, name="follower")
    first_news = _first_news(replica)
    async with contextlib.AsyncExitStack() as ending:
        http = HttpEndpoint(settings.http_listen, metrics.registry, lambda: is_ready(replica))
        ending.callback(http.close)
        grpc_address = await server.start()
        if keeper is not None:
            keeping = threading.Thread(target=keeper.run, name="keeper", daemon=True)
            keeping.start()
            # Not for ever: a disk that hangs must not keep the process from its end.
            ending.callback(keeping.join, LAST_WRITE_S_MAX)
            ending.callback(keeper.close)
        thread.start()
        ending.callback(thread.join)
        ending.callback(follower.stop)
        ending.push_async_callback(server.stop)
        await asyncio.wait(
            {first_news, stop}, timeout=FIRST_REGISTER_S_MAX, return_when=asyncio.FIRST_COMPLETED
        )
        log_event("info", "listening", grpc=grpc_address, http=http.address, feed=feed.name)
        await stop
        log_event("info", "stopping")
    log_event("info", "stopped")


def _keeper(settings: Settings, feed: Feed, observer: KeeperObserver) -> Keeper | None:
    """Who keeps the register in the state directory, if there is to be one. Raises InputError."""
    from ndoo.feed.keeper import Keeper
    from ndoo.feed.state import StateDirectory

    if not settings.state_dir:
        return None
    directory = StateDirectory(Path(settings.state_dir), f"{feed.name} {settings.prefix}")
    return Keeper(directory, clock=time.time, observer=observer)


class _SignLog:
    """Has the watch look at each publication, and logs each of its warnings when it begins and
    ends.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._last: frozenset[Sign] = frozenset()

    def __call__(self, state: State) -> None:
        if state.view is None:
            return
        moment = time.time()
        self._watch.look(state.view.opt_outs, moment)
        last, self._last = self._last, self._watch.warnings(moment)
        for sign in sorted(last ^ self._last, key=lambda sign: sign.value):
            began = sign in self._last
            log_event(
                "warning" if began else "info",
                "warning_began" if began else "warning_ended",
                reason=sign.value,
            )


class _StateLog:
    """Logs each change of phase or trouble once, not each publication."""

    def __init__(self) -> None:
        self._last: tuple[object, ...] = ()

    def __call__(self, state: State) -> None:
        now = (state.phase, state.suspended, state.trouble)
        if now == self._last:
            return
        self._last = now
        view = state.view
        log_event(
            "warning" if state.trouble or state.suspended else "info",
            "phase",
            phase=state.phase.name,
            suspended=state.suspended,
            opt_outs=view.opt_outs if view else 0,
            seq=view.revision.seq if view else 0,
            trouble=state.trouble,
        )


def _stop_signal() -> asyncio.Future[None]:
    """Done at the first SIGTERM or SIGINT; more of them change nothing."""
    loop = asyncio.get_running_loop()
    stop = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _complete, stop)
    return stop


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _first_news(replica: Replica) -> asyncio.Future[None]:
    """Done when the follower first has a register, or trouble, to tell of."""
    loop = asyncio.get_running_loop()
    news = loop.create_future()
    first = replica.state.trouble

    def on_publication(state: State) -> None:
        if not news.done() and (state.view is not None or state.trouble not in {"", first}):
            loop.call_soon_threadsafe(_complete, news)

    replica.listen(on_publication)
    return news
