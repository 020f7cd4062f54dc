#!/usr/bin/env bash
# A docker daemon and the images, where they are not there yet. Debian; as root. Nothing is pulled from a registry.
set -euo pipefail
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "prepare.sh: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/../../.."

if ! command -v dockerd >/dev/null || ! command -v debootstrap >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    docker.io containerd runc crun iptables debootstrap >/dev/null
fi
if ! docker info >/dev/null 2>&1; then
  mkdir -p build
  nohup dockerd >build/dockerd.log 2>&1 &
  for _ in $(seq 60); do
    if docker info >/dev/null 2>&1; then break; fi
    sleep 1
  done
  docker info >/dev/null || { tail -5 build/dockerd.log >&2; exit 1; }
fi
BASE_IMAGE=${BASE_IMAGE:-debootstrap} images/build.sh
