#!/usr/bin/env bash
# Install the whole chart with values-kind.yaml, or with values of one's own on top.
# shellcheck source=tests/kind/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
usage "install-chart.sh [HELM ARGUMENTS]: install or upgrade the release \$RELEASE in \$NAMESPACE (default kubeflow) with
values-kind.yaml, and wait until all of it is up. Arguments are options of 'helm upgrade', such as '--values FILE' or
'--set KEY=VALUE', which go on top. \$PATIENCE (1) multiplies every limit of time" "$@"
need kubectl helm
[ $# = 0 ] || handed_on helm upgrade "$@"
reach

helm upgrade --install "$RELEASE" "$CHART" --namespace "$NAMESPACE" --create-namespace --values "$CHART/values-kind.yaml" \
  --timeout "$((900 * PATIENCE))s" "$@" || { unhealthy; fail "helm could not install the chart"; }
for kind in deployment statefulset; do
  while read -r name; do
    [ -z "$name" ] || wait_until 900 "$name" rolled_out "$name"
  done < <(k --namespace "$NAMESPACE" get "$kind" --selector "app.kubernetes.io/instance=$RELEASE" --output name)
done
