"""Generate the Python code of proto/ndoo/v1 into the given folder: `generate_proto.py FOLDER`."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "proto"


def generate(target: Path, protos: Path = PROTOS) -> None:
    """Write the messages of *protos*, their types and the stubs below *target*/ndoo/v1."""
    sources = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    well_known = files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={protos}",
            f"--proto_path={well_known}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            f"--grpc_python_out={target}",
            *sources,
        ]
    )
    if status:
        sys.exit(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
