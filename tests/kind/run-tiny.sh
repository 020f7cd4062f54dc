#!/usr/bin/env bash
# A whole run of the preset tiny through Kubeflow, on CPUs, followed to its end.
# shellcheck source=tests/kind/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
usage "run-tiny.sh [SUBMIT ARGUMENTS]: submit the preset tiny to Kubeflow in \$NAMESPACE (default kubeflow) and wait for its
end, at most 45 minutes; needs 'lorapar' with the extra pipelines. Arguments are options of 'lorapar submit', such as
'--set KEY=VALUE'. \$STORE is where the run writes (the release's own), \$REGISTRY where its images are
(ghcr.io/lorapar), \$PATIENCE (1) multiplies every limit of time" "$@"
need kubectl lorapar timeout
[ $# = 0 ] || handed_on lorapar submit "$@"
reach

wait_until 600 "the uploaded pipeline" rolled_out deployment/ml-pipeline
forward ml-pipeline 8888
# What the chart's hook compiled with: the same images and placement make the same version, which is there already.
placement=
scratch placement
k --namespace "$NAMESPACE" get configmap "$FULLNAME-upload" --output jsonpath='{.data.placement\.yaml}' >"$placement" ||
  fail "no ConfigMap $FULLNAME-upload in $NAMESPACE; install-chart.sh makes it"
# The release's own store, whichever values it was installed with.
installed=$(k --namespace "$NAMESPACE" get configmap "$FULLNAME-upload" --output jsonpath='{.data.recurring\.json}' |
  sed -n 's/^ *"store": *"\(.*\)".*/\1/p')

code=0
timeout $((2700 * PATIENCE)) lorapar submit --preset tiny --store "${STORE:-${installed:-s3://lorapar}}" --wait \
  --host "http://127.0.0.1:$FORWARDED" --service-account "$FULLNAME-runner" \
  --registry "${REGISTRY:-ghcr.io/lorapar}" --placement "$placement" "$@" || code=$?
case $code in
0) say "the run ended well" ;;
10) say "the run ended well; a random model was not found better, as is to be expected" ;;
124) say "TIMED OUT after $((2700 * PATIENCE)) s: the run"; unhealthy; exit 4 ;;
*) say "the run did not end well: exit code $code of docs/exit-codes.md"; unhealthy; exit 1 ;;
esac
