#!/usr/bin/env bash
# Bring this checkout's images to the cluster: into kind's nodes, or into a registry that the cluster reads.
# shellcheck source=tests/kind/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
usage "load-images.sh kind | push REGISTRY: load lorapar/client, lorapar/trainer and lorapar/vllm (built by images/build.sh)
into the kind cluster \$CLUSTER, or tag and push them as REGISTRY/lorapar/NAME" "$@"
case ${*: -1} in -*) wrong "load-images.sh has no option '${*: -1}'" ;; esac
case ${1:-} in
kind) [ $# = 1 ] || wrong "load-images.sh kind takes nothing more, not '${*:2}'" ;;
push) [ $# = 2 ] || wrong "load-images.sh push takes one registry" ;;
*) wrong "load-images.sh needs 'kind' or 'push REGISTRY', not '$*'" ;;
esac
tools=(docker)
[ "$1" = push ] || tools+=(kind)
need "${tools[@]}"

version=$(sed -n 's/^appVersion: *"\(.*\)"/\1/p' "$CHART/Chart.yaml")
for name in client trainer vllm; do
  built="lorapar/$name:$version"
  docker image inspect "$built" >/dev/null 2>&1 || fail "no image $built here; build it with: images/build.sh"
  if [ "$1" = kind ]; then
    # The name that the chart and the compiled pipeline ask for.
    docker tag "$built" "ghcr.io/$built"
    kind load docker-image --name "$CLUSTER" "ghcr.io/$built" || fail "$built could not be loaded into $CLUSTER"
  else
    docker tag "$built" "$2/$built"
    docker push "$2/$built" || fail "$2/$built could not be pushed; is 'docker login' needed?"
  fi
  say "$built is where the cluster finds it"
done
