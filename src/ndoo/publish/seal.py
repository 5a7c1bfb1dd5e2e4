"""What a writer of snapshots signs with, and whose it builds on."""

from __future__ import annotations

from dataclasses import dataclass

from ndoo.register.snapshot import Sign, Verify


@dataclass(frozen=True, slots=True)
class Seal:
    """Snapshots are written with a signature by *sign*, and read only with one that *verify* knows:
    who signs what comes of another's snapshot vouches for that, too.
    """

    sign: Sign | None = None
    verify: Verify | None = None


UNSIGNED = Seal()
