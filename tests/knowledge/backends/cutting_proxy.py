"""Stands between psycopg and a server, on Unix sockets, and cuts a connection at a chosen moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

COMMIT = b"COMMIT\0"


class CuttingProxy:
    """Forwards connections until it sees a COMMIT; then it cuts, once.

    Args:
        folder: where its socket is made.
        server: the server's socket.
        deliver: whether the server gets the COMMIT before the connection is cut.
    """

    def __init__(self, folder: Path, server: Path, *, deliver: bool) -> None:
        self.folder = folder
        self.cuts = 0
        self._server = server
        self._deliver = deliver
        self._armed = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self) -> None:
        """Cut at the next COMMIT."""
        self._armed = True

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            threading.Thread(target=self._back, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        while data := _receive(client):
            if self._armed and COMMIT in data:
                self._armed = False
                self.cuts += 1
                client.shutdown(socket.SHUT_RDWR)
                if not self._deliver:
                    break
            server.sendall(data)
        with contextlib.suppress(OSError):  # the server may have been the first to hang up
            server.shutdown(socket.SHUT_WR)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        while data := _receive(server):
            try:
                client.sendall(data)
            except OSError:
                continue  # it was cut; the server is heard to its end
        client.close()
        server.close()


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""
