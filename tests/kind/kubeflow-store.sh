#!/usr/bin/env bash
# Make the Secret that values-kubeflow-store.yaml names, from the keys of Kubeflow's own object store.
# shellcheck source=tests/kind/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
usage "kubeflow-store.sh: make the Secret lorapar-kubeflow-store in \$NAMESPACE (default kubeflow) from Kubeflow's own keys;
then: install-chart.sh --values helm/lorapar/values-kubeflow-store.yaml" "$@"
[ $# = 0 ] || wrong "kubeflow-store.sh takes no arguments, not '$*'"
need kubectl base64
reach

values=$CHART/values-kubeflow-store.yaml
secret=$(sed -n 's/^  existingSecret: *//p' "$values")
endpoint=$(sed -n 's/^  endpoint: *//p' "$values")
keys_of() {
  k --namespace kubeflow get secret mlpipeline-minio-artifact --output "jsonpath={.data.$1}" | base64 -d ||
    fail "no Secret mlpipeline-minio-artifact with $1 in the namespace kubeflow; kfp-standalone.sh installs Kubeflow"
}
# By way of files: a key on a command line could be read by whoever lists processes.
folder=$(mktemp -d)
LEFT+=("$folder")
keys_of accesskey >"$folder/AWS_ACCESS_KEY_ID"
keys_of secretkey >"$folder/AWS_SECRET_ACCESS_KEY"
printf %s "$endpoint" >"$folder/AWS_ENDPOINT_URL"
printf us-east-1 >"$folder/AWS_DEFAULT_REGION"
k --namespace "$NAMESPACE" create secret generic "$secret" --from-file "$folder" --dry-run=client --output yaml |
  k --namespace "$NAMESPACE" apply --filename - >&2 || fail "the Secret $secret could not be made"
say "the Secret $secret is in $NAMESPACE"
