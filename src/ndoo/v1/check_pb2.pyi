import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_CLEARED: _ClassVar[Verdict]
    VERDICT_OPTED_OUT: _ClassVar[Verdict]
    VERDICT_INVALID: _ClassVar[Verdict]

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_LOADING: _ClassVar[Phase]
    PHASE_CATCHING_UP: _ClassVar[Phase]
    PHASE_LIVE: _ClassVar[Phase]
    PHASE_STALE: _ClassVar[Phase]
    PHASE_SUSPENDED: _ClassVar[Phase]
VERDICT_UNSPECIFIED: Verdict
VERDICT_CLEARED: Verdict
VERDICT_OPTED_OUT: Verdict
VERDICT_INVALID: Verdict
PHASE_UNSPECIFIED: Phase
PHASE_LOADING: Phase
PHASE_CATCHING_UP: Phase
PHASE_LIVE: Phase
PHASE_STALE: Phase
PHASE_SUSPENDED: Phase

class Revision(_message.Message):
    __slots__ = ("token", "as_of")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    token: str
    as_of: _timestamp_pb2.Timestamp
    def __init__(self, token: _Optional[str] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Counts(_message.Message):
    __slots__ = ("received", "cleared", "opted_out", "invalid")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    CLEARED_FIELD_NUMBER: _ClassVar[int]
    OPTED_OUT_FIELD_NUMBER: _ClassVar[int]
    INVALID_FIELD_NUMBER: _ClassVar[int]
    received: int
    cleared: int
    opted_out: int
    invalid: int
    def __init__(self, received: _Optional[int] = ..., cleared: _Optional[int] = ..., opted_out: _Optional[int] = ..., invalid: _Optional[int] = ...) -> None: ...

class CheckRequest(_message.Message):
    __slots__ = ("nhs_number", "at_least_as_fresh", "exactly_at")
    NHS_NUMBER_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_AS_FRESH_FIELD_NUMBER: _ClassVar[int]
    EXACTLY_AT_FIELD_NUMBER: _ClassVar[int]
    nhs_number: str
    at_least_as_fresh: str
    exactly_at: str
    def __init__(self, nhs_number: _Optional[str] = ..., at_least_as_fresh: _Optional[str] = ..., exactly_at: _Optional[str] = ...) -> None: ...

class CheckResponse(_message.Message):
    __slots__ = ("verdict", "revision")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    revision: Revision
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., revision: _Optional[_Union[Revision, _Mapping]] = ...) -> None: ...

class BatchCheckRequest(_message.Message):
    __slots__ = ("nhs_numbers", "at_least_as_fresh", "exactly_at")
    NHS_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_AS_FRESH_FIELD_NUMBER: _ClassVar[int]
    EXACTLY_AT_FIELD_NUMBER: _ClassVar[int]
    nhs_numbers: _containers.RepeatedScalarFieldContainer[int]
    at_least_as_fresh: str
    exactly_at: str
    def __init__(self, nhs_numbers: _Optional[_Iterable[int]] = ..., at_least_as_fresh: _Optional[str] = ..., exactly_at: _Optional[str] = ...) -> None: ...

class BatchCheckResponse(_message.Message):
    __slots__ = ("cleared", "invalid", "counts", "revision")
    CLEARED_FIELD_NUMBER: _ClassVar[int]
    INVALID_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    cleared: bytes
    invalid: bytes
    counts: Counts
    revision: Revision
    def __init__(self, cleared: _Optional[bytes] = ..., invalid: _Optional[bytes] = ..., counts: _Optional[_Union[Counts, _Mapping]] = ..., revision: _Optional[_Union[Revision, _Mapping]] = ...) -> None: ...

