#!/usr/bin/env bash
# Install the chart's development S3 server (MinIO by values-kind.yaml) and its bucket, and nothing else of the chart.
# shellcheck source=tests/kind/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
usage "minio.sh [HELM ARGUMENTS]: install the S3 server and the bucket of values-kind.yaml as the release \$RELEASE in
\$NAMESPACE (default kubeflow). Arguments are options of 'helm upgrade', such as '--set KEY=VALUE', which go on top.
\$PATIENCE (1) multiplies every limit of time" "$@"
need kubectl helm
[ $# = 0 ] || handed_on helm upgrade "$@"
reach

helm upgrade --install "$RELEASE" "$CHART" --namespace "$NAMESPACE" --create-namespace --values "$CHART/values-kind.yaml" \
  --set pipeline.enabled=false --set serving.enabled=false "$@" || fail "helm could not install the object store"
wait_until 300 "the S3 server" rolled_out "statefulset/$FULLNAME-object-store"
wait_until 300 "the bucket" job_done "$FULLNAME-bucket-"
