"""A RabbitMQ that wants to know who is there: TLS with certificates of both sides, and users."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.servers.certificates import PASSWORD, Certificates
from tests.servers.process import free_port
from tests.servers.rabbitmq import RabbitMQ

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("LIMIT", "SecureRabbitMQ")

LIMIT = 300_000
"""Bytes that a message may have there, far less than what the client is told."""
EXTRA = """\
listeners.ssl.1 = 127.0.0.1:{tls_port}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {shown}
ssl_options.keyfile = {shown}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
max_message_size = {limit}
"""


class SecureRabbitMQ(RabbitMQ):
    """Beside the open port one with TLS.

    ``alice`` may do anything in ``/``; there is a virtual host ``a/b%2F`` of hers, too. ``bob``
    may do nothing but read and write what is named ``open…``.

    Attributes:
        certificates: What its TLS is made of.
        tls_port: Where that is.
    """

    def __init__(self, directory: Path, *, extra: str = "") -> None:
        self.certificates = Certificates.made(directory)
        self.tls_port = free_port()
        self._shown = directory / "shown.pem"
        self._show(self.certificates.server)
        own = EXTRA.format(
            tls_port=self.tls_port, ca=self.certificates.ca, shown=self._shown, limit=LIMIT
        )
        super().__init__(directory, extra=own + extra)

    def _show(self, certificate: Path) -> None:
        self._shown.write_bytes(certificate.read_bytes())

    def shows(self, certificate: Path) -> None:
        """From now on this is the certificate that comers get to see."""
        self._show(certificate)
        self.control("eval", "ssl:clear_pem_cache().")

    def add_users(self) -> None:
        """Let ``alice`` and ``bob`` in; one call, as each takes a second."""
        self.control(
            "eval",
            f"""
            [rabbit_auth_backend_internal:add_user(N, <<"{PASSWORD}">>, <<"t">>)
                || N <- [<<"alice">>, <<"bob">>]],
            rabbit_vhost:add(<<"{OTHER}">>, <<"t">>),
            All = <<".*">>,
            rabbit_auth_backend_internal:set_permissions(
                <<"alice">>, <<"/">>, All, All, All, <<"t">>),
            rabbit_auth_backend_internal:set_permissions(
                <<"alice">>, <<"{OTHER}">>, All, All, All, <<"t">>),
            rabbit_auth_backend_internal:set_permissions(
                <<"bob">>, <<"/">>, All, <<"^open.*">>, <<"^open.*">>, <<"t">>).
            """,
        )

    def at(self, user: str, password: str = PASSWORD, vhost: str = "/") -> str:
        """The address of the open port, for somebody."""
        who = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"amqp://{who}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def with_tls(self, host: str = "127.0.0.1", *, port: int = 0) -> str:
        """The address of the one with TLS, for ``alice``."""
        who = f"alice:{quote(PASSWORD, safe='')}"
        return f"amqps://{who}@{host}:{port or self.tls_port}/"


OTHER = "a/b%2F"
"""A virtual host whose name means something else in an address."""
