"""Is this container ready?  Exit status 0 or 1, with the process's own reason: Docker's healthcheck.

Runs every few seconds in every container, so it imports nothing that takes time (0.03 s in all).
"""

import os
import socket
import sys
from typing import Final

TIMEOUT_SECONDS: Final = 4.0
REASON_BYTES_MAX: Final = 65_536


def main() -> int:
    port = int(os.environ.get(sys.argv[1] if len(sys.argv) > 1 else "NEXTCLICK_METRICS__PORT", "0"))
    try:
        answer = ask(port)
    except OSError as error:
        print(f"/readyz on port {port}: {error}")
        return 1
    head, _, reason = answer.partition(b"\r\n\r\n")
    print(reason.decode(errors="replace"))
    return 0 if head.split(b" ", 2)[1:2] == [b"200"] else 1


def ask(port: int) -> bytes:
    """The whole HTTP answer of `/readyz`.  Raises `OSError` if there is none in time."""
    request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(REASON_BYTES_MAX):
            parts.append(part)
    return b"".join(parts)


if __name__ == "__main__":
    sys.exit(main())
