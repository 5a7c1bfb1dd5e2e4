"""Frames of polars, eager and lazy, and `pl.col("nhs_number").ndoo.cleared(client)`. Needs polars.

    import polars as pl
    import ndoo.client.frames.polars  # which gives expressions the name "ndoo"

    lazy = pl.scan_parquet("cohort/*.parquet")
    lazy.filter(pl.col("nhs_number").ndoo.cleared(client)).sink_parquet("cleared.parquet")

The streaming engine evaluates such an expression batch by batch, several at once; each is a
question of its own, and all are asked at the revision of the moment the expression was made.
"""

from __future__ import annotations

from typing import Any, Unpack

import polars as pl

from ndoo.client.client import Client, Terms
from ndoo.client.errors import CallFailed, ClientError
from ndoo.client.frames.kept import OnInvalid, Report, kept_rows


def clear_frame(
    frame: Any, client: Client, column: str, on_invalid: OnInvalid, terms: Terms
) -> tuple[Any, Report]:
    """A DataFrame or LazyFrame without the rows of people who are not cleared."""
    if isinstance(frame, pl.LazyFrame):
        report = Report(client.revision(**terms))
        return frame.filter(_kept(pl.col(column), client, on_invalid, terms, report)), report
    if not isinstance(frame, pl.DataFrame):
        raise TypeError("a Series is no frame; Client.filter takes it")
    values = frame[column]
    verdicts = client.check_many(values, **terms)
    kept = kept_rows(values, verdicts, on_invalid)
    return frame.filter(pl.Series(kept)), Report.of(verdicts.summary)


def _kept(
    numbers: pl.Expr, client: Client, on_invalid: OnInvalid, terms: Terms, report: Report
) -> pl.Expr:
    timeout_s = terms.get("timeout_s")

    def batch_kept(values: pl.Series) -> pl.Series:
        try:
            verdicts = client.check_many(
                values, exactly_at=report.revision.token, timeout_s=timeout_s
            )
        except CallFailed as error:
            # polars makes errors anew from their sentences, which suffice for this kind.
            raise ClientError(str(error)) from error
        kept = kept_rows(values, verdicts, on_invalid)
        report.add(verdicts.summary)
        return pl.Series(kept)

    return numbers.map_batches(batch_kept, return_dtype=pl.Boolean, is_elementwise=True)


@pl.api.register_expr_namespace("ndoo")
class Numbers:
    """What an expression of NHS numbers can be asked: `pl.col("nhs_number").ndoo`."""

    def __init__(self, numbers: pl.Expr) -> None:
        self._numbers = numbers

    def cleared(
        self, client: Client, on_invalid: OnInvalid = "drop", **terms: Unpack[Terms]
    ) -> pl.Expr:
        """A boolean a row: may it be disclosed? All of one revision, which is fixed now.

        *on_invalid* is that of `ndoo.client.frames.clear`. Raises ClientError, as does whatever
        evaluates the expression if there is no whole answer.
        """
        report = Report(client.revision(**terms))
        return _kept(self._numbers, client, on_invalid, terms, report)
