"""What servers with TLS show, and a password."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trustme
from cryptography.hazmat.primitives import serialization

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("PASSWORD", "Certificates")

PASSWORD = "p@ss:w/rd%&x=1"
"""Of ``alice``; with everything that means something elsewhere."""


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: two authorities, the first of them trusted, and what that made."""

    ca: Path
    other_ca: Path
    server: Path
    expired: Path
    client: Path
    client_key: Path

    @classmethod
    def made(cls, directory: Path) -> Certificates:
        """Make them, for the address 127.0.0.1 alone."""
        ca, other_ca = trustme.CA(), trustme.CA()
        found = cls(
            *(directory / f"{name}.pem" for name in ("ca", "other_ca", "server", "expired")),
            *(directory / f"{name}.pem" for name in ("client", "client_key")),
        )
        past = datetime.now(UTC) - timedelta(days=1)
        ca.cert_pem.write_to_path(found.ca)
        other_ca.cert_pem.write_to_path(found.other_ca)
        served = ca.issue_cert("127.0.0.1")
        old = ca.issue_cert("127.0.0.1", not_before=past - timedelta(days=1), not_after=past)
        found.server.write_bytes(key_of(served) + chain_of(served))
        found.expired.write_bytes(key_of(old) + chain_of(old))
        client = ca.issue_cert("alice@example.com")
        found.client.write_bytes(chain_of(client))
        found.client_key.write_bytes(key_of(client))
        return found


def key_of(certificate: trustme.LeafCert) -> bytes:
    """Its key as PKCS 8, the only form that Java reads."""
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def chain_of(certificate: trustme.LeafCert) -> bytes:
    """It, and what vouches for it."""
    return b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
