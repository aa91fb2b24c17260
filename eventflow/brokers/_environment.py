"""What the settings of all backends have in common: names that mean something, no value shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from eventflow.brokers._tls import Tls
from eventflow.errors import InvalidOptionError

__all__ = ("EnvironmentConfig", "TlsConfig", "tls_of")


class TlsConfig(BaseModel):
    """See `Tls`; ``enabled=True`` alone trusts what the machine trusts."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    enabled: bool = True
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: SecretStr | None = None


class EnvironmentConfig(BaseSettings):
    """Settings from variables; one with the right beginning that means nothing is refused."""

    model_config = SettingsConfigDict(
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    server: ClassVar[str] = "a broker"
    """Whose settings they are, for errors."""

    def __init__(self, **given: Any) -> None:
        problem = _unknown(type(self))
        if not problem:
            try:
                super().__init__(**given)
            except (ValidationError, SettingsError) as exc:
                problem = _told(exc, self.server)
        given.clear()  # tracebacks may show local variables
        if not problem:
            try:
                self.check()
            except InvalidOptionError as exc:
                problem = str(exc), exc.option
                # Half of a login may stand there.
                object.__setattr__(self, exc.option, "")
        if problem:
            # Outside of the block: pydantic's own has what was given.
            raise InvalidOptionError(problem[0], option=problem[1])

    def check(self) -> None:
        """Refuse what pydantic takes and the broker does not.

        Raises:
            InvalidOptionError: There is such a thing.
        """


def _unknown(config: type[EnvironmentConfig]) -> tuple[str, str] | tuple[()]:
    """What is wrong with the names of the environment's variables."""
    prefix = str(config.model_config.get("env_prefix", "")).lower()
    if not prefix:
        return ()
    for variable in os.environ:
        name = variable.lower()
        field = name.removeprefix(prefix).partition("__")[0]
        if name.startswith(prefix) and field not in config.model_fields:
            problem = f"the environment has {variable}, and {config.server} has no setting"
            return f"{problem} {field!r}", field
    return ()


def _told(error: ValidationError | SettingsError, server: str) -> tuple[str, str]:
    """What pydantic says, without what was given."""
    if isinstance(error, SettingsError):
        return f"one of the settings of {server} is not the JSON that it should be", "settings"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where} in the settings of {server}: {first['msg']}", where


def tls_of(told: TlsConfig | None) -> bool | Tls | None:
    """What a broker's ``tls=`` is.

    Raises:
        InvalidOptionError: There are files, and it is off.
    """
    if told is None:
        return None
    secret = told.key_password
    files = (told.ca_file, told.certificate_file, told.key_file, secret)
    if not told.enabled:
        if any(file is not None for file in files):
            raise InvalidOptionError("TLS has files, and is not enabled", option="tls")
        return False
    return Tls(
        ca_file=told.ca_file,
        certificate_file=told.certificate_file,
        key_file=told.key_file,
        key_password=None if secret is None else secret.get_secret_value(),
    )
