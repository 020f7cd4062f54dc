#!/usr/bin/env bash
# build.sh [client] [trainer] [vllm]: build the CPU variants as REGISTRY/NAME:VERSION; all three where none is named.
#
# BASE_IMAGE    what they stand on (debian:bookworm-slim); `debootstrap` makes one here, where none can be pulled
# REGISTRY      first part of the names (lorapar)
# DOCKER        the docker command
# TORCH_INDEX   address of an extra index with a CPU build of torch; PIP_FIND_LINKS may name a folder with its wheel
# TORCH_LIBRARIES=yes  installs what torch itself requires beyond the lock: where only a build with CUDA can be had (GB more)
# Each image ends with an import of what it is for; where that fails, the build fails and says what to set.
# The CUDA variants are built by the release workflow: the same files with --build-arg LOCK=image-trainer-cuda or image-vllm.
set -euo pipefail

for name in "$@"; do
  case $name in
  -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
  client | trainer | vllm) ;;
  *) echo "images/build.sh: '$name' is no image: client, trainer or vllm; --help says more" >&2; exit 2 ;;
  esac
done
cd "$(dirname "$0")/.."

REGISTRY=${REGISTRY:-lorapar}
BASE_IMAGE=${BASE_IMAGE:-debian:bookworm-slim}
PYTHON=${PYTHON:-.venv/bin/python}
VERSION=$($PYTHON -c 'import lorapar; print(lorapar.__version__)')

find_docker() {
  # Debian's own docker carries BuildKit; a newer one needs its buildx component.
  for one in ${DOCKER:-docker /usr/bin/docker}; do
    command -v "$one" >/dev/null || continue
    if "$one" buildx version >/dev/null 2>&1 || "$one" --version | grep -q ' 20\.'; then echo "$one"; return; fi
  done
  echo "no docker with BuildKit: install docker.io, or docker with buildx" >&2
  exit 2
}
DOCKER=$(find_docker)

if [ "$BASE_IMAGE" = debootstrap ]; then
  BASE_IMAGE=lorapar-base:bookworm
  if ! "$DOCKER" image inspect $BASE_IMAGE >/dev/null 2>&1; then
    root=$(mktemp -d)
    debootstrap --variant=minbase bookworm "$root" >/dev/null
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
    tar -C "$root" -c . | "$DOCKER" import - $BASE_IMAGE >/dev/null
    rm -rf "$root"
  fi
fi

rm -rf build/dist build/lib
mkdir -p build/dist build/wheels
$PYTHON -m build --wheel --outdir build/dist . >build/wheel.log 2>&1 || { cat build/wheel.log >&2; exit 1; }
for folder in ${PIP_FIND_LINKS:-}; do
  if [ -d "$folder" ]; then find "$folder" -maxdepth 1 -name 'torch-*.whl' -exec cp --update --target-directory build/wheels {} +; fi
done

secret=()
if [ -n "${SSL_CERT_FILE:-}" ]; then secret=(--secret "id=ca,src=$SSL_CERT_FILE"); fi
for name in "${@:-client trainer vllm}"; do
  for image in $name; do
    packages=""
    if [ "$image" = vllm ]; then packages="libnuma1 libtcmalloc-minimal4"; fi
    DOCKER_BUILDKIT=1 "$DOCKER" build --quiet --file "images/$image/Dockerfile" --tag "$REGISTRY/$image:$VERSION" "${secret[@]}" \
      --build-arg BASE_IMAGE="$BASE_IMAGE" --build-arg PACKAGES="$packages" --build-arg TORCH_INDEX="${TORCH_INDEX:-}" \
      --build-arg TORCH_LIBRARIES="${TORCH_LIBRARIES:-}" \
      --build-arg VERSION="$VERSION" --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || true)" . >/dev/null
    echo "$REGISTRY/$image:$VERSION  $("$DOCKER" image inspect --format '{{.Size}}' "$REGISTRY/$image:$VERSION" | awk '{printf "%.0f MB", $1 / 1e6}')"
  done
done
