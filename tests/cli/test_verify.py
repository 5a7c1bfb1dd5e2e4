"""`ndoo verify`: the same, different, or not known."""

from __future__ import annotations

import json
import re

import grpc
import pytest
from pyroaring import BitMap

from client.fake_service import serving_raw
from client.people import valid_numbers
from ndoo.cli.demo_server import running_server
from ndoo.feed.url import open_feed
from ndoo.publish.fold import fold
from ndoo.publish.open import open_publisher
from ndoo.register.changes import Change, Kind
from ndoo.register.digest import digest_of
from ndoo.v1 import check_pb2

NUMBERS = [f"{number:010d}" for number in valid_numbers(20).tolist()]
FEED = "dir:feed"
NOBODY = "127.0.0.1:9"


@pytest.fixture
def loaded(run, tmp_path):
    (tmp_path / "list.dat").write_text("\n".join(NUMBERS[:10]))
    assert run("load", "list.dat", "--feed", FEED).exit_code == 0
    feed = open_feed(FEED)
    yield fold(feed).register
    feed.close()


def answering(told):
    return serving_raw({"GetRegister": grpc.unary_unary_rpc_method_handler(told)})


def as_asked(register, **other):
    """A replica that holds *register*, but for what is *other*."""

    def told(request, _context):
        asked = check_pb2.GetRegisterRequest.FromString(request)
        assert (asked.exactly_at, asked.with_digest) == (register.revision.token, True)
        facts = {"opt_outs": len(register), "digest": digest_of(register.keys()), **other}
        revision = check_pb2.Revision(token=facts.pop("token", asked.exactly_at))
        return check_pb2.GetRegisterResponse(revision=revision, **facts).SerializeToString()

    return told


def test_the_feed_alone_agrees_with_itself(run, loaded):
    result = run("verify", "--feed", FEED)
    assert (result.exit_code, result.stdout.split()) == (0, ["feed", "10", "same"])


def test_replicas_and_source_that_agree(run, loaded):
    with answering(as_asked(loaded)) as one, answering(as_asked(loaded)) as other:
        result = run("verify", "list.dat", "--feed", FEED, "--target", one, "--target", other)
    assert result.exit_code == 0, result.stdout
    assert result.stdout.count("same") == 4
    assert "99900" not in result.stdout


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"opt_outs": 9}, "9 opt-outs, and the feed 10"),
        ({"digest": b"x" * 32}, "of other people"),
        ({"token": "another"}, "another revision"),
    ],
)
def test_a_replica_that_differs(run, loaded, other, why):
    with answering(as_asked(loaded, **other)) as target:
        result = run("verify", "--feed", FEED, "--target", target, "--target", NOBODY)
    assert result.exit_code == 1  # whatever could not be asked beside it
    assert re.search(rf"{target}.*differs.*{why}", result.stdout)


def test_a_replica_that_cannot_be_asked(run, loaded):
    with answering(as_asked(loaded)) as good, answering(as_asked(loaded, digest=b"")) as old:
        for target in (NOBODY, old):
            result = run("verify", "--feed", FEED, "--target", good, "--target", target)
            assert result.exit_code == 3
            assert re.search(rf"{target}.*not asked", result.stdout)


def test_a_source_differs_if_loading_it_would_change_somebody(run, loaded, tmp_path):
    run("record", "opt_out", NUMBERS[15], "--feed", FEED)
    assert run("verify", "list.dat", "--feed", FEED).exit_code == 0
    (tmp_path / "other.dat").write_text("\n".join(NUMBERS[1:12]))
    result = run("verify", "other.dat", "--feed", FEED)
    assert result.exit_code == 1
    assert "opt out 2 and release 1" in result.stdout


def test_json(run, loaded):
    with answering(as_asked(loaded)) as target:
        result = run("verify", "list.dat", "--feed", FEED, "--target", target, "--json")
    found = json.loads(result.stdout)
    assert [(each["who"], each["outcome"]) for each in found] == [
        ("feed", "same"),
        ("source", "same"),
        (target, "same"),
    ]
    assert all(set(each) == {"who", "outcome", "opt_outs", "why"} for each in found)


@pytest.mark.parametrize(
    "arguments",
    [("--feed", "dir:nowhere"), ("missing.dat", "--feed", FEED), ("empty.dat", "--feed", FEED)],
)
def test_what_cannot_be_read_is_no_difference(run, loaded, tmp_path, arguments):
    (tmp_path / "empty.dat").write_text("\n")
    result = run("verify", *arguments)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize("arguments", [("--target", "nowhere"), ("--wait", "0"), ("--what",)])
def test_wrong_usage(run, loaded, arguments):
    assert run("verify", "--feed", FEED, *arguments).exit_code == 2


def test_a_real_replica_is_waited_for_and_compared(run, loaded):
    """At a revision that it reaches only after it was asked, in a generation new to it."""
    with running_server(FEED) as server:
        publisher = open_publisher(FEED)
        publisher.load(BitMap([int(number) // 10 for number in NUMBERS[:12]]))
        for number in NUMBERS:
            publisher.append([Change(Kind.OPT_OUT, key=int(number) // 10)])
        publisher.close()
        result = run("verify", "--feed", FEED, "--target", server.target)
        assert result.exit_code == 0, result.stdout
        assert result.stdout.count("same") == 2


def test_a_replica_of_another_feed_differs(run, loaded):
    assert run("load", "list.dat", "--feed", "dir:other").exit_code == 0
    with running_server("dir:other") as server:
        result = run("verify", "--feed", FEED, "--target", server.target, "--wait", "0.5")
    assert result.exit_code == 1
    assert "differs" in result.stdout
