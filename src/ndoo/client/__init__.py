"""Whose record may be disclosed? Ask the service from Python, one number or a hundred million.

    from ndoo.client import Client, Verdict

    with Client("127.0.0.1:50551") as client:
        if client.check("999 000 0018"):         # true for Verdict.CLEARED alone
            ...
        frame = frame[client.check_many(frame["nhs_number"]).cleared]

One number: `check` gives a `Verdict`, `answer` the verdict with its `Revision`.

A column: `check_many` gives `Verdicts`, boolean numpy arrays `cleared`, `opted_out` and `invalid`,
one place a value, with a `summary` of counts and the `revision`; `filter` the cleared values
themselves; `check_set` is `check_many` for large cohorts over thin lines; `check_each` takes an
iterable of columns and yields the `Verdicts` of each, a few ahead, in bounded memory.

A column is a list or tuple, a numpy array, a Series, Index or array of pandas, a Series of polars,
or anything with the Arrow PyCapsule interface (arrays of pyarrow), holding integers or whole floats
of 64 bits, decimals, or texts of ten digits, bare or grouped 3-3-4. Null, NaN, negative,
fractional, too large or unreadable values are `invalid`, in their places. Booleans, dates, and
what has 32 bits, which ten digits do not fit, are refused with TypeError. None of these libraries
is needed, or imported.

All answers of a call, over all its streams, replicas and retries, are of one revision. To hold
several calls, tasks or processes to one, take it first and hand its token around:

    token = client.revision().token
    client.check_many(numbers, exactly_at=token)

What a call raises is a `ClientError`, and then there is no answer: `CallFailed` with the service's
reason, `IncompleteAnswer` if messages do not add up, `ClientClosed`. Broken connections, and what
the service itself calls worth another try, are tried again, on the next replica, until `timeout_s`.

`ndoo.client.frames` takes whole data frames: pandas, polars, Arrow, DuckDB.

`AsyncClient` has the same methods for asyncio, and puts concurrent checks into common messages.
`Client(["one:50551", "other:50551"], tls=Tls(ca="ca.pem"))` knows several replicas, over TLS.
`Client(..., token=read_token, purpose="research", reference="18/CAG/1")` says who asks, and what
for, where the service wants to know; see `Introduction`.
"""

from __future__ import annotations

from ndoo.client.aio import AsyncClient
from ndoo.client.answers import Answer, ChunkAnswer, Revision, Summary, Verdict, Verdicts
from ndoo.client.channel import check, get_register, open_channel
from ndoo.client.client import Client
from ndoo.client.connections import Tls
from ndoo.client.errors import CallFailed, ClientClosed, ClientError, IncompleteAnswer, NoToken
from ndoo.client.introduction import Introduction
from ndoo.client.stream import NUMBERS_PER_CHUNK_MAX, CheckStream, check_stream

__all__ = [
    "NUMBERS_PER_CHUNK_MAX",
    "Answer",
    "AsyncClient",
    "CallFailed",
    "CheckStream",
    "ChunkAnswer",
    "Client",
    "ClientClosed",
    "ClientError",
    "IncompleteAnswer",
    "Introduction",
    "NoToken",
    "Revision",
    "Summary",
    "Tls",
    "Verdict",
    "Verdicts",
    "check",
    "check_stream",
    "get_register",
    "open_channel",
]
