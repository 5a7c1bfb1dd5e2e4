"""The few errors that the core raises.

Each carries a *reason*, a short UPPER_SNAKE_CASE word that goes into statuses, metrics and logs,
and one sentence that names the cause and, where there is one, the mend. No message ever holds an
NHS number, a key or a hash of one: a sentence names positions (a line, a sequence number), never
content.
"""

from __future__ import annotations


class NdooError(Exception):
    """Anything this package refuses or cannot do. *reason* is stable, the sentence for people."""

    reason = "INTERNAL"

    def __init__(self, sentence: str, *, reason: str | None = None) -> None:
        super().__init__(sentence)
        if reason is not None:
            self.reason = reason


class InputError(NdooError):
    """A setting, flag, file or URL that cannot be used as it is."""

    reason = "BAD_INPUT"


class NotAnswering(NdooError):
    """The register may not answer now: it is not loaded, too old, or suspended."""

    reason = "NOT_LOADED"


class BadToken(NdooError):
    """A revision token that this software did not make."""

    reason = "BAD_TOKEN"


class OtherGeneration(NdooError):
    """A revision token of another history: its sequence number means nothing here."""

    reason = "OTHER_GENERATION"


class RevisionGone(NdooError):
    """The register at that very revision is no longer (or was never) held."""

    reason = "REVISION_GONE"


class RevisionNotReached(NdooError):
    """The register has not come as far as the caller demands, within the time allowed."""

    reason = "REVISION_NOT_REACHED"


class SnapshotRefused(NdooError):
    """A snapshot that cannot be proven whole. What was in use before stays in use."""

    reason = "SNAPSHOT_REFUSED"


class ChangeRefused(NdooError):
    """A change that cannot be read. It is never stepped over: whoever reads holds its position.

    *behind* is how many changes the feed was seen to hold from this one on.
    """

    reason = "CHANGE_REFUSED"
    behind: int = 1


class SequenceBroken(NdooError):
    """Changes that do not follow one upon the other: something was lost, repeated or rewritten."""

    reason = "SEQUENCE_BROKEN"


class FeedUnavailable(NdooError):
    """The feed cannot be reached now. Worth another try."""

    reason = "FEED_UNAVAILABLE"


class FeedEmpty(NdooError):
    """The feed holds no snapshot: nothing has been loaded into it."""

    reason = "FEED_EMPTY"
