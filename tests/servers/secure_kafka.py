"""A Kafka that wants to know who is there: TLS, and SASL over TLS and without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import confluent_kafka.admin

from tests.servers.certificates import PASSWORD, Certificates
from tests.servers.cluster import log
from tests.servers.kafka import Kafka
from tests.servers.process import free_port

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("SecureKafka",)

_library: Any = confluent_kafka.admin
LISTENERS = ("tls", "expired", "sasltls", "saslplain")


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
            # For nobody: our clients don't ask for it.
            "auto.create.topics.enable=true",
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
