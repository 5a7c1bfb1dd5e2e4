"""The state directory: the last verified register, for a replica that starts without its feed.

    register    a line about it, and the register as a snapshot
    confirmed   a line: until when the register was known to be complete, whether answers are
                suspended, how far the replica that wrote it had come, and by which change
    newest      a line: how new a signed snapshot was seen in the feed, if snapshots must be signed

They are put in place whole, by renaming what was made durable before; their lines carry a checksum,
and the line of `register` the SHA-256 of all that follows it. `confirmed` names by that digest the
register it is about: beside any other, only its suspension counts.

What is damaged, of another feed or from the future is refused, and never answered from. One process
at a time uses a directory: it locks the directory itself, so that nothing has to be written first.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import math
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ndoo.errors import ChangeRefused, InputError, NdooError, SnapshotRefused
from ndoo.feed import durable, log
from ndoo.register import snapshot as snapshots
from ndoo.register.changes import Change, decode_numbered, encode_numbered
from ndoo.register.replica import CLOCK_BACK_S_MAX
from ndoo.register.snapshot import REGISTER_BYTES_MAX, Snapshot
from ndoo.revision import Revision

FORMAT = "1"
"""Of the files and of the positions in them: a feed that names its positions anew raises it."""

REGISTER, CONFIRMED, NEWEST = "register", "confirmed", "newest"
STATE_BYTES_MAX = 2 * REGISTER_BYTES_MAX
_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600


class StateRefused(NdooError):
    """A state directory that cannot be read or written now. *reason* is one of STATE_DAMAGED,
    STATE_FOREIGN, STATE_FUTURE, STATE_UNREADABLE, STATE_NOT_WRITTEN.
    """

    reason = "STATE_DAMAGED"


@dataclass(frozen=True, slots=True)
class Reached:
    """What was published last: a revision, its position in the feed, its number of opt-outs, and
    the change that led there, None if that is unknown.
    """

    revision: Revision
    position: str
    opt_outs: int
    last: Change | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What was last known of the register with the digest *register*.

    *as_of* is the last moment (Unix seconds) at which it held every change; *reached* may lie
    beyond it.
    """

    register: str
    as_of: float
    suspended: bool
    reached: Reached


@dataclass(frozen=True, slots=True)
class Kept:
    """A register read back, and what is known of it."""

    snapshot: Snapshot
    confirmed: Confirmation


@dataclass(frozen=True, slots=True)
class Newest:
    """A signed snapshot that was seen, and when its generation began (Unix seconds)."""

    revision: Revision
    began_at: float

    def is_older_than(self, other: Newest) -> bool:
        if self.revision.generation == other.revision.generation:
            return self.revision.seq < other.revision.seq
        return self.began_at < other.began_at


