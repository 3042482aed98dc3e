"""``python -m ixflow_tests.tds LOG [CERTIFICATE]``: serve until killed; first prints the port."""

from __future__ import annotations

import sys
from pathlib import Path

from ixflow_tests.tds.process import PASSWORD, USER
from ixflow_tests.tds.server import Server
from ixflow_tests.tds.tls import server_context

if __name__ == "__main__":
    log, *certificates = [Path(argument) for argument in sys.argv[1:]]
    context = server_context(certificates[0]) if certificates else None
    server = Server(USER, PASSWORD, log, context)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
