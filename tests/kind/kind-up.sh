#!/usr/bin/env bash
# Make a kind cluster, or find the one that is there.
# shellcheck source=tests/kind/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
usage "kind-up.sh: make the kind cluster \$CLUSTER (default lorapar) with the pinned node image, or find it" "$@"
[ $# = 0 ] || wrong "kind-up.sh takes no arguments, not '$*'"
need kind kubectl docker

found=$(kind version 2>/dev/null | awk '{print $2}')
[ "$found" = "$KIND_VERSION" ] || say "kind is ${found:-unknown}; these scripts were written for $KIND_VERSION"

if kind get clusters 2>/dev/null | grep -qx "$CLUSTER"; then
  say "the cluster $CLUSTER is there"
else
  kind create cluster --name "$CLUSTER" --image "$KIND_NODE_IMAGE" || fail "kind could not make the cluster $CLUSTER"
fi
kind export kubeconfig --name "$CLUSTER"
NAMESPACE=kube-system
wait_until 300 "the nodes" k wait --for=condition=Ready node --all --timeout=1s
wait_until 180 "the cluster's DNS" rolled_out deployment/coredns
