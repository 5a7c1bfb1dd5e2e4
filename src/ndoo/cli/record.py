"""`ndoo record`: append changes to a feed."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from ndoo import nhs_number
from ndoo.cli.block import BYTE_ORDER_MARK, TOLD_MAX, BadRows
from ndoo.cli.console import tell
from ndoo.cli.moment import read_moment
from ndoo.cli.options import feed_option, publisher_to
from ndoo.cli.rows import open_list, read_rows
from ndoo.errors import FeedUnavailable, InputError
from ndoo.publish.request import is_request_id, new_request_id

if TYPE_CHECKING:
    from ndoo.publish.publisher import Publisher
    from ndoo.register.changes import Change
    from ndoo.revision import Revision

PAUSES_S = (0.2, 1.0, 3.0)
"""Before each further try to record what may have been recorded already."""

_SOURCE = re.compile(
    r"(?!.*[0-9]{9})(?!.*[0-9]{3}[_.-][0-9]{3}[_.-][0-9]{4})[A-Za-z0-9][A-Za-z0-9_.-]{0,31}"
)


def _moment(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str:
    """*text*, or now, as RFC 3339 in UTC. Raises BadParameter."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    moment = now if text is None else read_moment(text)
    return moment.isoformat().removesuffix("+00:00") + "Z"


def _source(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    if text and not _SOURCE.fullmatch(text):
        raise click.BadParameter(
            "it must be a short code of letters and digits, for example nhs-app"
        )
    return text


def _request_id(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str:
    if text is None:
        return new_request_id()
    if not is_request_id(text):
        raise click.BadParameter(
            "it must be 1 to 64 letters, digits, '_', '.' or '-', and not look like an NHS number"
        )
    return text


def _change_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--request-id",
            metavar="ID",
            callback=_request_id,
            help="Names this request: run again with the same ID within a day, it records nothing "
            "twice. Default: a random one.",
        ),
        click.option(
            "--src", metavar="CODE", default="", callback=_source, help="The channel it came by."
        ),
        click.option(
            "--at",
            metavar="TIME",
            callback=_moment,
            help="When the person chose: RFC 3339, as 2026-03-01T09:30:00Z. Default: now.",
        ),
        feed_option,
    ):
        command = option(command)
    return command


@click.group()
def record() -> None:
    """Append changes to a feed: choices of people, and stopping or resuming all answers.

    \b
    ndoo record opt_out - --feed dir:./feed < numbers.dat
    ndoo record supersede - --feed dir:./feed < old-and-new.csv
    ndoo record suspend --feed dir:./feed

    Use "-" and standard input for NHS numbers: what stands on the command line can be read by
    every user of the machine in its list of processes, and stays in the history of the shell.

    All numbers are validated first; if one is wrong, nothing is recorded. Prints the revision
    reached, for --at-least-as-fresh. If the feed fails on the way it is tried again, and nothing is
    recorded twice.
    """  # noqa: D301  (\b is for click)


@record.command("opt_out")
@click.argument("numbers", metavar="-|NUMBER...", nargs=-1, required=True)
@_change_options
def opt_out(numbers: tuple[str, ...], **where: Any) -> None:
    """These people opted out: do not disclose them.

    \b
    ndoo record opt_out - --feed dir:./feed --src nhs-app < numbers.dat
    """  # noqa: D301  (\b is for click)
    _record("opt_out", _keys(numbers), **where)


@record.command("opt_in")
@click.argument("numbers", metavar="-|NUMBER...", nargs=-1, required=True)
@_change_options
def opt_in(numbers: tuple[str, ...], **where: Any) -> None:
    """These people withdrew their opt-out.

    \b
    ndoo record opt_in - --feed dir:./feed < numbers.dat
    """  # noqa: D301  (\b is for click)
    _record("opt_in", _keys(numbers), **where)


@record.command("supersede")
@click.argument("numbers", metavar="-|OLD NEW", nargs=-1, required=True)
@_change_options
def supersede(numbers: tuple[str, ...], **where: Any) -> None:
    """A person got a NEW number in place of an OLD one: an opt-out of either holds for both.

    \b
    ndoo record supersede - --feed dir:./feed < old-and-new.csv

    Standard input holds "old,new" a row.
    """  # noqa: D301  (\b is for click)
    _record("supersede", _pairs(numbers), **where)


