from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from leaks.canaries import PEOPLE
from leaks.told import Told
from support.people import opt_out
from support.places import Place


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NDOO_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Told]]:
    """Start services; what they say is kept."""
    with ExitStack() as stack:

        def start(*flags: object, **options: str) -> Told:
            where = tmp_path / f"service-{len(list(tmp_path.glob('service-*')))}"
            where.mkdir()
            told = Told(where, [str(flag) for flag in flags], **options)
            stack.callback(told.close)
            return told

        yield start


@pytest.fixture
def loaded(place: Place) -> Place:
    """Half of the people are opted out, one by a change."""
    publisher = place.loaded(*list(PEOPLE.values())[::2], PEOPLE["opted out"])
    publisher.append([opt_out(PEOPLE["changed"])])
    return place
