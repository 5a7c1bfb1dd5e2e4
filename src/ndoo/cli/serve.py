"""`ndoo serve`: wires settings, feed, follower, gRPC and HTTP, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ndoo.cli.signing import trusted
from ndoo.config import Settings
from ndoo.errors import InputError
from ndoo.ops.logs import log_event, set_up
from ndoo.ops.memory import collect_rarely, use_one_heap

if TYPE_CHECKING:
    from ndoo.feed.feed import Feed
    from ndoo.feed.keeper import Keeper
    from ndoo.ops.metrics import Metrics
    from ndoo.ops.watch import Sign, Watch
    from ndoo.register.replica import Replica, State
    from ndoo.server.access import Door
    from ndoo.server.call import Traces

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
            else f" Default: {str(default).lower()}."
            if isinstance(default, bool)
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
    NDOO_FEED=redis://cache.internal:6379/0 ndoo serve --listen 0.0.0.0:50551 \\
        --tls-certificate tls.crt --tls-key tls.key

    Logs JSON lines; the one with "event": "listening" names both addresses once calls are welcome.
    SIGTERM stops it in order: health says NOT_SERVING, running calls finish, exit 0. A second one
    ends their time to finish.
    """  # noqa: D301  (\b is for click)
    settings = Settings.from_env(os.environ, **overrides)
    from ndoo.ops.crashes import leave_no_core

    use_one_heap()
    leave_no_core()
    import uvloop

    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from ndoo.feed.follower import Follower
    from ndoo.ops.audit_log import auditing
    from ndoo.ops.http import HttpEndpoint
    from ndoo.ops.metrics import Metrics
    from ndoo.ops.watch import Watch
    from ndoo.register.replica import Replica
    from ndoo.server.server import Server

    collect_rarely()

    stop = _stop_signal()  # first: whatever runs from here on is ended in order
    replica = Replica(settings.staleness_s_max)
    replica.listen(_StateLog())
    watch = Watch(settings.silence_s_max, settings.jump_max)
    replica.listen(_SignLog(watch))
    software = version("ndoo")
    metrics = Metrics(replica, software, watch=watch)
    feed, keeper = _feed_and_keeper(settings, metrics)
    follower = Follower(
        feed,
        replica,
        clock=time.time,
        observer=metrics,
        history_s=settings.history_s,
        keeper=keeper,
    )
    thread = threading.Thread(target=follower.run, name="follower")
    first_news = _first_news(replica)
    async with contextlib.AsyncExitStack() as ending:
        ending.enter_context(_events(settings, metrics))
        audit = ending.enter_context(auditing(settings, metrics))
        door = await ending.enter_async_context(_door(settings, metrics))
        traces = _traces(settings, software, ending)
        server = Server(settings, replica, metrics, software, door=door, audit=audit, traces=traces)
        http = HttpEndpoint(
            settings.http_listen,
            metrics.registry,
            has_started=server.has_started,
            is_ready=server.is_ready,
        )
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
        addresses = {"grpc": grpc_address, "http": http.address, "health": server.health_address}
        guarded = {"tls": server.has_tls, "clients": bool(settings.clients)}
        log_event("info", "listening", **addresses, **guarded, feed=feed.name)
        await stop
        _on_signal(server.hurry)
        log_event("info", "stopping")


@contextlib.contextmanager
def _events(settings: Settings, metrics: Metrics) -> Iterator[None]:
    """Events are written until the block ends; faults and stalls are among them."""
    from ndoo.ops.crashes import log_faults
    from ndoo.ops.stalls import watching_for_stalls

    events = set_up(settings.log_level, settings.log_format, metrics)
    log_faults(asyncio.get_running_loop())
    try:
        with watching_for_stalls(metrics):
            yield
        log_event("info", "stopped")
    finally:
        events.end()


def _traces(settings: Settings, software: str, ending: contextlib.AsyncExitStack) -> Traces | None:
    """Who sends spans until the *ending*, if there are to be any. Raises InputError."""
    if not settings.traces:
        return None
    try:
        from ndoo.ops.tracing import Tracing
    except ModuleNotFoundError:
        raise InputError(
            "NDOO_TRACES needs OpenTelemetry; install it with: pip install 'ndoo[server,otel]'"
        ) from None
    from ndoo.server.calls import SERVICE_NAME

    tracing = Tracing(SERVICE_NAME, software)
    ending.callback(tracing.close)
    return tracing


@contextlib.asynccontextmanager
async def _door(settings: Settings, metrics: Metrics) -> AsyncIterator[Door]:
    """Who lets callers in: everybody, or the clients that are named. Raises InputError."""
    if not settings.clients:
        from ndoo.server.access import OpenDoor

        yield OpenDoor()
        return
    # What it takes to import the rest is for those alone who have clients.
    from ndoo.budgets.open import open_store
    from ndoo.server.budgets import Ledger
    from ndoo.server.gate import Gate
    from ndoo.server.quotas import Quotas
    from ndoo.server.rules import RulesFiles

    files = RulesFiles(settings, metrics)
    ledger = None
    if settings.budgets:
        store = open_store(settings.budgets, settings.prefix)
        ledger = Ledger(store, metrics, fail_open=settings.budgets_fail_open)
    quotas = Quotas(metrics, ledger)
    threading.Thread(target=files.run, name="policy", daemon=True).start()
    try:
        yield Gate(files, quotas)
    finally:
        files.stop()
        await quotas.close()


def _feed_and_keeper(settings: Settings, metrics: Metrics) -> tuple[Feed, Keeper | None]:
    """Where opt-outs come from, and who keeps them, if there is to be one. Raises InputError."""
    from ndoo.feed.keeper import Keeper
    from ndoo.feed.signed import SignedFeed
    from ndoo.feed.state import StateDirectory
    from ndoo.feed.url import open_feed

    verify = trusted(settings)
    feed = open_feed(settings.feed, settings.prefix, verify)
    state = None
    if settings.state_dir:
        # What was kept while snapshots need not be signed is of another feed: anybody's.
        identity = f"{feed.name} {settings.prefix}{' signed' if verify else ''}"
        state = StateDirectory(Path(settings.state_dir), identity)
    if verify is not None:
        feed = SignedFeed(feed, state, clock=time.time, refused=metrics.on_state_refused)
    return feed, Keeper(state, clock=time.time, observer=metrics) if state else None


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
    """Done at the first SIGTERM or SIGINT."""
    stop = asyncio.get_running_loop().create_future()
    _on_signal(_complete, stop)
    return stop


def _on_signal(act: Callable[..., None], *arguments: Any) -> None:
    """Have SIGTERM and SIGINT do this from now on."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, act, *arguments)


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