@record.command("suspend")
@_change_options
def suspend(**where: Any) -> None:
    """Stop all answers of every service on this feed, at once, until 'resume'."""
    _record("suspend", [(None, None)], **where)


@record.command("resume")
@_change_options
def resume(**where: Any) -> None:
    """Let services answer again after 'suspend'."""
    _record("resume", [(None, None)], **where)


Keys = Sequence[tuple[int | None, int | None]]


def _record(kind: str, keys: Keys, *, feed: str | None, at: str, src: str, request_id: str) -> None:
    from ndoo.register.changes import Change, Kind  # noqa: PLC0415

    changes: list[Change] = [
        Change(Kind(kind), key=key, new_key=new_key, at=at, src=src) for key, new_key in keys
    ]
    with publisher_to(feed) as publisher, _id_told_if_interrupted(request_id):
        revision = _append(publisher, changes, request_id)
    click.echo(f"Recorded {len(changes):,} {'change' if len(changes) == 1 else 'changes'}.")
    click.echo(f"Revision: {revision.token}")


def _append(publisher: Publisher, changes: Sequence[Change], request_id: str) -> Revision:
    """Append *changes* once, and try again only where it is unknown whether they were."""
    from ndoo.publish.publisher import Unconfirmed  # noqa: PLC0415

    try:
        return publisher.append(changes, request_id=request_id)
    except Unconfirmed as error:
        doubt: FeedUnavailable = error
    for pause_s in PAUSES_S:
        time.sleep(pause_s)
        try:
            return publisher.append(changes, request_id=request_id)
        except FeedUnavailable as error:
            doubt = error if isinstance(error, Unconfirmed) else doubt
    raise FeedUnavailable(f"{doubt} {_again(request_id)}")


@contextlib.contextmanager
def _id_told_if_interrupted(request_id: str) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        tell(f"It is unknown how much was recorded. {_again(request_id)}")
        raise


def _again(request_id: str) -> str:
    return f"Run it again with --request-id {request_id} and nothing is recorded twice."


def _keys(numbers: tuple[str, ...]) -> Keys:
    """The keys of *numbers*, or of standard input. Raises InputError unless all are valid."""
    if numbers != ("-",):
        return [(key, None) for key in _all_valid(numbers)]
    bad = BadRows()
    keys: list[int] = []
    with open_list("-") as source:
        for block in read_rows(source, None).blocks():
            good = nhs_number.valid(block.numbers)
            bad.note(block, ~good)
            keys += (block.numbers[good] // 10).tolist()
    bad.tell()
    _refuse_bad(bad.total)
    return [(key, None) for key in keys]


def _pairs(numbers: tuple[str, ...]) -> Keys:
    if numbers == ("-",):
        keys = _all_valid(_standard_input_pairs(), "line", in_one=2)
    elif len(numbers) == 2:
        keys = _all_valid(numbers)
    else:
        raise click.UsageError(
            "Give the OLD and the NEW number, or - to read pairs from standard input"
        )
    return list(zip(keys[::2], keys[1::2]))


def _standard_input_pairs() -> list[str]:
    numbers: list[str] = []
    with open_list("-") as source:
        for line, row in enumerate(source, 1):
            pair = (row.removeprefix(BYTE_ORDER_MARK) if line == 1 else row).split(b",")
            if len(pair) != 2:
                raise InputError(f'Line {line:,} is not "old,new"; nothing was recorded.')
            numbers += (number.strip().decode("latin-1") for number in pair)
    return numbers


def _all_valid(numbers: Sequence[str], place_name: str = "number", *, in_one: int = 1) -> list[int]:
    """The keys of *numbers*, of which *in_one* stand in each place. Raises InputError."""
    faults = [(place, nhs_number.fault_of(number)) for place, number in enumerate(numbers, 1)]
    bad = [(place, fault) for place, fault in faults if fault is not None]
    for place, fault in bad[:TOLD_MAX]:
        tell(f"{place_name} {(place - 1) // in_one + 1:,}: {fault.value}")
    _refuse_bad(len(bad))
    return [key for number in numbers if (key := nhs_number.key_of(number)) is not None]


def _refuse_bad(count: int) -> None:
    if count:
        raise InputError(f"Not all numbers are valid ({count:,} are not), so nothing was recorded.")
