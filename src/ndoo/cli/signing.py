"""Who may sign the snapshots of a feed, and signing them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ndoo.config import Settings
from ndoo.errors import InputError

if TYPE_CHECKING:
    from ndoo.publish.seal import Seal
    from ndoo.register.snapshot import Verify

sign_option = click.option(
    "--sign",
    "key",
    metavar="FILE",
    help="Sign the snapshot with the Ed25519 private key in FILE (PEM).",
)


def trusted(settings: Settings) -> Verify | None:
    """Who may sign the snapshots of the feed; None if they need not be. Raises InputError."""
    if not settings.snapshot_public_key:
        return None
    from ndoo.register.signature import Verifier  # noqa: PLC0415  (the base install cannot)

    return Verifier.of(settings.snapshot_public_key)


def seal_of(feed: str | None, key: str | None, *, builds_on: bool) -> Seal:
    """How to sign with the private key in the file *key*, or not to sign without one.

    A snapshot that *builds_on* the one in the feed is signed only if that one was, by a key that is
    trusted, or this very key: whoever forged it would get it signed else. Raises InputError also
    for a snapshot that readers would refuse.
    """
    from ndoo.publish.seal import Seal  # noqa: PLC0415  (the base install cannot)

    verify = trusted(Settings.from_env(os.environ, feed=feed))
    if key is None:
        if verify is not None:
            raise InputError(
                "NDOO_SNAPSHOT_PUBLIC_KEY is set, so no reader would take a snapshot that is not "
                "signed; name the private key with --sign FILE."
            )
        return Seal()
    from ndoo.register.signature import Signer  # noqa: PLC0415

    signer = Signer(key)
    if verify is not None and not verify(signer.sign(b""), b""):
        raise InputError(
            "The key of --sign is not among those in NDOO_SNAPSHOT_PUBLIC_KEY, so no reader would "
            "take what it signs; add its public key there first."
        )
    return Seal(signer.sign, verify or (signer.verify if builds_on else None))
