#!/bin/sh
# install-environment LOCK: make /opt/lorapar from a lock, exactly and nothing else. Runs in the build stage only.
#
# /run/secrets/ca    certificates for a network that inspects TLS; never copied into the image
# /wheels            wheels found nowhere else, such as a CPU build of torch; may be empty
# TORCH_INDEX        address of an extra index with a build of torch for this machine's accelerator
# TORCH_LIBRARIES    yes: install what this build of torch names as its requirements, beyond the lock
set -eu
case ${1:-} in
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
"" | -*) echo "install-environment: takes the file of a lock, not '${1:-}'; --help says more" >&2; exit 2 ;;
esac
lock=$1
if [ -f /run/secrets/ca ]; then
  export SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca
fi
python3 -m venv /opt/build
/opt/build/bin/pip install --quiet --disable-pip-version-check "uv==${UV_VERSION}"
python3 -m venv --without-pip /opt/lorapar
export UV_PYTHON=/opt/lorapar/bin/python UV_INDEX_STRATEGY=unsafe-best-match UV_NO_CACHE=1
/opt/build/bin/uv pip install --quiet --no-deps --compile-bytecode --find-links /wheels \
  ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --requirements "$lock"
if [ "${TORCH_LIBRARIES:-}" = yes ]; then
  # What the lock pins stays as it is; what it does not name comes with torch.
  /opt/build/bin/uv pip install --quiet --compile-bytecode --find-links /wheels \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraints "$lock" torch
fi
