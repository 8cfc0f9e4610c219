"""A private container engine in a network of its own, with images of the distribution's programs as stand-ins.

No image can be fetched where tests run, and an engine that somebody uses is not ours to fill. So dockerd is started in
a temporary folder and in a network namespace of its own, where "the host's network" is empty and every port is free.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import program

ENGINE_STARTS_WITHIN = 60.0

START = """
ip link set lo up
exec dockerd --data-root {folder}/data --exec-root {folder}/exec --pidfile {folder}/pid -H unix://{folder}/docker.sock \
  --iptables=false
"""

# Each stands in for the official image that compose.yaml names, and has what that one has: the program, its users'
# folders, busybox's wget.
STAND_INS = {
    "python": """
        FROM stand-in-base:1
        COPY wheels /wheels
        RUN printf '[global]\\nno-index = true\\nfind-links = /wheels\\n' > /etc/pip.conf
    """,
    "prometheus": """
        FROM stand-in-base:1
        COPY prometheus /bin/prometheus
        RUN install -d -o 65534 -g 65534 /prometheus
        USER 65534
        ENTRYPOINT ["/bin/prometheus"]
    """,
    "alertmanager": """
        FROM stand-in-base:1
        COPY alertmanager /bin/alertmanager
        COPY templates /usr/share/prometheus/alertmanager
        RUN install -d -o 65534 -g 65534 /alertmanager
        USER 65534
        ENTRYPOINT ["/bin/alertmanager"]
    """,
    "nginx": """
        FROM stand-in-base:1
        COPY nginx.conf /etc/nginx/nginx.conf
        RUN mkdir -p /etc/nginx/conf.d && touch /etc/nginx/conf.d/default.conf && mkdir -p /var/cache/nginx \
         && ln -sf /dev/stdout /var/log/nginx/access.log && ln -sf /dev/stderr /var/log/nginx/error.log
    """,
    "grafana": """
        FROM stand-in-base:1
        COPY grafana.py /grafana.py
        RUN install -d -o 472 -g 0 /var/lib/grafana
        USER 472
        ENTRYPOINT ["python3", "/grafana.py"]
    """,
}

# The official image's, as far as it concerns a gateway.
NGINX = """
user nginx;
worker_processes auto;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /var/log/nginx/access.log;
    client_body_temp_path /var/cache/nginx/client_temp;
    proxy_temp_path /var/cache/nginx/proxy_temp;
    fastcgi_temp_path /var/cache/nginx/fastcgi_temp;
    uwsgi_temp_path /var/cache/nginx/uwsgi_temp;
    scgi_temp_path /var/cache/nginx/scgi_temp;
    include /etc/nginx/conf.d/*.conf;
}
"""

# No Grafana is to be had where tests run: this one reads what Grafana would, and answers where it would.
GRAFANA = """
import http.server, json, os, pathlib, signal, sys

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
provisioning = pathlib.Path("/etc/grafana/provisioning")
found = {
    "password": bool(pathlib.Path(os.environ["GF_SECURITY_ADMIN_PASSWORD__FILE"]).read_text().strip()),
    "provisioning": sorted(str(f.relative_to(provisioning)) for f in provisioning.rglob("*.yaml")),
    "dashboards": sorted(f.name for f in pathlib.Path("/var/lib/grafana/dashboards/coldchain").glob("*.json")),
}
pathlib.Path("/var/lib/grafana/grafana.db").write_text("may be written")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

http.server.HTTPServer((os.environ["GF_SERVER_HTTP_ADDR"], 3000), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Engine:
    """A running engine, and what speaks to it."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """For clients of this engine."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {**kept, "DOCKER_HOST": f"unix://{self.folder}/docker.sock", "DOCKER_CONFIG": str(self.folder)}

    def docker(self, *arguments: str, timeout: float = 180) -> str:
        """What the client prints; AssertionError with its complaint where it fails."""
        return self._run([program("docker"), *arguments], self.environment, timeout)

    def compose(self, project: Path, settings: Mapping[str, str], *arguments: str, timeout: float = 240) -> str:
        """`docker compose` on a folder with a compose.yaml, with these variables beside its .env."""
        command = [compose_plugin(), "--project-directory", str(project), "--file", str(project / "compose.yaml")]
        return self._run([*command, *arguments], {**self.environment, **settings}, timeout)

    def inside(self, *command: str) -> list[str]:
        """The command, to be run in the engine's network."""
        return [program("nsenter"), f"--net=/proc/{self.process.pid}/ns/net", "--", *command]

    @staticmethod
    def _run(command: list[str], environment: dict[str, str], timeout: float) -> str:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout


@contextlib.contextmanager
def running_engine(folder: Path) -> Iterator[Engine]:
    """An engine that ends with everything in it; skips the test, with the reason, where none can be started."""
    _need_programs()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "TERM"),  # it does not outlive a test run that is killed
                *("unshare", "--net", "--mount", "--propagation", "shared", "sh", "-ec", START.format(folder=folder)),
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
            start_new_session=True,
        )
    engine = Engine(folder, process)
    try:
        _wait_for(engine)
        _try_out(engine)
        yield engine
    finally:
        if process.poll() is None:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                left = engine.docker("ps", "--quiet", timeout=20).split()
                if left:
                    engine.docker("kill", *left, timeout=60)
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):  # whatever it has started and left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _need_programs() -> None:
    """Skips the test where nobody could start an engine; a program that is missing fails it with CI=true."""
    if os.environ.get("DOCKER_TESTS") == "0":
        pytest.skip("DOCKER_TESTS=0")
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("an engine of one's own is started by root on Linux alone")
    for name in ("dockerd", "docker", "setpriv", "unshare", "nsenter", "ip", "mmdebstrap"):
        program(name)  # Debian: docker.io, util-linux, iproute2, mmdebstrap


def _wait_for(engine: Engine) -> None:
    """Skips the test, with the engine's last words, where it does not begin: no privileges, no overlay, no cgroups."""
    deadline = time.monotonic() + ENGINE_STARTS_WITHIN
    reason = f"no answer within {ENGINE_STARTS_WITHIN:g} s"
    while engine.process.poll() is None and time.monotonic() < deadline:
        try:
            engine.docker("info", timeout=20)
        except AssertionError:
            time.sleep(0.3)
        except subprocess.TimeoutExpired:
            break
        else:
            return
    said = [line for line in (engine.folder / "log").read_text("utf-8", "replace").splitlines() if line]
    pytest.skip(f"no container engine starts here: {said[-1] if said else reason}")


def _try_out(engine: Engine) -> None:
    """Skips the test where the engine runs, but can build or run nothing as closed and limited as compose.yaml asks."""
    small = shutil.which("docker-init", path=f"{os.environ['PATH']}:/usr/libexec/docker")  # static; engines bring it
    if small is None:
        return
    context = engine.folder / "probe"
    context.mkdir()
    shutil.copy(small, context / "probe")
    (context / "Dockerfile").write_text('FROM scratch\nCOPY probe /probe\nRUN ["/probe", "--version"]\n')
    closed = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges:true", "--network=host")
    limits = ("--cpus=0.5", "--memory=64m", "--pids-limit=20")
    try:
        engine.docker("build", "--quiet", "--tag", "probe:1", str(context), timeout=60)
        engine.docker("run", "--rm", *closed, *limits, "probe:1", "/probe", "--version", timeout=60)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the container engine runs nothing here: {str(error).strip().splitlines()[-1]}")


def compose_plugin() -> str:
    """The program behind `docker compose`; skips the test where there is none, for Debian 12 has no package of it."""
    folders = (
        f"{os.environ.get('NEWER_PROMETHEUS', '/nowhere')}/bin",
        *(f"{place}/cli-plugins" for place in (f"{Path.home()}/.docker", "/usr/libexec/docker", "/usr/lib/docker")),
        *(f"/usr/local/{place}/docker/cli-plugins" for place in ("lib", "libexec")),
    )
    found = next((path for folder in folders if os.access(path := f"{folder}/docker-compose", os.X_OK)), None)
    if found is None:
        pytest.skip(
            "Docker's compose plugin is not installed: Debian 13 has it as docker-compose, Ubuntu as "
            "docker-compose-v2, Debian 12 not at all (else ~/.docker/cli-plugins, or bin/ of the folder that "
            "NEWER_PROMETHEUS names)"
        )
    return found


def base_image(engine: Engine, archive: Path) -> None:
    """The distribution with Python, nginx and systemd, as an image; skips the test where its packages do not come."""
    packages = "python3,python3-venv,busybox-static,ca-certificates,nginx-light,systemd,systemd-sysv,dbus"
    command = [
        *(program("mmdebstrap"), "--quiet", "--mode=root", "--variant=minbase", f"--include={packages}"),
        *(
            '--aptopt=Acquire::Languages "none"',
            "--dpkgopt=force-unsafe-io",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
        ),
        *("bookworm", str(archive)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    except subprocess.TimeoutExpired:
        pytest.skip("mmdebstrap made no base image within 240 s")
    if done.returncode:
        pytest.skip(f"mmdebstrap made no base image: {''.join(done.stderr.strip().splitlines()[-1:])}")
    engine.docker("import", "--change", 'CMD ["sh"]', str(archive), "stand-in-bare:1")
    archive.unlink()
    context = engine.folder / "base"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM stand-in-bare:1\nRUN ln -s /bin/busybox /usr/bin/wget && rm -f /etc/nginx/sites-enabled/*"
        " && (id nginx || useradd --system nginx)\n"
    )
    engine.docker("build", "--quiet", "--tag", "stand-in-base:1", str(context))


def stand_in(engine: Engine, name: str, files: Mapping[str, Path | str]) -> str:
    """Builds the image that stands in for `name`, with these files beside its Dockerfile, and returns its tag."""
    context = engine.folder / f"context-{name}"
    context.mkdir()
    lines = [line.strip() for line in STAND_INS[name].strip().splitlines()]
    (context / "Dockerfile").write_text("\n".join(lines) + "\n")
    for target, content in files.items():
        if isinstance(content, str):
            (context / target).write_text(content)
        elif content.is_dir():
            shutil.copytree(content, context / target)
        else:
            shutil.copy(content, context / target)
    tag = f"stand-in-{name}:1"
    engine.docker("build", "--quiet", "--tag", tag, str(context))
    return tag


def checkout(folder: Path) -> Path:
    """A copy of what a checkout holds of the product."""
    source = Path(__file__).resolve().parents[2]
    folder.mkdir()
    for name in ("deploy", "exporter", "receiver", "serving", "grafana"):
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".env", "*.db"))
    for name in ("requirements.lock", "requirements-dev.lock", "pyproject.toml", "README.md", ".dockerignore"):
        shutil.copy(source / name, folder)
    return folder
