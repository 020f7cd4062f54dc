#!/usr/bin/env bash
# Install Kubeflow Pipelines, standalone, into the namespace kubeflow of whichever cluster KUBECONFIG names.
# shellcheck source=tests/kind/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
usage "kfp-standalone.sh [MANIFESTS]: install Kubeflow Pipelines $KFP_VERSION; MANIFESTS is a local copy of its
manifests/kustomize where the cluster's machine does not reach GitHub" "$@"
case ${1:-} in -*) wrong "kfp-standalone.sh takes a folder, not '$1'" ;; esac
[ $# -le 1 ] || wrong "kfp-standalone.sh takes at most one argument, not '$*'"
need kubectl
reach

NAMESPACE=kubeflow
if [ $# = 1 ]; then
  [ -d "$1/env/platform-agnostic" ] || wrong "$1: no env/platform-agnostic in it, so it is no copy of manifests/kustomize"
  scoped=$1/cluster-scoped-resources installed=$1/env/platform-agnostic
else
  source=github.com/kubeflow/pipelines/manifests/kustomize
  scoped="$source/cluster-scoped-resources?ref=$KFP_COMMIT" installed="$source/env/platform-agnostic?ref=$KFP_COMMIT"
fi

kubectl apply --server-side -k "$scoped"
wait_until 60 "Kubeflow's custom resources" k wait --for=condition=established crd/applications.app.k8s.io --timeout=1s
kubectl apply --server-side -k "$installed"
for name in mysql seaweedfs workflow-controller ml-pipeline ml-pipeline-persistenceagent ml-pipeline-ui; do
  k --namespace kubeflow get "deployment/$name" >/dev/null 2>&1 || { say "no deployment $name in this version"; continue; }
  wait_until 900 "$name" rolled_out "deployment/$name"
done
