"""What the log of a directory tells of requests that came before. Called with its lock held.

An id is looked for as bytes, in all segments that are kept: some 20 ms for a million changes. What
was recorded for it is read, and compared.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ndoo.feed import log
from ndoo.publish.request import refuse_changed, refuse_other
from ndoo.revision import Revision

_FIELD = b'"request":"'
"""How the field begins in a line. Within a text the quotes would be escaped."""


@dataclass(frozen=True, slots=True)
class Known:
    """How far a request came: its first *done* changes, and the *revision* after these."""

    revision: Revision
    done: int


def field_of(request_id: str, nth: int, count: int) -> dict[str, str]:
    """What stands in the *nth* change of *count* that a request consists of."""
    return {"request": f"{request_id} {nth}/{count}"} if request_id else {}


def find(
    path: Path, generation: str, request_id: str, encoded: Sequence[Mapping[str, str]]
) -> Known | None:
    """How far a request of these *encoded* changes came in the log at *path*, now of *generation*.

    Raises RequestRefused if it was another, or came before another register was loaded;
    ChangeRefused if a line of it is damaged; OSError.
    """
    everywhere = {each: path / each.name for each in log.segments(path)}
    everywhere |= {each: path / each.past_name for each in log.past_segments(path)}
    known: Known | None = None
    # The newest of the present generation first: there a request came furthest.
    for segment in sorted(
        everywhere, key=lambda each: (each.generation != generation, -each.first_seq)
    ):
        for line in _lines_with(_FIELD + request_id.encode() + b" ", everywhere[segment]):
            fields = log.decode_line(line)
            nth, _, known_count = fields["request"].rpartition(" ")[2].partition("/")
            refuse_other(
                request_id,
                count=len(encoded),
                known_count=int(known_count),
                same_generation=segment.generation == generation,
            )
            refuse_changed(request_id, fields, encoded[int(nth) - 1])
            known = known or Known(Revision(generation, log.last_seq(fields)), int(nth))
    return known


def holds_requests(path: Path) -> bool:
    """Whether any change in the segment at *path* was recorded for a request with an id."""
    return next(_lines_with(_FIELD, path), None) is not None


def _lines_with(text: bytes, path: Path) -> Iterator[bytes]:
    """The whole lines that hold *text*, the last first, without their newlines."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            end = raw.rfind(b"\n") + 1
            while (at := raw.rfind(text, 0, end)) >= 0:
                start = raw.rfind(b"\n", 0, at) + 1
                yield raw[start : raw.find(b"\n", at)]
                end = start
