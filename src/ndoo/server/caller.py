"""Who calls and what for, as the call itself says: certificate, token, and metadata.

What a caller writes of itself goes into logs and records, so nothing that could be an NHS number is
taken: a purpose or reference with one is refused, and a call id with one is replaced.
"""

from __future__ import annotations

import functools
import re
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import grpc

from ndoo import nhs_number
from ndoo.errors import InputError

CALL_ID = "ndoo-call-id"
PURPOSE = "ndoo-purpose"
REFERENCE = "ndoo-reference"

_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/@+-]{0,99}")
_KEY = re.compile(r"[0-9]{9}")
_BEARER = "bearer "
_NAME_KINDS = {
    "x509_subject": "subject", "peer_uri": "URI", "peer_dns": "DNS", "peer_email": "email",
    "peer_ip": "IP",
}  # fmt: skip
_CERTIFICATES_MAX = 1024
_CALL_ID_BYTES = 8
_NO_DIGITS = str.maketrans(string.digits, "ghijklmnop")  # ten of them could be a number

Context = grpc.aio.ServicerContext[bytes, bytes]


class BadMetadata(InputError):
    """A purpose or reference that cannot be kept as it is."""

    reason = "BAD_METADATA"


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller at one call. *purpose* and *reference* are "" if it declares none.

    *names* are the subject and the alternative names of its certificate, which gRPC has verified,
    each with its kind, as in "URI:spiffe://…", because an e-mail address may read like a URI; empty
    without a certificate. *token* is what it sent as `authorization: Bearer …`, which nobody has
    verified yet.
    """

    peer: str
    call_id: str
    purpose: str = ""
    reference: str = ""
    names: tuple[str, ...] = ()
    token: str = field(default="", repr=False)


def caller_of(context: Context) -> Caller:
    """Who makes the call of *context*. Raises BadMetadata."""
    metadata = {
        name: value
        for name, value in context.invocation_metadata() or ()
        if isinstance(value, str)  # names ending in -bin carry bytes, and none of them is ours
    }
    authorization = metadata.get("authorization", "")
    is_bearer = authorization[: len(_BEARER)].lower() == _BEARER
    return Caller(
        peer=context.peer(),
        call_id=call_id_of(metadata),
        purpose=_declared(metadata, PURPOSE),
        reference=_declared(metadata, REFERENCE),
        names=_names_of(context.auth_context()),
        token=authorization[len(_BEARER) :].strip() if is_bearer else "",
    )


def _names_of(certificate: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    kinds = dict(_NAME_KINDS)
    if any(map(_has_cut_name, certificate.get("x509_pem_cert", ()))):
        kinds = {"x509_subject": kinds["x509_subject"]}  # by which nobody is known
    return tuple(
        f"{kind}:{name.decode(errors='replace')}"
        for key, kind in kinds.items()
        for name in certificate.get(key, ())
    )


@functools.lru_cache(_CERTIFICATES_MAX)
def _has_cut_name(pem: bytes) -> bool:
    """Whether an alternative name in a certificate holds a NUL. There gRPC cuts it off: somebody
    whose name is another client's, a NUL, and a domain of his own, would be that client.
    """
    from cryptography import x509  # noqa: PLC0415  (who has no certificate waits for no import)

    try:
        extensions = x509.load_pem_x509_certificate(pem).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    except ValueError:  # what cannot be read proves nothing
        return True
    return any("\0" in str(name.value) for name in names)


def traceparent_of(context: Context) -> str:
    """Which span of its own the caller calls from (W3C Trace Context), "" if it says none."""
    metadata = context.invocation_metadata() or ()
    return next((str(value) for name, value in metadata if name == "traceparent"), "")


def call_id_of(metadata: Mapping[str, str]) -> str:
    """The id that the caller gave its call, or one made up."""
    given = metadata.get(CALL_ID, "")
    return given if may_be_kept(given) else secrets.token_hex(_CALL_ID_BYTES).translate(_NO_DIGITS)


def _declared(metadata: Mapping[str, str], name: str) -> str:
    text = metadata.get(name, "")
    if text and not may_be_kept(text):
        raise BadMetadata(
            f"The metadata '{name}' must be up to 100 letters, digits, spaces or any of ._:/@+-, "
            "without nine digits in a row, and hold nothing that could be an NHS number."
        )
    return text


def may_be_kept(text: str) -> bool:
    """Whether *text* is plain, and holds neither what could be an NHS number nor a key of one."""
    is_plain = _TEXT.fullmatch(text) is not None and _KEY.search(text) is None
    return is_plain and not nhs_number.may_be_in(text)
