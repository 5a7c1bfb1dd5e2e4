"""What callers import: needs grpcio, protobuf and numpy only."""

from __future__ import annotations

from ndoo.client.answers import Answer, ChunkAnswer, Revision, Summary, Verdict
from ndoo.client.channel import check, get_register, open_channel
from ndoo.client.errors import CallFailed, ClientError, IncompleteAnswer
from ndoo.client.stream import NUMBERS_PER_CHUNK_MAX, CheckStream, check_stream

__all__ = [
    "NUMBERS_PER_CHUNK_MAX",
    "Answer",
    "CallFailed",
    "CheckStream",
    "ChunkAnswer",
    "ClientError",
    "IncompleteAnswer",
    "Revision",
    "Summary",
    "Verdict",
    "check",
    "check_stream",
    "get_register",
    "open_channel",
]
