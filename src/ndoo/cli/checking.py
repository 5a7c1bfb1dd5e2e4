"""The rows of one file after the other, asked about at one revision, and written as they come."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ndoo.cli.block import BadRows
from ndoo.cli.output import Made
from ndoo.cli.places import bytes_of
from ndoo.cli.progress import Progress
from ndoo.cli.sources import Batch, Sink, Source, open_source
from ndoo.client import Client, Revision, Summary, Verdicts
from ndoo.client.client import Terms
from ndoo.client.frames.in_order import Ask, in_order


@dataclass(slots=True)
class Checking:
    """One job. *output* is where cleared rows go, None if they are only counted."""

    client: Client
    revision: Revision
    column: str | None
    output: Made | None
    seen: Progress
    bad: BadRows = field(default_factory=BadRows)
    _bytes: int = 0

    def file(self, path: str, name: Path | None) -> Summary:
        """Ask about all rows of *path*, and write the cleared ones into the output under *name*.

        Raises InputError, OSError or ClientError, and then nothing of the job is a result.
        """
        total = Summary(0, 0, 0, 0, self.revision)
        with (
            open_source(path, self.column) as source,
            self._sink(source, name) as sink,
            contextlib.closing(self._answered(source)) as answered,
        ):
            for batch, verdicts, rows in answered:
                if sink is not None:
                    sink.write(rows)
                self.bad.note(batch, verdicts.invalid, str(name or ""))
                total = Summary.of([total, verdicts.summary])
                self.seen(self._bytes + source.position(), len(verdicts))
        self._bytes += bytes_of(path)
        self.seen(self._bytes, 0)
        return total

    def _answered(self, source: Source) -> Any:
        terms: Terms = {"exactly_at": self.revision.token}
        return in_order(self.client, source.batches(), self._work, terms)

    def _work(self, batch: Batch, ask: Ask) -> tuple[Batch, Verdicts, Any]:
        verdicts = ask(batch.column)
        rows = None if self.output is None else batch.select(verdicts.cleared)
        return batch, verdicts, rows

    @contextlib.contextmanager
    def _sink(self, source: Source, name: Path | None) -> Iterator[Sink | None]:
        if self.output is None:
            yield None
            return
        with self.output.part(name) as file, contextlib.closing(source.begin(file)) as sink:
            yield sink
