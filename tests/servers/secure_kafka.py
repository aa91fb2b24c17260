"""A Kafka that wants to know who is there: TLS, and SASL over TLS and without."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import confluent_kafka.admin
import trustme
from cryptography.hazmat.primitives import serialization

from tests.servers.cluster import log
from tests.servers.kafka import Kafka
from tests.servers.process import free_port

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("PASSWORD", "Certificates", "SecureKafka")

_library: Any = confluent_kafka.admin
PASSWORD = "p@ss:w/rd%&x=1"
"""Of ``alice``; with everything that means something elsewhere."""
LISTENERS = ("tls", "expired", "sasltls", "saslplain")


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


class SecureKafka(Kafka):
    """Beside the open port, one for each way to be refused.

    Attributes:
        certificates: What its TLS is made of.
    """

    def __init__(self, directory: Path) -> None:
        self.certificates = Certificates.made(directory)
        self._ports = {name: free_port() for name in LISTENERS}
        super().__init__(directory, extra=self._extra())

    def at(self, listener: str, host: str = "127.0.0.1") -> str:
        """Where clients find one of `LISTENERS`."""
        return f"{host}:{self._ports[listener]}"

    def add_user(self, name: str, password: str) -> None:
        """Let somebody in by SCRAM."""
        client = _library.AdminClient({"bootstrap.servers": self.address, "logger": log})
        for mechanism in (
            _library.ScramMechanism.SCRAM_SHA_256,
            _library.ScramMechanism.SCRAM_SHA_512,
        ):
            wanted = _library.UserScramCredentialUpsertion(
                name, _library.ScramCredentialInfo(mechanism, 4_096), password.encode()
            )
            client.alter_user_scram_credentials([wanted])[name].result(30)

    def warm_up(self) -> None:
        """Also let ``alice`` in."""
        super().warm_up()
        self.add_user("alice", PASSWORD)

    def _extra(self) -> str:
        files, modules = self.certificates, "org.apache.kafka.common.security"
        protocols = dict(zip(LISTENERS, ("SSL", "SSL", "SASL_SSL", "SASL_PLAINTEXT"), strict=True))
        own = [f"{name.upper()}://127.0.0.1:{port}" for name, port in self._ports.items()]
        open_one = "PLAINTEXT://127.0.0.1:{port}"
        lines = [
            f"listeners={open_one},CONTROLLER://127.0.0.1:{{controller}},{','.join(own)}",
            f"advertised.listeners={open_one},{','.join(own)}",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            + ",".join(f"{name.upper()}:{protocol}" for name, protocol in protocols.items()),
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={files.server}",
            "ssl.truststore.type=PEM",
            f"ssl.truststore.location={files.ca}",
            "listener.name.tls.ssl.client.auth=required",
            f"listener.name.expired.ssl.keystore.location={files.expired}",
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        ]
        tokens = f"{modules}.oauthbearer"
        for name in ("sasltls", "saslplain"):
            of = f"listener.name.{name}"
            lines += [
                (
                    f"{of}.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required "
                    f'user_alice="{PASSWORD}";'
                ),
                f"{of}.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;",
                f"{of}.scram-sha-512.sasl.jaas.config={modules}.scram.ScramLoginModule required;",
                (
                    f"{of}.oauthbearer.sasl.jaas.config={tokens}.OAuthBearerLoginModule "
                    'required unsecuredLoginStringClaim_sub="broker";'
                ),
                (
                    f"{of}.oauthbearer.sasl.server.callback.handler.class={tokens}."
                    "internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
                ),
            ]
        return "\n".join(lines) + "\n"
