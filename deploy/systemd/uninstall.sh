#!/usr/bin/env bash
# Takes away what install.sh has installed. Settings, secrets and the receiver's store stay, unless --purge is given.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deploy/systemd/uninstall.sh [--root DIR] [--dry-run] [--purge]

  --root DIR   what was installed with --root DIR
  --dry-run    say what would be done, and do nothing
  --purge      settings, secrets, the receiver's store (with what is still to be delivered) and the users as well
TEXT
}

root='' dry=false purge=false
while [[ $# -gt 0 ]]; do
  case $1 in
    --root) root=$(realpath -m "${2:?--root needs a folder}"); shift ;;
    --dry-run) dry=true ;;
    --purge) purge=true ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
[[ $root != / ]] || root=

run() { if $dry; then printf 'would run:'; printf ' %q' "$@"; echo; else "$@"; fi; }

[[ -n $root || $(id -u) -eq 0 ]] || $dry || { echo "error: run it as root" >&2; exit 1; }

for name in coldchain-exporter coldchain-receiver; do
  if [[ -z $root && -e /etc/systemd/system/$name.service ]]; then
    run systemctl disable --quiet --now "$name"
  fi
  run rm -f "$root/etc/systemd/system/$name.service" "$root/usr/local/bin/$name"
done
run rm -f "$root/usr/local/bin/coldchain"
[[ -n $root ]] || run systemctl daemon-reload
run rm -rf "$root/opt/coldchain-monitor" "$root/usr/share/coldchain-monitor"

if $purge; then
  run rm -rf "$root/etc/coldchain-monitor" "$root/var/lib/coldchain-receiver" \
    "$root/etc/systemd/system/coldchain-exporter.service.d" "$root/etc/systemd/system/coldchain-receiver.service.d"
  if [[ -z $root ]]; then
    for name in coldchain-exporter coldchain-receiver; do
      if id "$name" >/dev/null 2>&1; then run userdel "$name"; fi
    done
    run rm -f /etc/sysusers.d/coldchain-monitor.conf
  fi
else
  echo "Kept: $root/etc/coldchain-monitor and $root/var/lib/coldchain-receiver. With --purge they go as well."
fi
