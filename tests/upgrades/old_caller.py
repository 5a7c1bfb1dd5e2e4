"""A caller with the code that a released contract generates: `old_caller.py CODE ADDRESS`.

Asks about what stands on standard input (JSON: numbers, and their keys as a Roaring bitmap in
hexadecimal) with every method, and prints what it was told as JSON.
"""

from __future__ import annotations

import json
import sys

import grpc


def main(code: str, address: str) -> None:
    sys.path.insert(0, code)
    from ndoo.v1 import check_pb2, check_pb2_grpc  # noqa: PLC0415  (the old ones)

    assert check_pb2.__file__.startswith(code)
    asked = json.load(sys.stdin)
    numbers, keys = asked["numbers"], bytes.fromhex(asked["keys"])
    with grpc.insecure_channel(address) as channel:
        stub = check_pb2_grpc.OptOutCheckStub(channel)
        register = stub.GetRegister(check_pb2.GetRegisterRequest(with_digest=True))
        token = {
            "exactly_at": register.revision.token,
            "at_least_as_fresh": register.revision.token,
        }
        batch = stub.BatchCheck(check_pb2.BatchCheckRequest(nhs_numbers=numbers, **token))
        stream = stub.StreamCheck(
            iter([check_pb2.StreamCheckRequest(nhs_numbers=numbers, **token)] * 2)
        )
        sets = stub.CheckSet(iter([check_pb2.CheckSetRequest(keys=keys, **token)]))
        told = {
            "phase": check_pb2.Phase.Name(register.phase),
            "opt_outs": register.opt_outs,
            "digest": register.digest.hex(),
            "single": [
                check_pb2.Verdict.Name(
                    stub.Check(check_pb2.CheckRequest(nhs_number=str(number), **token)).verdict
                )
                for number in numbers
            ],
            "batch": [batch.cleared.hex(), batch.invalid.hex(), batch.revision.token],
            "stream": [_of(each, ("cleared", "invalid")) for each in stream],
            "set": [_of(each, ("cleared",)) for each in sets],
            "token": register.revision.token,
        }
    json.dump(told, sys.stdout)


def _of(response: object, blocks: tuple[str, ...]) -> list[str]:
    kind = response.WhichOneof("message")
    if kind == "chunk":
        return [kind, *(getattr(response.chunk, name).hex() for name in blocks)]
    counts = response.summary.counts
    told = (counts.received, counts.cleared, counts.opted_out, counts.invalid)
    return [kind, *map(str, told), response.summary.revision.token]


if __name__ == "__main__":
    main(*sys.argv[1:])
