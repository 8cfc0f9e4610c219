"""TLS, client certificates and credentials of both real programs, and how they are renewed while these run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from tests.programs import program
from tests.serving.authority import Authority, web_file
from tests.serving.hostile import ROOT, Target, running

HANDSHAKE_REFUSED = {35, 52, 55, 56}  # curl: no TLS; or no answer, for the other side has ended it meanwhile


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "another")


def curl(target: Target, trusted: Authority, *arguments: str | Path, path: str = "/metrics") -> tuple[int, int]:
    """curl's exit code and the status of the answer, 0 where there is none."""
    done = subprocess.run(
        [
            *(program("curl"), "--silent", "--cacert", trusted.certificate, "--max-time", "20"),
            *("--output", "/dev/null", "--write-out", "%{http_code}", *arguments, target.url(path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, int(done.stdout)


def subject(target: Target, trusted: Authority) -> str:
    """The name on the certificate that a new connection is shown."""
    done = subprocess.run(
        [program("openssl"), "s_client", "-connect", f"127.0.0.1:{target.port}", "-CAfile", trusted.certificate],
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    return next(line for line in done.stdout.splitlines() if line.startswith("subject="))


@pytest.fixture(params=["exporter", "receiver"])
def served(request: pytest.FixtureRequest, tmp_path: Path, ours: Authority) -> Iterator[Target]:
    with running(request.param, tmp_path, f"--web.config.file={web_file(tmp_path, ours)}") as target:
        yield target


def replace(folder: Path, pair: tuple[Path, Path]) -> None:
    """As a tool that renews certificates does it: one file after the other."""
    (folder / "tls.crt").write_bytes(pair[0].read_bytes())
    (folder / "tls.key").write_bytes(pair[1].read_bytes())


def test_a_renewed_certificate_is_shown_without_a_restart_or_a_signal(
    served: Target, ours: Authority, tmp_path: Path
) -> None:
    assert subject(served, ours) == "subject=CN = server"
    replace(tmp_path, ours.sign("renewed"))
    assert subject(served, ours) == "subject=CN = renewed"
    assert curl(served, ours) == (0, 200)


def test_a_certificate_that_does_not_fit_its_key_leaves_the_old_in_force(
    served: Target, ours: Authority, tmp_path: Path
) -> None:
    renewed = ours.sign("renewed")
    (tmp_path / "tls.crt").write_bytes(renewed[0].read_bytes())
    assert subject(served, ours) == "subject=CN = server"
    assert curl(served, ours) == (0, 200)
    assert served.log().count("certificate refused, the old one stays") == 1
    (tmp_path / "tls.key").write_bytes(renewed[1].read_bytes())
    assert subject(served, ours) == "subject=CN = renewed"


def test_another_authority_and_another_demand_are_taken_by_a_reload(
    served: Target, ours: Authority, another: Authority, tmp_path: Path
) -> None:
    assert curl(served, ours) == (0, 200)
    (tmp_path / "ca.crt").write_bytes(another.certificate.read_bytes())
    file = tmp_path / "web.yml"
    file.write_text(file.read_text() + "  client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n")
    assert curl(served, ours, "-X", "POST", path="/-/reload") == (0, 200)
    assert curl(served, ours)[0] in HANDSHAKE_REFUSED
    certificate, key = another.sign("prometheus")
    assert curl(served, ours, "--cert", certificate, "--key", key) == (0, 200)


@pytest.mark.parametrize("name", ["exporter", "receiver"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("VerifyClientCertIfGiven", {"none": True, "ours": True, "another's": False}),
        ("RequireAndVerifyClientCert", {"none": False, "ours": True, "another's": False}),
    ],
)
def test_client_certificates_are_verified(
    name: str, kind: str, expected: dict[str, bool], ours: Authority, another: Authority, tmp_path: Path
) -> None:
    (tmp_path / "ca.crt").write_bytes(ours.certificate.read_bytes())
    file = web_file(tmp_path, ours, "  client_ca_file: ca.crt", f"  client_auth_type: {kind}")
    shown = {"none": None, "ours": ours.sign("prometheus"), "another's": another.sign("prometheus")}
    with running(name, tmp_path, f"--web.config.file={file}") as target:
        found = {
            who: curl(target, ours, *(("--cert", pair[0], "--key", pair[1]) if pair else ()))
            for who, pair in shown.items()
        }
    assert {who: status == 200 for who, (_, status) in found.items()} == expected
    assert {code for code, status in found.values() if status != 200} <= HANDSHAKE_REFUSED


@pytest.mark.parametrize("name", ["exporter", "receiver"])
def test_doctor_knows_its_own_by_the_certificate_where_it_has_none_to_show(
    name: str, ours: Authority, another: Authority, tmp_path: Path
) -> None:
    (tmp_path / "ca.crt").write_bytes(ours.certificate.read_bytes())
    file = web_file(tmp_path, ours, "  client_ca_file: ca.crt", "  client_auth_type: RequireAndVerifyClientCert")
    (tmp_path / "elsewhere").mkdir()
    foreign = web_file(tmp_path / "elsewhere", another)
    with running(name, tmp_path, f"--web.config.file={file}") as target:
        place = f"127.0.0.1:{target.port}"

        def port(web: Path) -> str:
            command = [
                sys.executable,
                "-m",
                name,
                f"--web.listen-address={place}",
                f"--web.config.file={web}",
                "doctor",
            ]
            own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=own)
            return next(line for line in done.stdout.splitlines() if " port: " in line)

        assert port(file) == f"ok    port: {place}: the {name} is running there"
        assert port(foreign).startswith("FAULT port: ")


@pytest.mark.parametrize("name", ["exporter", "receiver"])
def test_plain_http_old_tls_and_a_lower_version_than_wanted_are_refused(
    name: str, ours: Authority, tmp_path: Path
) -> None:
    file = web_file(tmp_path, ours, "  min_version: TLS13")
    with running(name, tmp_path, f"--web.config.file={file}") as target:
        plain = Target(target.name, target.port, target.log_file, target.popen)
        weak = ("--ciphers", "DEFAULT@SECLEVEL=0")
        refused = [curl(target, ours, "--tls-max", version, *weak)[0] for version in ("1.0", "1.1", "1.2")]
        assert refused == [35, 35, 35]
        assert curl(target, ours, "--tlsv1.3") == (0, 200)
        assert curl(plain, ours)[1] == 0


HASHED = bcrypt.hashpw(b"night", bcrypt.gensalt(4)).decode()


@pytest.mark.parametrize("name", ["exporter", "receiver"])
def test_no_reload_opens_a_door_beyond_loopback(name: str, tmp_path: Path, ours: Authority) -> None:
    file = tmp_path / "web.yml"
    file.write_text(f"basic_auth_users:\n  duty: {HASHED}\n")
    listen = "--web.listen-address=0.0.0.0:0"
    with running(name, tmp_path, f"--web.config.file={file}", listen) as target:
        target.port = target.listens_at()
        assert curl(target, ours, "--user", "duty:night") == (0, 200)
        file.write_text("")
        assert curl(target, ours, "--user", "duty:night", "-X", "POST", path="/-/reload") == (0, 400)
        assert curl(target, ours) == (0, 401)
        assert curl(target, ours, "--user", "duty:night") == (0, 200)
        assert "is beyond loopback and no authentication is configured" in target.log()


def test_another_token_is_in_force_after_one_reload(tmp_path: Path, ours: Authority) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    with running("receiver", tmp_path, RECEIVER_TOKEN_FILE=str(token)) as target:
        assert curl(target, ours, "-H", "Authorization: Bearer first") == (0, 200)
        token.write_text("second")
        assert curl(target, ours, "-H", "Authorization: Bearer first", "-X", "POST", path="/-/reload") == (0, 200)
        assert curl(target, ours, "-H", "Authorization: Bearer second") == (0, 200)
        assert curl(target, ours, "-H", "Authorization: Bearer first") == (0, 401)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("http_server_config: {http2: false}", "http_server_config: unknown setting; allowed here: "),
        ("rate_limit: {burst: 10}", "limit requests in a proxy"),
        ("tls_server_config: {client_allowed_sans: [a]}", "every certificate that client_ca_file has signed gets in"),
        ("tls_server_config: {cert: PEM}", "write it to a file and name that: cert_file"),
        ("tls_server_config: {cipher_suites: [a]}", "OpenSSL's own choice holds"),
        ("tls_server_config: {max_version: TLS13}", "min_version is the only limit"),
        ("tls_server_config: {client_auth_type: RequireAnyClientCert}", "verify nothing"),
    ],
)
@pytest.mark.parametrize("name", ["exporter", "receiver"])
def test_what_exporter_toolkit_knows_and_we_do_not_is_refused_by_name_with_a_hint(
    name: str, key: str, hint: str, tmp_path: Path
) -> None:
    file = tmp_path / "web.yml"
    file.write_text(f"{key}\n")
    started = until_ended(name, tmp_path, f"--web.config.file={file}")
    lines = [line.lower() for line in started.splitlines() if hint.lower() in line.lower()]
    refused = key.replace(" {", " ").split(": ")
    wanted = refused[0] if refused[0] in {"http_server_config", "rate_limit"} else ".".join(refused[:2])
    assert [line.startswith(f"error: {file}:1: {wanted}: ".lower()) for line in lines] == [True]


def until_ended(name: str, folder: Path, *flags: str) -> str:
    """What a program says that does not start."""
    with pytest.raises(AssertionError) as caught, running(name, folder, *flags):
        pass
    return str(caught.value).partition("\nassert")[0]