class StreamCheckRequest(_message.Message):
    __slots__ = ("nhs_numbers", "at_least_as_fresh", "exactly_at")
    NHS_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_AS_FRESH_FIELD_NUMBER: _ClassVar[int]
    EXACTLY_AT_FIELD_NUMBER: _ClassVar[int]
    nhs_numbers: _containers.RepeatedScalarFieldContainer[int]
    at_least_as_fresh: str
    exactly_at: str
    def __init__(self, nhs_numbers: _Optional[_Iterable[int]] = ..., at_least_as_fresh: _Optional[str] = ..., exactly_at: _Optional[str] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("offset", "count", "cleared", "invalid", "revision")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    CLEARED_FIELD_NUMBER: _ClassVar[int]
    INVALID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    offset: int
    count: int
    cleared: bytes
    invalid: bytes
    revision: Revision
    def __init__(self, offset: _Optional[int] = ..., count: _Optional[int] = ..., cleared: _Optional[bytes] = ..., invalid: _Optional[bytes] = ..., revision: _Optional[_Union[Revision, _Mapping]] = ...) -> None: ...

class Summary(_message.Message):
    __slots__ = ("counts", "revision")
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    counts: Counts
    revision: Revision
    def __init__(self, counts: _Optional[_Union[Counts, _Mapping]] = ..., revision: _Optional[_Union[Revision, _Mapping]] = ...) -> None: ...

class StreamCheckResponse(_message.Message):
    __slots__ = ("chunk", "summary")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    chunk: Chunk
    summary: Summary
    def __init__(self, chunk: _Optional[_Union[Chunk, _Mapping]] = ..., summary: _Optional[_Union[Summary, _Mapping]] = ...) -> None: ...

class CheckSetRequest(_message.Message):
    __slots__ = ("keys", "at_least_as_fresh", "exactly_at")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_AS_FRESH_FIELD_NUMBER: _ClassVar[int]
    EXACTLY_AT_FIELD_NUMBER: _ClassVar[int]
    keys: bytes
    at_least_as_fresh: str
    exactly_at: str
    def __init__(self, keys: _Optional[bytes] = ..., at_least_as_fresh: _Optional[str] = ..., exactly_at: _Optional[str] = ...) -> None: ...

class SetChunk(_message.Message):
    __slots__ = ("cleared", "counts")
    CLEARED_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    cleared: bytes
    counts: Counts
    def __init__(self, cleared: _Optional[bytes] = ..., counts: _Optional[_Union[Counts, _Mapping]] = ...) -> None: ...

class CheckSetResponse(_message.Message):
    __slots__ = ("chunk", "summary")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    chunk: SetChunk
    summary: Summary
    def __init__(self, chunk: _Optional[_Union[SetChunk, _Mapping]] = ..., summary: _Optional[_Union[Summary, _Mapping]] = ...) -> None: ...

class GetRegisterRequest(_message.Message):
    __slots__ = ("exactly_at", "with_digest")
    EXACTLY_AT_FIELD_NUMBER: _ClassVar[int]
    WITH_DIGEST_FIELD_NUMBER: _ClassVar[int]
    exactly_at: str
    with_digest: bool
    def __init__(self, exactly_at: _Optional[str] = ..., with_digest: _Optional[bool] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("numbers_per_message", "bytes_per_message", "streams")
    NUMBERS_PER_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    numbers_per_message: int
    bytes_per_message: int
    streams: int
    def __init__(self, numbers_per_message: _Optional[int] = ..., bytes_per_message: _Optional[int] = ..., streams: _Optional[int] = ...) -> None: ...

class Activity(_message.Message):
    __slots__ = ("numbers", "calls", "streams", "changes", "started_at")
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    numbers: int
    calls: int
    streams: int
    changes: int
    started_at: _timestamp_pb2.Timestamp
    def __init__(self, numbers: _Optional[int] = ..., calls: _Optional[int] = ..., streams: _Optional[int] = ..., changes: _Optional[int] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetRegisterResponse(_message.Message):
    __slots__ = ("phase", "revision", "opt_outs", "limits", "version", "digest", "activity")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OPT_OUTS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    phase: Phase
    revision: Revision
    opt_outs: int
    limits: Limits
    version: str
    digest: bytes
    activity: Activity
    def __init__(self, phase: _Optional[_Union[Phase, str]] = ..., revision: _Optional[_Union[Revision, _Mapping]] = ..., opt_outs: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., version: _Optional[str] = ..., digest: _Optional[bytes] = ..., activity: _Optional[_Union[Activity, _Mapping]] = ...) -> None: ...
