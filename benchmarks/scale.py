"""How much work a run does: everything for the page, less for a look, next to none for tests."""

from __future__ import annotations

from dataclasses import dataclass

CHUNK = 131_072
"""Numbers in a bulk message, as the client library sends them."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The parameters of a run. Times are in seconds, rates in calls or changes a second."""

    name: str
    opt_outs: int
    questions: int
    rounds: int
    repeats: int  # of all questions, in one turn of a bulk contender
    peer_share: float  # of the questions that slow peers get
    set_keys: int
    opt_outs_grown: tuple[int, ...]
    message_sizes: tuple[int, ...]
    messages_max: int
    streams: tuple[int, ...]
    call_rates: tuple[int, ...]
    call_s: float
    calls_in_a_row: int
    calls_in_flight: tuple[int, ...]
    change_rates: tuple[int, ...]
    change_s: float
    waiting_changes: tuple[int, ...]
    snapshot_opt_outs: int
    file_rows: int
    starts: int  # of the service, where a start is what is measured


FULL = Scale(
    name="full",
    opt_outs=3_619_104,
    questions=128 * CHUNK,
    rounds=5,
    repeats=4,
    peer_share=1.0,
    set_keys=57_000_000,
    opt_outs_grown=(100_000, 1_000_000, 3_619_104, 10_000_000, 60_000_000),
    message_sizes=(1, 16, 256, 4096, 16_384, 65_536, 131_072, 262_144, 1_048_576),
    messages_max=4096,
    streams=(1, 2, 4, 8, 16, 32),
    call_rates=(100, 500, 1000),
    call_s=5.0,
    calls_in_a_row=4000,
    calls_in_flight=(1, 16, 256),
    change_rates=(1, 100, 1000),
    change_s=8.0,
    waiting_changes=(100_000, 1_000_000),
    snapshot_opt_outs=10_000_000,
    file_rows=20_000_000,
    starts=3,
)

QUICK = Scale(
    name="quick",
    opt_outs=3_619_104,
    questions=32 * CHUNK,
    rounds=2,
    repeats=2,
    peer_share=0.2,
    set_keys=5_700_000,
    opt_outs_grown=(100_000, 1_000_000, 3_619_104),
    message_sizes=(1, 256, 16_384, 131_072, 1_048_576),
    messages_max=1024,
    streams=(1, 2, 8, 32),
    call_rates=(100, 1000),
    call_s=1.0,
    calls_in_a_row=500,
    calls_in_flight=(1, 64),
    change_rates=(1, 100, 1000),
    change_s=1.5,
    waiting_changes=(100_000,),
    snapshot_opt_outs=3_619_104,
    file_rows=2_000_000,
    starts=1,
)

TINY = Scale(
    name="tiny",
    opt_outs=20_000,
    questions=2 * CHUNK,
    rounds=1,
    repeats=1,
    peer_share=0.01,
    set_keys=50_000,
    opt_outs_grown=(1_000, 20_000),
    message_sizes=(1, 100, CHUNK),
    messages_max=64,
    streams=(1, 3),
    call_rates=(50,),
    call_s=0.2,
    calls_in_a_row=20,
    calls_in_flight=(4,),
    change_rates=(50,),
    change_s=0.2,
    waiting_changes=(2_000,),
    snapshot_opt_outs=20_000,
    file_rows=200_000,
    starts=1,
)

SCALES = {scale.name: scale for scale in (FULL, QUICK, TINY)}
