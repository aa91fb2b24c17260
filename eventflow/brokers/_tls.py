"""`Tls`: whom a backend trusts, and with which certificate it shows who we are."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from eventflow.errors import BrokerAuthenticationError, InvalidOptionError

__all__ = ("TLS_FILES", "Tls", "check_tls", "context_of")

TLS_FILES = ("ca_file", "certificate_file", "key_file")
"""Arguments of `Tls` that an address may have, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS: the broker has to show a certificate for its host's name.

    Args:
        ca_file: Who vouches for it: certificates in PEM. ``None``: those that the machine trusts.
        certificate_file: Our own certificate, in PEM, where the broker asks for one.
        key_file: Its private key, in PEM.
        key_password: What the key is encrypted with; ``None`` if it is not.
    """

    ca_file: str | Path | None = None
    certificate_file: str | Path | None = None
    key_file: str | Path | None = None
    key_password: str | None = None

    def __repr__(self) -> str:
        """Without the password."""
        return f"Tls(ca_file={str(self.ca_file)!r})" if self.ca_file else "Tls()"


def check_tls(tls: object) -> None:
    """Refuse what is no TLS, and files that are not there.

    Raises:
        InvalidOptionError: It is that.
    """
    if tls is not None and not isinstance(tls, (bool, Tls)):
        raise InvalidOptionError("tls is True, or Tls(…)", option="tls")
    if not isinstance(tls, Tls):
        return
    for option in TLS_FILES:
        file = getattr(tls, option)
        if file is not None and not isinstance(file, (str, Path)):
            raise InvalidOptionError(f"{option} of Tls is the path of a file", option="tls")
        if file is not None and not Path(file).is_file():
            raise InvalidOptionError(f"{option} of Tls: there is no file {file}", option="tls")
    if (tls.certificate_file is None) != (tls.key_file is None):
        raise InvalidOptionError("a certificate_file has a key_file beside it", option="tls")


def context_of(tls: bool | Tls) -> ssl.SSLContext:
    """What Python's TLS is told. Reads files, so not on an event loop.

    Raises:
        BrokerAuthenticationError: One of the files can't be used.
    """
    if not isinstance(tls, Tls):
        return ssl.create_default_context()
    what = "ca_file"
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.certificate_file is not None:
            what = "certificate_file, key_file or key_password"
            # Without a password, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(
                tls.certificate_file, tls.key_file, password=tls.key_password or ""
            )
    except (OSError, ValueError) as exc:  # ssl.SSLError is one
        # Of OpenSSL, in words of its own: such as NO_CERTIFICATE_OR_CRL_FOUND.
        reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None)
    else:
        return context
    raise BrokerAuthenticationError(f"{what} of Tls can't be used: {reason or 'no PEM'}")
