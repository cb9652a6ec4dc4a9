"""Whether a Ray cluster answers at an address: asked before anything is written, and in seconds.

Ray itself tries for two minutes and then ends the process. What listens at a cluster's address is a gRPC server, and
such a server sends its HTTP/2 settings to whoever opens a connection (RFC 9113, section 3.4).
"""

from __future__ import annotations

import socket

LOCAL, AUTO = "local", "auto"
PATIENCE = 5.0  # s, for a connection and for the first answer
HOW = "`ray start --head` starts one; name the HOST:PORT that it prints, or take auto on one of its hosts, or local"

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and settings of ours: none
_SETTINGS = 4  # type of a frame


def check_address(address: str) -> None:
    """
    Raises:
        ValueError: no address, or no cluster there.
    """
    if address in (LOCAL, AUTO):
        return
    host, port = split_address(address)
    try:
        with socket.create_connection((host, port), PATIENCE) as connection:
            connection.sendall(_PREFACE)
            answer = _read(connection, 4)
    except OSError as error:
        raise ValueError(f"ray: no cluster answers at {address} ({error}); {HOW}") from error
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise ValueError(f"ray: what answers at {address} is no Ray cluster; {HOW}")


def split_address(address: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        ValueError: it has another form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"ray: expected {AUTO}, {LOCAL} or HOST:PORT, got {address!r}; {HOW}")
    return host.strip("[]"), int(port)


def _read(connection: socket.socket, count: int) -> bytes:
    """The first bytes of an answer; fewer where it ends before."""
    answer = b""
    while len(answer) < count and (part := connection.recv(count - len(answer))):
        answer += part
    return answer
