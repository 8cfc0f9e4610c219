#!/bin/sh
# Makes a virtual environment with the product and its locked packages, every one checked by its hash.
# Usage: deploy/venv.sh DIR [packages|product]   (PYTHON=python3 makes it; without the second argument: both)
# For images and services; developers have `make venv`.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
venv=${1:?usage: deploy/venv.sh DIR [packages|product]}
part=${2:-both}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

if [ "$part" != product ]; then
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "error: ${PYTHON:-python3} is older than 3.11: name another with PYTHON=/path/to/python3" >&2; exit 1; }
  "${PYTHON:-python3}" -m venv "$venv"
  pip install --require-hashes --only-binary :all: -r "$source/requirements.lock"
fi

if [ "$part" != packages ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # The build backend is locked as well: its lines out of the developers' lock.
  sed -n '/^setuptools==/,/[^\\]$/p' "$source/requirements-dev.lock" > "$work/build.lock"
  grep -q '^setuptools==' "$work/build.lock" ||
    { echo "error: requirements-dev.lock names no setuptools to build with" >&2; exit 1; }
  pip install --require-hashes --only-binary :all: -r "$work/build.lock"
  # Built from a copy, so that nothing is left in the source.
  (cd "$source" && tar -cf - --exclude=__pycache__ pyproject.toml README.md exporter receiver serving) | tar -xf - -C "$work"
  pip install --no-deps --no-build-isolation --force-reinstall "$work"
  pip uninstall --yes setuptools
  pip check
fi
