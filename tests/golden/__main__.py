"""Write what the present version writes: `PYTHONPATH=tests python -m golden`."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from golden import HERE, version
from golden.make import make
from support.redis_server import RedisServer


def main() -> None:
    folder = HERE / version()
    if folder.exists():
        sys.exit(f"{folder} is there already; if it was not released, remove it first.")
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        server = RedisServer(Path(scratch))
        stack.callback(server.kill)
        make(folder, server)


if __name__ == "__main__":
    main()
