#!/usr/bin/env bash
# Installs coldchain-exporter and coldchain-receiver as services, from this checkout. Again to upgrade: what an operator
# has edited under /etc/coldchain-monitor stays, and the running version stays until the new one is complete.
set -euo pipefail
umask 022 # the services read what root installs

usage() {
  cat <<'TEXT'
usage: deploy/systemd/install.sh [--root DIR] [--dry-run] [--no-start]

  --root DIR   install into DIR instead of /, without users and without starting anything, to look at it
  --dry-run    say what would be done, and do nothing
  --no-start   install, but start and enable nothing

PYTHON=/path/to/python3 (3.11 or later) names the interpreter.
TEXT
}

root='' dry=false start=true
while [[ $# -gt 0 ]]; do
  case $1 in
    --root) root=$(realpath -m "${2:?--root needs a folder}"); shift ;;
    --dry-run) dry=true ;;
    --no-start) start=false ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
[[ $root != / ]] || root=
[[ -z $root ]] || start=false

here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
etc=$root/etc/coldchain-monitor
opt=$root/opt/coldchain-monitor
units=$root/etc/systemd/system

die() { echo "error: $*" >&2; exit 1; }
run() { if $dry; then printf 'would run:'; printf ' %q' "$@"; echo; else "$@"; fi; }

[[ -n $root || $(id -u) -eq 0 ]] || $dry || die "run it as root, or try it with --root DIR"
[[ -n $root ]] || command -v systemctl >/dev/null || $dry || die "no systemd here: see deploy/compose.md for containers"

# Users and their groups. The files below belong to them.
if [[ -z $root ]]; then
  run install -D -m 644 "$here/coldchain-monitor.sysusers" /etc/sysusers.d/coldchain-monitor.conf
  run systemd-sysusers /etc/sysusers.d/coldchain-monitor.conf
fi
# The group of a file: the service's, or one's own where only trying.
group() { if [[ -z $root ]]; then echo "coldchain-$1"; else id -gn; fi; }

# The programs: each version in a folder of its own, complete before `current` points at it.
version=$(cd "$source" && find requirements.lock pyproject.toml exporter receiver serving -type f -not -path '*/__pycache__/*' \
  -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
before=$(readlink "$opt/current" || true)
if [[ ! -e $opt/$version/complete ]]; then
  run rm -rf "$opt/$version"
  run mkdir -p "$opt"
  run "$source/deploy/venv.sh" "$opt/$version"
  run install -m 644 "$source/README.md" "$opt/$version/README.md"
  run touch "$opt/$version/complete"
fi

# Settings, only where there are none.
new() { # MODE GROUP FROM TO
  [[ -e $4 ]] || run install -D -m "$1" -g "$2" "$3" "$4"
}
run install -d -m 755 "$etc" "$etc/secrets"
for name in exporter receiver; do
  run install -d -m 750 -g "$(group $name)" "$etc/secrets/$name"
  new 640 "$(group $name)" "$here/$name.env" "$etc/$name.env"
  settings=$source/deploy/$name/$name.yaml
  [[ -e $settings ]] || settings=/dev/null # every default
  new 640 "$(group $name)" "$settings" "$etc/$name.yaml"
done

# Settings that the new version refuses leave the running one in force, for the next boot as well.
if $start; then
  for name in exporter receiver; do
    run runuser -u "coldchain-$name" -- env --chdir=/ "$opt/$version/bin/coldchain-$name" \
      --config.file="$etc/$name.yaml" check-config ||
      die "$etc/$name.yaml does not pass check-config, see above: mend it and install again; what ran before goes on"
  done
fi

run ln -sfnT "$version" "$opt/next"
run mv -T "$opt/next" "$opt/current"
for name in coldchain-exporter coldchain-receiver; do
  run mkdir -p "$root/usr/local/bin"
  run ln -sfn "/opt/coldchain-monitor/current/bin/$name" "$root/usr/local/bin/$name"
done
run install -m 755 "$here/coldchain" "$root/usr/local/bin/coldchain"

# The runbooks, which the gateway serves.
run mkdir -p "$root/usr/share/coldchain-monitor"
run rm -rf "$root/usr/share/coldchain-monitor/runbooks"
run cp -r "$source/deploy/runbooks" "$root/usr/share/coldchain-monitor/runbooks"

changed=false
[[ $before == "$version" ]] || changed=true
for name in exporter receiver; do
  if ! cmp -s "$here/coldchain-$name.service" "$units/coldchain-$name.service"; then
    changed=true
    run install -D -m 644 "$here/coldchain-$name.service" "$units/coldchain-$name.service"
  fi
done

if $start; then
  run systemctl daemon-reload
  run systemctl enable --quiet coldchain-exporter coldchain-receiver
  if $changed; then
    run systemctl restart coldchain-exporter coldchain-receiver
  else
    run systemctl start coldchain-exporter coldchain-receiver
  fi
fi

# What came before the version that was replaced is of no more use; the replaced one is kept to go back to.
for old in "$opt"/*/complete; do
  name=$(basename "$(dirname "$old")")
  [[ ! -e $old || $name == "$version" || $name == "$before" || $name == current ]] || run rm -rf "${opt:?}/$name"
done

$dry || cat <<TEXT
Installed version $version.
  settings   $etc/exporter.env, exporter.yaml, receiver.env, receiver.yaml
  secrets    $etc/secrets/exporter/, $etc/secrets/receiver/
  then       systemctl restart coldchain-exporter coldchain-receiver
TEXT
