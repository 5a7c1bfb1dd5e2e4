"""Who counts what the follower does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ndoo.register.changes import Kind


class FollowerObserver(Protocol):
    """Called in the follower's thread; must not block. What it raises is logged, and no more."""

    def on_connected(self, connected: bool) -> None:
        """The feed answered, or did not."""

    def on_resync(self, reason: str) -> None:
        """The history broke, for *reason*; the snapshot will be loaded again."""

    def on_refused(self, reason: str) -> None:
        """A snapshot or a change was refused."""

    def on_changes(self, counts: Mapping[Kind, int], recorded_at: float) -> None:
        """So many changes of each kind were applied, of which the feed recorded the last at
        *recorded_at* (Unix seconds; 0 if that is unknown).
        """

    def on_behind(self, changes: int) -> None:
        """The feed was seen to hold so many changes more than are applied."""

    def on_snapshot(self, made_at: float) -> None:
        """The newest snapshot in the feed says that it was made at *made_at* (Unix seconds)."""

    def on_published(self, seconds: float) -> None:
        """A replica that was up to date published a view with new changes, *seconds* after they had
        arrived.
        """


class Unobserved:
    """Counts nothing."""

    def on_connected(self, connected: bool) -> None: ...
    def on_resync(self, reason: str) -> None: ...
    def on_refused(self, reason: str) -> None: ...
    def on_changes(self, counts: Mapping[Kind, int], recorded_at: float) -> None: ...
    def on_behind(self, changes: int) -> None: ...
    def on_snapshot(self, made_at: float) -> None: ...
    def on_published(self, seconds: float) -> None: ...
