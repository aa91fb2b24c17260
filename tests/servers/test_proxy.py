"""The proxy that tests break links with does what it is told."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture
def echo() -> Generator[int]:
    """The port of a server that sends back what it gets, one client after another."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                client, _ = server.accept()
                with client:
                    try:
                        while data := client.recv(1_000):
                            if data == b"end":
                                return
                            client.sendall(data)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        port = int(server.getsockname()[1])
        yield port
        with socket.create_connection(("127.0.0.1", port)) as last:
            last.sendall(b"end")
        thread.join()


def connected(proxy: Proxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port))
    client.settimeout(10)
    return client


def test_it_forwards_until_so_many_bytes(echo: int) -> None:
    """They arrive, and then the connection ends; the next one is as usual."""
    with Proxy(echo) as proxy:
        for way in ("to_server", "to_client"):
            with connected(proxy) as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
                proxy.cut_after(3, way)
                client.sendall(b"world")
                came = b""
                while data := client.recv(100):
                    came += data
                # The server's answer to a part may still get through, or not.
                assert came == b"wor" or (came == b"" and way == "to_server")
        assert proxy.cuts == 2


def test_it_resets_and_refuses(echo: int) -> None:
    """All connections there are, or those that come, too."""
    with Proxy(echo) as proxy:
        with connected(proxy) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
            proxy.refuse()
            with pytest.raises(ConnectionResetError):
                client.recv(100)
        with connected(proxy) as client, pytest.raises(ConnectionResetError):
            client.recv(100)
        proxy.restore()
        with connected(proxy) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                client.recv(100)


def test_it_holds_back_and_lets_through(echo: int) -> None:
    """What was sent meanwhile arrives in the end."""
    with Proxy(echo) as proxy, connected(proxy) as client:
        proxy.stall()
        client.sendall(b"hello")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(100)
        proxy.restore()
        client.settimeout(10)
        assert client.recv(100) == b"hello"
