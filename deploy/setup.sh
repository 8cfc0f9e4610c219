#!/usr/bin/env bash
# Sets up what `make up` and `make test` need: the Python environment and, on Debian and Ubuntu, system packages.
# Usage: deploy/setup.sh venv | deploy/setup.sh programs NAME...   (names: see `package_of` below)
# A program that cannot be installed is named with what to do, and the rest goes on.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

# Where Debian puts programs that are not on everyone's PATH.
PATH="$PATH:/usr/sbin:/sbin"
for directory in /usr/lib/postgresql/*/bin; do [[ -d $directory ]] && PATH="$PATH:$directory"; done

package_of() {
  case $1 in
    prometheus | promtool) echo prometheus ;;
    prometheus-alertmanager | amtool) echo prometheus-alertmanager ;;
    postgres) echo postgresql ;;
    mariadbd) echo mariadb-server ;;
    systemd-analyze) echo systemd ;;
    dockerd) echo docker.io ;;
    docker) if apt-cache show docker-cli >/dev/null 2>&1; then echo docker-cli; else echo docker.io; fi ;;
    nsenter) echo util-linux ;;
    ip) echo iproute2 ;;
    *) echo "$1" ;;
  esac
}

found() {
  case $1 in # Alertmanager is called so by its own project, and prometheus-alertmanager by Debian
    prometheus-alertmanager) command -v prometheus-alertmanager >/dev/null || command -v alertmanager >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

as_root() {
  if [[ $(id -u) -eq 0 ]]; then "$@"; elif [[ -t 0 ]]; then sudo "$@"; else sudo -n "$@"; fi
}

can_install() {
  command -v apt-get >/dev/null || return 1
  [[ $(id -u) -eq 0 ]] || { command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; }
}

# Installs packages without starting their services: the programs are run here by hand, on ports of our own.
install_packages() {
  say "Installing from the distribution: $*"
  local policy=/usr/sbin/policy-rc.d made=false log status=0
  log=$(mktemp)
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null && as_root chmod 755 $policy && made=true
  fi
  as_root apt-get update -qq >"$log" 2>&1 || true # a list that is old may still do
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >>"$log" 2>&1 || status=$?
  if $made; then as_root rm -f $policy; fi
  [[ $status -eq 0 ]] || tail -n 5 "$log" >&2
  rm -f "$log"
  return $status
}

programs() {
  local missing=() packages=() name
  for name in "$@"; do found "$name" || missing+=("$name"); done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  for name in "${missing[@]}"; do packages+=("$(package_of "$name")"); done
  mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
  # one that the distribution does not have keeps the others out when they are asked for together
  if can_install && ! install_packages "${packages[@]}"; then
    for name in "${packages[@]}"; do install_packages "$name" || true; done
  fi
  hash -r
  for directory in /usr/lib/postgresql/*/bin; do [[ -d $directory ]] && PATH="$PATH:$directory"; done
  for name in "${missing[@]}"; do
    found "$name" || say "Missing: $name. Install it yourself (Debian, Ubuntu: apt-get install $(package_of "$name")); going on without it."
  done
}

python_of() {
  local name
  for name in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    if [[ -n $name ]] && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

venv() {
  local lock=requirements-dev.lock python stamp
  stamp=.venv/installed-$(cat $lock pyproject.toml | sha256sum | cut -c1-16)
  [[ -e $stamp ]] && return 0
  if ! python=$(python_of); then
    if can_install; then install_packages python3 python3-venv || true; fi
    python=$(python_of) || { say "Missing: Python 3.11 or later. Install it, or name it: make PYTHON=/path/to/python3"; exit 1; }
  fi
  if [[ ! -x .venv/bin/python ]]; then
    say "Making .venv with $("$python" --version)"
    if ! "$python" -c 'import ensurepip' 2>/dev/null && can_install; then
      install_packages python3-venv || true
    fi
    "$python" -m venv .venv || { rm -rf .venv; say "Missing: Python's venv module (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }
  fi
  say "Installing the locked Python packages into .venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $lock
  # setuptools warns of every editable install, whatever it is of
  PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
    --no-build-isolation -e .
  rm -f .venv/installed-*
  touch "$stamp"
}

case ${1:-} in
  venv) venv ;;
  programs) shift; programs "$@" ;;
  *) say "usage: deploy/setup.sh venv | deploy/setup.sh programs NAME..."; exit 2 ;;
esac
