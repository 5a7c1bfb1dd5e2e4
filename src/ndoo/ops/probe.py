"""Whether the service in this container is alive: `python -m ndoo.ops.probe`, for a health check.

Asks /livez where NDOO_HTTP_LISTEN says. Exits with 0, or with 1 and a sentence. It needs no other
program, and imports little, since it runs again and again.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping

from ndoo.config import Settings, split_address

_PATH = "/livez"
_TIMEOUT_S = 3.0
_DEFAULT = str(Settings.__dataclass_fields__["http_listen"].default)


def complaint(environ: Mapping[str, str]) -> str | None:
    """What is wrong, as a sentence; None if the service answers that it is alive.

    A service that listens on every address is found on loopback.
    """
    listen = environ.get("NDOO_HTTP_LISTEN") or _DEFAULT
    try:
        connection = http.client.HTTPConnection(*split_address(listen), timeout=_TIMEOUT_S)
        connection.request("GET", _PATH)
        status = connection.getresponse().status
    except ValueError:
        return "NDOO_HTTP_LISTEN is not HOST:PORT; set it to what the service listens on."
    except (OSError, http.client.HTTPException):
        return f"No service answers at {listen}; start it, with NDOO_HTTP_LISTEN as it is set here."
    if status != http.client.OK:
        return f"{_PATH} at {listen} answers {status}; see the log of what listens there."
    return None


if __name__ == "__main__":
    sys.exit(complaint(os.environ))
