"""Check that Kubeflow Pipelines answers and has the pipeline: `python check_kfp.py ENDPOINT [PIPELINE [NAMESPACE]]`.

The token, where a multi-user Kubeflow wants one, is the file that KF_PIPELINES_SA_TOKEN_PATH names.
"""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request

from waiting import Waiting, arguments, in_words

LOOK_AT = (
    "look whether pipeline.kfp.endpoint is right, whether its Service has pods that are ready, and whether the "
    "NetworkPolicies of both namespaces let this pod through (pipeline.kfp.namespace)"
)


def ask(address: str) -> dict:
    """GET as JSON."""
    request = urllib.request.Request(address)
    token = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH")
    if token:
        with open(token, encoding="utf-8") as file:
            request.add_header("Authorization", f"Bearer {file.read().strip()}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def check(endpoint: str, pipeline: str, namespace: str) -> str:
    """What was found, in words; raises ValueError where the pipeline is not there."""
    health = ask(f"{endpoint}/apis/v2beta1/healthz")
    found = f"answers (multi-user: {health.get('multi_user', False)})"
    if not pipeline:
        return found
    wanted = {"predicates": [{"operation": "EQUALS", "key": "name", "stringValue": pipeline}]}
    query = urllib.parse.urlencode({"namespace": namespace, "filter": json.dumps(wanted)})
    listed = ask(f"{endpoint}/apis/v2beta1/pipelines?{query}").get("pipelines") or []
    if not listed:
        raise ValueError(f"has no pipeline {pipeline!r}; look at the log of the upload Job")
    versions = ask(f"{endpoint}/apis/v2beta1/pipelines/{listed[0]['pipeline_id']}/versions?page_size=100")
    return f"{found}, has pipeline {pipeline!r} with {len(versions.get('pipeline_versions') or [])} version(s)"


def main() -> int:
    endpoint, pipeline, namespace = (*arguments(__doc__, 1, 3), "", "")[:3]
    with Waiting(endpoint, LOOK_AT):
        try:
            print(f"{endpoint}: {check(endpoint.rstrip('/'), pipeline, namespace)}")
        except (urllib.error.HTTPError, ValueError) as error:
            print(f"{endpoint}: {error}", file=sys.stderr)
            return 1
        except OSError as error:
            print(f"{endpoint}: {in_words(error, endpoint)}; {LOOK_AT}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
