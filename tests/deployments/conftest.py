"""What the deployments are installed from: the locked packages, fetched once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployments.engine import Engine, base_image, running_engine, stand_in
from tests.deployments.gateway import DEPLOY

SOURCE = DEPLOY.parent


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every locked package; skipped where the package index does not answer, failed so with CI=true."""
    folder = tmp_path_factory.mktemp("wheels")
    backend = folder / "build.lock"  # what the product is built with, of the developers' lock
    lines = iter((SOURCE / "requirements-dev.lock").read_text("utf-8").splitlines(keepends=True))
    kept = [next(line for line in lines if line.startswith("setuptools=="))]
    while kept[-1].endswith("\\\n"):
        kept.append(next(lines))
    backend.write_text("".join(kept))
    for file in (SOURCE / "requirements.lock", backend):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
                *("--only-binary", ":all:", "--require-hashes", "--requirement", str(file), "--dest", str(folder)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = f"the locked packages cannot be fetched: {done.stderr.strip().splitlines()[-1]}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def offline(wheels: Path) -> dict[str, str]:
    """The environment in which pip knows that folder alone."""
    return {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A container engine of the tests' own; skipped, with the reason, where none can be started."""
    folder = Path(tempfile.mkdtemp(prefix="coldchain-"))  # short enough for a socket's path
    folder.chmod(0o755)  # a container's user reads some of it
    try:
        with running_engine(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def python_image(engine: Engine, request: pytest.FixtureRequest) -> str:
    """The distribution with Python and every locked package at hand."""
    wheels: Path = request.getfixturevalue("wheels")  # not before there is an engine
    base_image(engine, engine.folder / "base.tar")
    return stand_in(engine, "python", {"wheels": wheels})
