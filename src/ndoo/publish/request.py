"""Requests that may be sent again: whoever names one by an id has it recorded once.

A feed remembers an id for KEPT_S, with the generation, how far it came and how many changes it was
to record; never what these were, nor a digest of it. Whether a repetition is one is seen from the
changes themselves, as long as the feed holds them.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Mapping

from ndoo.errors import InputError, NdooError

KEPT_S = 24 * 3600

_ID = re.compile(
    r"(?!.*[0-9]{9})(?!.*[0-9]{3}[_.-][0-9]{3}[_.-][0-9]{4})[A-Za-z0-9_.-]{1,64}", re.ASCII
)
_RANDOM_CHARS = 20
_DECIDING = ("op", "nhs", "new")
"""The fields of a change that a repetition has to repeat; when and how it came may be told anew."""


class RequestRefused(NdooError):
    """The id was used before for something that this request cannot be a repetition of."""

    reason = "REQUEST_REFUSED"


def is_request_id(text: str) -> bool:
    """Whether *text* can name a request. Names of keys and lines of logs hold it, so nothing in it
    may look like an NHS number.
    """
    return _ID.fullmatch(text) is not None


def new_request_id() -> str:
    """An id that no other request has: letters only, as digits may look like a number."""
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(_RANDOM_CHARS))


def check_request_id(text: str) -> None:
    """Raise InputError unless *text* can name a request, or is empty: a request without a name."""
    if text and not is_request_id(text):
        raise InputError(
            "A request id is 1 to 64 letters, digits, '_', '.' or '-', and nothing in it looks "
            "like an NHS number."
        )


def refuse_other(request_id: str, *, count: int, known_count: int, same_generation: bool) -> None:
    """Raise RequestRefused unless a request of *count* changes repeats the one that is known."""
    if count != known_count:
        raise RequestRefused(
            f"The request id {request_id} was used for {known_count:,} changes, and now for "
            f"{count:,}; give every request its own id."
        )
    if not same_generation:
        raise RequestRefused(
            f"Changes of the request {request_id} were recorded, and then another register was "
            "loaded; look what that one says, and record the rest under a new id."
        )


def refuse_changed(request_id: str, known: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise RequestRefused if a change that is *known* of a request is *now* another one: what its
    id was used for a second time would be taken for recorded, and lost.
    """
    if any(known.get(name) != now.get(name) for name in _DECIDING):
        raise RequestRefused(
            f"The request id {request_id} was used for other changes, so nothing was "
            "recorded now; give every request its own id."
        )
