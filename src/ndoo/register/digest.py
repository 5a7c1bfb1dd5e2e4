"""One digest for one content: how replicas, feeds and sources are compared without telling a key.

SHA-256 over all opted-out keys at once, and not a sum or XOR of a hash for each: those could be
brought up to date change by change, but the difference of two such digests, taken before and after
one change, would be the hash of one person's number, and there are few enough numbers to try them
all.
"""

from __future__ import annotations

import hashlib

from ndoo.nhs_number import Keys


def digest_of(keys: Keys) -> bytes:
    """The digest, 32 bytes, of a register in which exactly *keys* (ascending) are opted out:
    SHA-256 over the keys, 4 bytes each, little-endian.
    """
    return hashlib.sha256(keys.astype("<u4", copy=False).data).digest()
