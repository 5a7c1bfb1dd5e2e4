"""What several commands share: options, and the two things they connect to."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import grpc

from ndoo.client import CallFailed, ClientError, Tls, open_channel
from ndoo.client.introduction import Introduction, checked
from ndoo.config import Settings, split_address

if TYPE_CHECKING:
    from ndoo.publish.publisher import Publisher
    from ndoo.publish.seal import Seal

DEFAULT_TARGET = "127.0.0.1:50551"


def checked_target(_context: click.Context, _parameter: click.Parameter, target: str) -> str:
    """*target* if it reads HOST:PORT. Raises BadParameter."""
    with contextlib.suppress(ValueError):
        _, port = split_address(target)
        if port:
            return target
    raise click.BadParameter(f"it must be HOST:PORT, for example {DEFAULT_TARGET}")


feed_option = click.option(
    "--feed",
    metavar="URL",
    help="The feed: redis://…, rediss://… or dir:PATH. [NDOO_FEED]",
)

target_option = click.option(
    "--target",
    metavar="HOST:PORT",
    default=DEFAULT_TARGET,
    show_default=True,
    callback=checked_target,
    help="The service to ask.",
)

column_option = click.option(
    "--column",
    metavar="NAME",
    help="FILE is CSV with a header, and the NHS numbers stand in this column.",
)


@dataclass(frozen=True, slots=True)
class Manner:
    """How to connect to a service, and who and what for one says one is."""

    tls: Tls | None = None
    introduction: Introduction = field(default_factory=Introduction)


def manner_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options about TLS and about who is asking, handed to *command* as one argument, `manner`."""

    @functools.wraps(command)
    def with_manner(*arguments: Any, **given: Any) -> None:
        own = {name: given.pop(name) for name in _MANNERS}
        command(*arguments, manner=_manner_of(**own), **given)

    for name, (flag, metavar, text) in reversed(_MANNERS.items()):
        kind = click.Path(exists=True, dir_okay=False) if metavar == "FILE" else None
        with_manner = click.option(
            flag, name, metavar=metavar, type=kind, is_flag=metavar is None, help=text
        )(with_manner)
    return with_manner


_MANNERS = {
    "tls": ("--tls", None, "Use TLS; so does each of the next four."),
    "ca": ("--tls-ca", "FILE", "PEM of who signs the service's certificate, if not the system."),
    "certificate": ("--tls-certificate", "FILE", "PEM of the certificate to show."),
    "key": ("--tls-key", "FILE", "PEM of the key to that certificate."),
    "server_name": ("--tls-server-name", "NAME", "Name in the service's certificate, if another."),
    "token_file": ("--token-file", "FILE", "A token to show; read again for each call."),
    "purpose": ("--purpose", "TEXT", "What it is asked for; goes into the service's audit."),
    "reference": ("--reference", "TEXT", "Of a project or approval; goes into that audit, too."),
}


def _manner_of(*, tls: bool, token_file: str | None, **given: str | None) -> Manner:
    files = {name: given[name] for name in ("ca", "certificate", "key") if given[name]}
    server_name = given["server_name"] or ""
    introduction = Introduction()
    if token_file:
        introduction["token"] = Path(token_file).read_text
    if purpose := given["purpose"]:
        introduction["purpose"] = purpose
    if reference := given["reference"]:
        introduction["reference"] = reference
    try:
        wanted = Tls(**files, server_name=server_name) if tls or files or server_name else None
        return Manner(wanted, checked(introduction, (), wanted))
    except ValueError as error:
        raise _wrong_usage(error) from None


def _wrong_usage(error: ValueError) -> click.UsageError:
    sentence = str(error)
    return click.UsageError(f"{sentence[:1].upper()}{sentence[1:]}.")


@contextlib.contextmanager
def publisher_to(feed: str | None, seal: Seal | None = None) -> Iterator[Publisher]:
    """Who writes to *feed*, or to NDOO_FEED if it is None. Raises InputError, FeedUnavailable."""
    from ndoo.publish.open import open_publisher  # noqa: PLC0415  (the base install cannot)
    from ndoo.publish.seal import UNSIGNED  # noqa: PLC0415

    settings = Settings.from_env(os.environ, feed=feed)
    publisher = open_publisher(settings.feed, settings.prefix, seal or UNSIGNED)
    with contextlib.closing(publisher):
        yield publisher


@contextlib.contextmanager
def channel_to(target: str, manner: Manner | None = None) -> Iterator[grpc.Channel]:
    """A channel to *target*. Failures that are none of the service's own name the target."""
    manner = manner or Manner()
    try:
        opened = open_channel(target, manner.tls, manner.introduction)
    except ValueError as error:
        raise _wrong_usage(error) from None
    with opened as channel:
        try:
            yield channel
        except CallFailed as error:
            if error.reason or error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            raise ClientError(f"No service answers at {target}; {_mend(manner)}") from None


def _mend(manner: Manner) -> str:
    if manner.tls is None:
        return "start one with 'ndoo serve', or name the right one; one with TLS needs --tls."
    return "check the address, and that each side trusts who signed the other's certificate."
