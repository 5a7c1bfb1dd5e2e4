"""What is kept of every call: who asked, what for, how many, as of when; never about whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ndoo.errors import NdooError


class AuditFailed(NdooError):
    """The record of a call cannot be kept, and so the call is not answered."""

    reason = "AUDIT_FAILED"

    def __init__(self) -> None:
        super().__init__("The service cannot keep its audit records now, and so answers nothing.")


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One call or stream. Times are Unix seconds; the counts are of NHS numbers and add up.

    *client* is "" where nobody is told apart, *revision* the token that was answered from or "",
    *status* the gRPC code, *reason* that of a refusal or "", *marks* what the call was noticed for.
    """

    started_at: float
    ended_at: float
    call_id: str
    client: str
    peer: str
    rpc: str
    purpose: str
    reference: str
    received: int
    cleared: int
    opted_out: int
    invalid: int
    revision: str
    status: str
    reason: str
    marks: tuple[str, ...] = ()


class Audit(Protocol):
    """Where the records go. For one event loop."""

    def refuse_if_failing(self) -> None:
        """Raise AuditFailed if records are required and the last could not be kept."""

    def record(self, record: AuditRecord) -> None:
        """Keep *record*. Raises AuditFailed if records are required and this one cannot be kept."""


class NoAudit:
    """Keeps nothing: no audit is set up."""

    def refuse_if_failing(self) -> None:
        pass

    def record(self, record: AuditRecord) -> None:
        pass
