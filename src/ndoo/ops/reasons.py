"""Every reason and status that labels a metric: known from the start, so that all begin at zero."""

from __future__ import annotations

CODES = (
    "OK",
    "ABORTED",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "INTERNAL",
    "UNAVAILABLE",
)
REFUSALS = (
    "NOT_LOADED",
    "STALE",
    "SUSPENDED",
    "REVISION_NOT_REACHED",
    "REVISION_GONE",
    "OTHER_GENERATION",
    "TOO_MANY_STREAMS",
    "TOO_MANY_REVISIONS",
    "TOO_MANY_NUMBERS",
    "SET_TOO_LARGE",
    "BAD_SET",
    "BAD_TOKEN",
    "TOKENS_CONTRADICT",
    "MALFORMED_MESSAGE",
    "SHUTTING_DOWN",
    "STREAM_TOO_LONG",
    "STREAM_IDLE",
    "AUDIT_FAILED",
    "BAD_METADATA",
    "NOT_IDENTIFIED",
    "RPC_NOT_ALLOWED",
    "PURPOSE_NOT_ALLOWED",
    "TOO_LARGE_FOR_CLIENT",
    "RATE_EXCEEDED",
    "BUDGET_SPENT",
    "BUDGET_UNKNOWN",
    "ENUMERATION",
    "INTERNAL",
)
RESYNCS = (
    "OTHER_GENERATION",
    "TRIMMED",
    "GAP",
    "BACKWARDS",
    "REWRITTEN",
    "CHANGE_REFUSED",
    "INTERNAL",
)
FEED_REFUSALS = (
    "CHANGE_REFUSED",
    *(
        f"SNAPSHOT_{what}"
        for what in (
            "COUNT", "DIGEST", "EMPTY", "FILE", "FORMAT", "GENERATION", "HEADER", "KEY", "LINKS",
            "NOT_ROARING", "POSITION", "REPLAYED", "SHRUNKEN", "SIGNATURE", "TOO_LARGE", "UNSIGNED",
        )
    ),
)  # fmt: skip
STATE_REFUSALS = (
    "STATE_DAMAGED",
    "STATE_FOREIGN",
    "STATE_FUTURE",
    "STATE_UNREADABLE",
    "STATE_NOT_WRITTEN",
)
