"""Certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.programs import program

EC = ("-pkeyopt", "ec_paramgen_curve:prime256v1")


@dataclass
class Authority:
    """An authority in a folder, and what it has signed."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        self._openssl("req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={self.name}", *self._new("ca"))

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}-ca.crt"

    def sign(self, name: str) -> tuple[Path, Path]:
        """Certificate and key for 127.0.0.1."""
        extensions = self.folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        request = self.folder / "request"
        key, made = self.folder / f"{self.name}-{name}.key", self.folder / f"{self.name}-{name}.crt"
        self._openssl("req", "-nodes", "-subj", f"/CN={name}", "-newkey", "ec", *EC, "-keyout", key, "-out", request)
        ca_key = self.folder / f"{self.name}-ca.key"
        self._openssl("x509", "-req", "-days", "2", "-in", request, "-CA", self.certificate, "-CAkey", ca_key,
                      "-CAcreateserial", "-extfile", extensions, "-out", made)  # fmt: skip
        return made, key

    def _new(self, name: str) -> tuple[str | Path, ...]:
        stem = self.folder / f"{self.name}-{name}"
        return ("-newkey", "ec", *EC, "-keyout", stem.with_suffix(".key"), "-out", stem.with_suffix(".crt"))

    @staticmethod
    def _openssl(*arguments: str | Path) -> None:
        subprocess.run([program("openssl"), *arguments], check=True, capture_output=True)


def web_file(folder: Path, ours: Authority, *lines: str, name: str = "server") -> Path:
    """A web configuration with certificate and key beside it."""
    certificate, key = ours.sign(name)
    (folder / "tls.crt").write_bytes(certificate.read_bytes())
    (folder / "tls.key").write_bytes(key.read_bytes())
    file = folder / "web.yml"
    file.write_text("\n".join(["tls_server_config:", "  cert_file: tls.crt", "  key_file: tls.key", *lines, ""]))
    return file
