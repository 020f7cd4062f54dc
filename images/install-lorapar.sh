#!/bin/sh
# install-lorapar: put the one wheel of /dist into /opt/lorapar and write the bill of materials. Runs in the build stage.
set -eu
case ${1:-} in
"") ;;
-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "install-lorapar: takes no arguments, not '$1'; --help says more" >&2; exit 2 ;;
esac
if [ -f /run/secrets/ca ]; then
  export SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca
fi
export UV_NO_CACHE=1
/opt/build/bin/uv pip install --quiet --python /opt/lorapar/bin/python --no-deps --compile-bytecode /dist/lorapar-*.whl
# The report's templates too: a task that renders one page would compile them for it.
/opt/lorapar/bin/python -P -c 'from lorapar.report import page; page.compile_templates(); import compileall; compileall.compile_dir(page.COMPILED, quiet=1)'
/opt/build/bin/uv pip install --quiet --python /opt/build/bin/python "cyclonedx-bom==${CYCLONEDX_VERSION}"
mkdir -p /opt/lorapar/sbom
/opt/build/bin/cyclonedx-py environment --output-reproducible --of JSON -o /opt/lorapar/sbom/python.cdx.json /opt/lorapar/bin/python
dpkg-query --show --showformat '${Package} ${Version} ${Architecture}\n' > /opt/lorapar/sbom/debian.txt