class StateDirectory:
    """The state of a replica that follows *feed*, which names one feed among all. Any thread may
    use it.
    """

    def __init__(self, path: Path, feed: str) -> None:
        """Raises InputError if another process uses the directory. One that cannot be used for
        another reason is told of by `read` and `write`, and tried again each time.
        """
        self._path = path
        self._feed = feed
        self._lock = threading.Lock()
        self._file: int | None = None
        try:
            self._directory()
        except BlockingIOError:
            raise InputError(
                f"Another process uses the state directory {path}; give each replica its own with "
                "NDOO_STATE_DIR."
            ) from None
        except OSError:
            return

    def read(self, now: float) -> Kept | None:
        """What was kept; None if nothing was. *now* is Unix seconds. Raises StateRefused."""
        with self._errors("read", "STATE_UNREADABLE"):
            raw, confirmed = self._bytes(REGISTER), self._bytes(CONFIRMED)
        if raw is None:
            return None
        if confirmed is None:
            raise StateRefused("The state lacks its confirmation, and is not used.")
        try:
            kept = _kept(raw, log.decode_line(confirmed.removesuffix(b"\n")), self._feed)
        except (ChangeRefused, SnapshotRefused, KeyError, ValueError):
            raise StateRefused(
                "The state is damaged or of another version, and not used."
            ) from None
        if kept.confirmed.as_of > now + CLOCK_BACK_S_MAX:
            raise StateRefused(
                "The state is of a moment that is still to come: the clock was set back, and its "
                "age is unknown.",
                reason="STATE_FUTURE",
            )
        return kept

    def write_register(self, snapshot: Snapshot, as_of: float) -> str:
        """Keep *snapshot*, complete at *as_of*, in place of any other; returns its digest.

        Raises StateRefused, or SnapshotRefused for what no reader would accept; what was kept
        before is then still there.
        """
        body = log.encode_snapshot(snapshots.pack(snapshot))
        digest = hashlib.sha256(body).hexdigest()
        fields = {"state": FORMAT, "feed": self._feed, "as_of": repr(as_of), "sha256": digest}
        with self._errors("written", "STATE_NOT_WRITTEN"):
            self._put(REGISTER, log.encode_line(fields) + body)
        return digest

    def write_confirmation(self, confirmation: Confirmation) -> None:
        """Keep *confirmation* in place of any other. Raises StateRefused, also if there is no
        register any more that it could be about.
        """
        reached = confirmation.reached
        fields = {
            "register": confirmation.register,
            "as_of": repr(confirmation.as_of),
            "suspended": str(confirmation.suspended),
            "generation": reached.revision.generation,
            "seq": str(reached.revision.seq),
            "position": reached.position,
            "opt_outs": str(reached.opt_outs),
            **(encode_numbered(reached.last) if reached.last is not None else {}),
        }
        with self._errors("written", "STATE_NOT_WRITTEN"):
            os.stat(REGISTER, dir_fd=self._directory())
            self._put(CONFIRMED, log.encode_line(fields))

    def read_newest(self) -> Newest | None:
        """The newest signed snapshot that was noted; None if none was. Raises StateRefused."""
        with self._errors("read", "STATE_UNREADABLE"):
            raw = self._bytes(NEWEST)
        if raw is None:
            return None
        try:
            return _newest(log.decode_line(raw.removesuffix(b"\n")), self._feed)
        except (ChangeRefused, KeyError, ValueError):
            raise StateRefused(
                "The note of the newest snapshot is damaged, and not used."
            ) from None

    def write_newest(self, newest: Newest) -> None:
        """Note *newest* in place of any other. Raises StateRefused."""
        fields = {
            "feed": self._feed,
            "generation": newest.revision.generation,
            "seq": str(newest.revision.seq),
            "began_at": repr(newest.began_at),
        }
        with self._errors("written", "STATE_NOT_WRITTEN"):
            self._put(NEWEST, log.encode_line(fields))

    def forget(self) -> None:
        """Make what is kept unusable, which takes no room on the disk. Raises StateRefused."""
        with self._errors("written", "STATE_NOT_WRITTEN"):
            directory = self._directory()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(CONFIRMED, dir_fd=directory)
            os.fsync(directory)

    def close(self) -> None:
        """Let another process use the directory. May be called twice."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _directory(self) -> int:
        """The directory, locked; another one if it is no longer what lies at its path."""
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), self._path.stat()):
                    return self._file
            self.close()
        self._path.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise
        self._file = file
        return file

    def _bytes(self, name: str) -> bytes | None:
        try:
            file = os.open(name, os.O_RDONLY, dir_fd=self._directory())
        except FileNotFoundError:
            return None
        with os.fdopen(file, "rb") as opened:
            return opened.read(STATE_BYTES_MAX)

    def _put(self, name: str, raw: bytes) -> None:
        durable.put(self._directory(), name, raw, _FILE_MODE)

    @contextlib.contextmanager
    def _errors(self, done: str, reason: str) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except BlockingIOError:
            raise StateRefused(
                f"The state directory {self._path} is in use by another process.", reason=reason
            ) from None
        except OSError as error:
            cause = os.strerror(error.errno) if error.errno else type(error).__name__
            raise StateRefused(
                f"The state directory {self._path} cannot be {done}: {cause}.", reason=reason
            ) from None


def moment(unix_s: float) -> str:
    """*unix_s* as RFC 3339, UTC."""
    return dt.datetime.fromtimestamp(unix_s, dt.UTC).isoformat(timespec="milliseconds")


def _kept(raw: bytes, fields: Mapping[str, str], feed: str) -> Kept:
    """What the two files hold. Raises StateRefused, ChangeRefused, SnapshotRefused, KeyError or
    ValueError.
    """
    line, _, body = raw.partition(b"\n")
    about = log.decode_line(line)
    if about["state"] != FORMAT:
        raise ValueError("a format of another version")
    if about["feed"] != feed:
        raise _foreign()
    if hashlib.sha256(body).hexdigest() != about["sha256"]:
        raise ValueError("not what was written")
    snapshot = snapshots.unpack(log.decode_snapshot(body))
    confirmed = _confirmation(fields)
    if confirmed.register != about["sha256"]:  # the writer ended between one file and the other
        confirmed = Confirmation(
            about["sha256"],
            _time(about["as_of"]),
            confirmed.suspended,
            Reached(snapshot.revision, snapshot.position, len(snapshot.keys), snapshot.last),
        )
    return Kept(snapshot, confirmed)


def _newest(fields: Mapping[str, str], feed: str) -> Newest:
    """Raises StateRefused, KeyError or ValueError."""
    if fields["feed"] != feed:
        raise _foreign()
    revision = Revision(fields["generation"], int(fields["seq"]))
    return Newest(revision, _time(fields["began_at"]))


def _foreign() -> StateRefused:
    return StateRefused("The state is of another feed, and not used.", reason="STATE_FOREIGN")


def _confirmation(fields: Mapping[str, str]) -> Confirmation:
    revision = Revision(fields["generation"], int(fields["seq"]))
    return Confirmation(
        fields["register"],
        _time(fields["as_of"]),
        {"True": True, "False": False}[fields["suspended"]],
        Reached(revision, fields["position"], int(fields["opt_outs"]), decode_numbered(fields)),
    )


def _time(text: str) -> float:
    time = float(text)
    if not math.isfinite(time):
        raise ValueError("not a moment")
    return time
