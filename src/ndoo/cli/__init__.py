"""The command line: wires the rooms together."""

import os

# Its errors come as statuses, and it logs them, too. Read when gRPC is imported, so set before.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
