"""The contract of the service on a real port, over a Python set; and every way to break it.

A flaw is a function from the true responses of a stream to those that are sent instead.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field

import grpc
import numpy as np
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from ndoo import nhs_number
from ndoo.v1 import check_pb2, check_pb2_grpc

Response = check_pb2.StreamCheckResponse
Flaw = Callable[[Iterator[Response]], Iterator[Response]]

TOKEN = "revision-7"
AS_OF_S = 1_770_000_000
RETRY_NS = 20_000_000


def revision(token: str = TOKEN) -> check_pb2.Revision:
    message = check_pb2.Revision(token=token)
    message.as_of.FromSeconds(AS_OF_S)
    return message


@dataclass
class FakeService(check_pb2_grpc.OptOutCheckServicer):
    """Answers from *opted_out* (numbers); breaks its streams as *flaw* says.

    Refuses *refusals_left* calls, all if negative, with *refusal*. Where *held* is given, refuses
    what is demanded exactly at another revision than *held*; answers are of *token*.
    """

    opted_out: set[int] = field(default_factory=set)
    flaw: Flaw | None = None
    phase: int = check_pb2.PHASE_LIVE
    numbers_per_message: int = 131_072
    refusal: tuple[grpc.StatusCode, str, str] | None = None
    refusals_left: int = -1
    token: str = TOKEN
    held: set[str] | None = None
    check_response: check_pb2.CheckResponse | None = None
    requests: list[check_pb2.StreamCheckRequest] = field(default_factory=list)
    batches: list[check_pb2.BatchCheckRequest] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def GetRegister(self, request, context):  # noqa: N802
        return check_pb2.GetRegisterResponse(
            phase=self.phase,
            revision=revision(self.token),
            opt_outs=len(self.opted_out),
            limits=check_pb2.Limits(
                numbers_per_message=self.numbers_per_message,
                bytes_per_message=4 * 1024 * 1024,
                streams=4,
            ),
            version="fake",
        )

    def Check(self, request, context):  # noqa: N802
        self._refuse(context)
        if self.check_response is not None:
            return self.check_response
        number = nhs_number.parse(request.nhs_number)
        return check_pb2.CheckResponse(verdict=self.verdict(number), revision=revision(self.token))

    def BatchCheck(self, request, context):  # noqa: N802
        self.batches.append(request)
        self._refuse(context, request.exactly_at)
        numbers = check_pb2.StreamCheckRequest(nhs_numbers=request.nhs_numbers)
        chunk, summary = self._responses(iter([numbers]), keep=False)
        return check_pb2.BatchCheckResponse(
            cleared=chunk.chunk.cleared,
            invalid=chunk.chunk.invalid,
            counts=summary.summary.counts,
            revision=summary.summary.revision,
        )

    def StreamCheck(self, request_iterator, context):  # noqa: N802
        context.add_callback(self.ended.set)
        first = next(request_iterator, None)
        self._refuse(context, first.exactly_at if first else "")
        requests = itertools.chain([first] if first else [], request_iterator)
        responses = self._responses(requests)
        yield from self.flaw(responses) if self.flaw else responses

    def verdict(self, number: int | None) -> int:
        if number is None or not nhs_number.is_valid(number):
            return check_pb2.VERDICT_INVALID
        if number in self.opted_out:
            return check_pb2.VERDICT_OPTED_OUT
        return check_pb2.VERDICT_CLEARED

    def _responses(
        self, requests: Iterator[check_pb2.StreamCheckRequest], *, keep: bool = True
    ) -> Iterator[Response]:
        counts = check_pb2.Counts()
        for request in requests:
            if keep:
                self.requests.append(request)
            verdicts = np.array([self.verdict(n) for n in request.nhs_numbers], dtype=np.uint8)
            cleared = verdicts == check_pb2.VERDICT_CLEARED
            invalid = verdicts == check_pb2.VERDICT_INVALID
            yield Response(
                chunk=check_pb2.Chunk(
                    offset=counts.received,
                    count=len(verdicts),
                    cleared=np.packbits(cleared, bitorder="little").tobytes(),
                    invalid=np.packbits(invalid, bitorder="little").tobytes()
                    if invalid.any()
                    else b"",
                    revision=None if counts.received else revision(self.token),
                )
            )
            counts.received += len(verdicts)
            counts.cleared += int(cleared.sum())
            counts.invalid += int(invalid.sum())
        counts.opted_out = counts.received - counts.cleared - counts.invalid
        yield Response(summary=check_pb2.Summary(counts=counts, revision=revision(self.token)))

    def _refuse(self, context: grpc.ServicerContext, exactly_at: str = "") -> None:
        if self.refusal is not None and self.refusals_left != 0:
            self.refusals_left -= 1
            code, reason, sentence = self.refusal
            refuse(context, code, reason, sentence)
        if exactly_at and self.held is not None and exactly_at not in self.held:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "REVISION_GONE", "It is gone.")


def refuse(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str, text: str) -> None:
    """End the call as the service does, or, without a *reason*, as anything else would."""
    if reason:
        details = status(code, reason, text).SerializeToString()
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
    context.abort(code, text)


def status(code: grpc.StatusCode, reason: str, sentence: str) -> status_pb2.Status:
    info, retry = any_pb2.Any(), any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="ndoo"))
    retry.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=RETRY_NS)))
    is_final = code is grpc.StatusCode.FAILED_PRECONDITION
    details = [info] if is_final else [info, retry]
    return status_pb2.Status(code=code.value[0], message=sentence, details=details)


def serving(service: FakeService) -> contextlib.AbstractContextManager[str]:
    """*service* on a port of its own; gives its address."""
    return _serving(
        lambda server: check_pb2_grpc.add_OptOutCheckServicer_to_server(service, server)
    )


def serving_raw(
    handlers: dict[str, grpc.RpcMethodHandler],
) -> contextlib.AbstractContextManager[str]:
    """Methods of the service that take and give bytes, on a port of their own."""
    handler = grpc.method_handlers_generic_handler("ndoo.v1.OptOutCheck", handlers)
    return _serving(lambda server: server.add_generic_rpc_handlers((handler,)))


@contextlib.contextmanager
def _serving(register: Callable[[grpc.Server], None]) -> Iterator[str]:
    threads = futures.ThreadPoolExecutor(max_workers=8)
    server = grpc.server(threads, options=[("grpc.max_receive_message_length", 8 * 1024 * 1024)])
    register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()
        threads.shutdown()
