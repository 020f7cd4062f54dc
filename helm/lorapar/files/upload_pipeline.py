"""Upload a compiled pipeline as a new version where it changed, and keep this release's recurring runs in step.

    python upload_pipeline.py ENDPOINT PACKAGE VERSION [RECURRING]

VERSION is the package's version of lorapar; the version in Kubeflow is called VERSION-DIGEST, as `lorapar submit`
calls it, so that neither uploads what the other has. RECURRING is a JSON file: `owner` (marks what this release made),
`service_account`, `parameters`, and `runs` with `name`, `cron`, `config`. What it lists is made, what it lists no
longer is deleted, what is unchanged is left alone; recurring runs of others are never touched.

Speaks Kubeflow's REST API (v2beta1) itself: the image has no kfp, whose pins exclude those of the stages. NAMESPACE and
the file KF_PIPELINES_SA_TOKEN_PATH, where set, are those of a multi-user Kubeflow.
"""

import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

PIPELINE = "lorapar"
EXPERIMENT = "lorapar"
JSON = "application/json"
ATTEMPTS = 10
WAIT_SECONDS = 6


class Kubeflow:
    """The calls of the API that are needed here."""

    def __init__(self, endpoint: str, namespace: str) -> None:
        self.base = f"{endpoint.rstrip('/')}/apis/v2beta1"
        self.namespace = namespace

    def call(self, method: str, path: str, query: dict | None = None, body: bytes = b"", kind: str = JSON) -> dict:
        """One call; a server that does not answer yet is asked again for a minute."""
        given = {key: value for key, value in (query or {}).items() if value}
        address = f"{self.base}{path}?{urllib.parse.urlencode(given)}"
        for left in reversed(range(ATTEMPTS)):
            request = urllib.request.Request(address, data=body or None, method=method)
            request.add_header("Content-Type", kind)
            token = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH")
            if token:
                with open(token, encoding="utf-8") as file:
                    request.add_header("Authorization", f"Bearer {file.read().strip()}")
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or b"{}")
            except urllib.error.HTTPError as error:
                said = error.read(500).decode(errors="replace")
                if error.code < 500 or not left:
                    raise ValueError(f"{method} {path}: {error.code} {said}") from None
            except OSError as error:
                if not left:
                    raise ValueError(f"{method} {path}: {error}") from None
            time.sleep(WAIT_SECONDS)
        raise AssertionError("unreachable")

    def find(self, path: str, field: str, name: str) -> dict | None:
        """The one entry of a list with that display name."""
        wanted = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
        listed = self.call("GET", path, {"namespace": self.namespace, "filter": json.dumps(wanted), "page_size": 100})
        return next((entry for entry in listed.get(field) or [] if entry.get("display_name") == name), None)

    def post(self, path: str, body: dict) -> dict:
        return self.call("POST", path, body=json.dumps(body).encode())

    def upload(self, path: str, query: dict, package: bytes) -> dict:
        """A file as a form sends it."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="uploadfile"; filename="pipeline.yaml"\r\n\r\n'
        form = head.encode() + package + f"\r\n--{boundary}--\r\n".encode()
        return self.call("POST", path, query, form, f"multipart/form-data; boundary={boundary}")


def uploaded(kubeflow: Kubeflow, package: bytes, version: str) -> tuple[str, str, bool]:
    """Ids of pipeline and version, and whether the version is new."""
    name = f"{version}-{hashlib.sha256(package).hexdigest()[:12]}"
    pipeline = kubeflow.find("/pipelines", "pipelines", PIPELINE)
    if pipeline is None:
        query = {"name": PIPELINE, "display_name": PIPELINE, "namespace": kubeflow.namespace}
        pipeline = kubeflow.upload("/pipelines/upload", query, package)
    versions = f"/pipelines/{pipeline['pipeline_id']}/versions"
    found = kubeflow.find(versions, "pipeline_versions", name)
    if found is not None:
        return pipeline["pipeline_id"], found["pipeline_version_id"], False
    query = {"name": name, "display_name": name, "pipelineid": pipeline["pipeline_id"]}
    made = kubeflow.upload("/pipelines/upload_version", query, package)
    return pipeline["pipeline_id"], made["pipeline_version_id"], True


def experiment_of(kubeflow: Kubeflow) -> str:
    found = kubeflow.find("/experiments", "experiments", EXPERIMENT)
    body = {"display_name": EXPERIMENT, **({"namespace": kubeflow.namespace} if kubeflow.namespace else {})}
    return (found or kubeflow.post("/experiments", body))["experiment_id"]


def recurring_runs(kubeflow: Kubeflow, owner: str) -> list[dict]:
    """Those that this release made, by the mark in their description."""
    found, page = [], ""
    while True:
        query = {"namespace": kubeflow.namespace, "page_size": 100, "page_token": page}
        listed = kubeflow.call("GET", "/recurringruns", query)
        found += listed.get("recurringRuns") or []
        page = listed.get("next_page_token", "")
        if not page:
            return [run for run in found if run.get("description", "").startswith(f"{owner} ")]


def desired(settings: dict, pipeline: str, version: str, experiment: str) -> list[dict]:
    """The recurring runs as they should be; a digest of all that makes one up stands in its description."""
    runs = []
    for run in settings["runs"]:
        body = {
            "display_name": run["name"],
            "experiment_id": experiment,
            "pipeline_version_reference": {"pipeline_id": pipeline, "pipeline_version_id": version},
            "runtime_config": {"parameters": {**settings["parameters"], "config": json.dumps(run["config"])}},
            "trigger": {"cron_schedule": {"cron": run["cron"]}},
            "service_account": settings["service_account"],
            "max_concurrency": "1",
            "no_catchup": True,
            "mode": "ENABLE",
        }
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
        runs.append({**body, "description": f"{settings['owner']} {digest}"})
    return runs


def keep_in_step(kubeflow: Kubeflow, settings: dict, pipeline: str, version: str) -> None:
    """Make what is missing first, then delete what is no longer wanted."""
    there = recurring_runs(kubeflow, settings["owner"])
    wanted = desired(settings, pipeline, version, experiment_of(kubeflow)) if settings["runs"] else []
    for run in wanted:
        if run["description"] not in {one.get("description") for one in there}:
            kubeflow.post("/recurringruns", run)
            print(f"recurring run {run['display_name']}: made, {run['trigger']['cron_schedule']['cron']}")
    for run in there:
        if run["description"] not in {one["description"] for one in wanted}:
            kubeflow.call("DELETE", f"/recurringruns/{run['recurring_run_id']}")
            print(f"recurring run {run['display_name']}: deleted")


def main() -> int:
    endpoint, path, version = sys.argv[1:4]
    kubeflow = Kubeflow(endpoint, os.environ.get("NAMESPACE", ""))
    with open(path, "rb") as file:
        package = file.read()
    try:
        pipeline, made, new = uploaded(kubeflow, package, version)
        print(f"pipeline {PIPELINE}: version {made} {'uploaded' if new else 'is there already'}")
        if len(sys.argv) > 4:
            with open(sys.argv[4], encoding="utf-8") as file:
                keep_in_step(kubeflow, json.load(file), pipeline, made)
    except ValueError as error:
        print(f"{endpoint}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
