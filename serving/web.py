"""The web configuration of Prometheus's exporter-toolkit: TLS and basic-auth users in a YAML file of their own."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from serving.settings import ConfigError, Settings, load

__all__ = ["TlsServer", "WebConfig", "read", "ssl_context"]


def _bcrypt_hash(value: str) -> str:
    if not value.startswith(("$2a$", "$2b$", "$2y$")) or len(value) != 60:
        raise ValueError("expected a bcrypt hash ($2b$…, 60 characters); make one with `htpasswd -nBC 10 USER`")
    return value


class TlsServer(Settings):
    """`tls_server_config`: paths are relative to the web configuration's folder."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    client_auth_type: Literal["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"] = "NoClientCert"
    min_version: Literal["TLS12", "TLS13"] = "TLS12"

    @model_validator(mode="after")
    def _client_ca(self) -> TlsServer:
        if self.client_auth_type != "NoClientCert" and self.client_ca_file is None:
            raise ValueError(f"client_auth_type {self.client_auth_type} needs client_ca_file")
        if self.client_auth_type == "NoClientCert" and self.client_ca_file is not None:
            raise ValueError("client_ca_file is given, but client_auth_type is NoClientCert: nobody would be checked")
        return self


class WebConfig(Settings):
    """What `--web.config.file` may say; any other key is refused by name."""

    tls_server_config: TlsServer | None = None
    basic_auth_users: dict[str, Annotated[str, AfterValidator(_bcrypt_hash)]] = Field(default_factory=dict)


def read(path: Path) -> WebConfig:
    """Reads and checks the file, its certificates too; raises ConfigError."""
    config = load(WebConfig, environ={}, config_file=path)
    if config.tls_server_config is not None:
        tls = config.tls_server_config
        config = config.model_copy(
            update={
                "tls_server_config": tls.model_copy(
                    update={
                        name: path.parent / value
                        for name in ("cert_file", "key_file", "client_ca_file")
                        if (value := getattr(tls, name)) is not None
                    }
                )
            }
        )
        try:
            ssl_context(config.tls_server_config or tls)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError([f"{path}: tls_server_config: {error.strerror or error}"]) from None
    return config


_REQUIREMENTS = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


def ssl_context(tls: TlsServer) -> ssl.SSLContext:
    """The server's context; raises OSError or ssl.SSLError where a file is missing or does not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}[tls.min_version]
    context.load_cert_chain(tls.cert_file, tls.key_file)
    if tls.client_ca_file is not None:
        context.load_verify_locations(tls.client_ca_file)
    context.verify_mode = _REQUIREMENTS[tls.client_auth_type]
    return context
