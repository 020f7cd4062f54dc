"""Upload a compiled pipeline as a new version where it changed, and keep this release's recurring runs in step.

    python upload_pipeline.py ENDPOINT PACKAGE VERSION [RECURRING]

VERSION is the package's version of lorapar; the version in Kubeflow is called VERSION-DIGEST, as `lorapar submit`
calls it, so that neither uploads what the other has. Where a newer version has other images, it is uploaded once more,
with the time in its name, so that it is the newest again.

RECURRING is a JSON file: `owner` (marks what this release made), `service_account`, `parameters`, `plugins` where
plugins of Kubeflow are to get input, and `runs` with `name`, `cron`, `config`. What it lists is made, what it lists no
longer is switched off and deleted, what is unchanged is left alone; recurring runs of others are never touched.

Deleting a recurring run deletes the Workflows that it started, the one that is going on too. So while a run of it is
going on it is switched off only; the next upgrade deletes it. A run whose Workflow is gone, which Kubeflow goes on
calling running, is none.

A Kubeflow that does not answer is waited for, LORAPAR_WAIT_SECONDS long (480), with a line every 30 s; then the exit
code is 3.

Speaks Kubeflow's REST API itself: the image has no kfp, whose pins exclude those of the stages. NAMESPACE and
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
from collections.abc import Iterator
from datetime import UTC, datetime

from waiting import Waiting, arguments, in_words, limit_seconds

from lorapar.errors import UnreachableError

PIPELINE = "lorapar"
EXPERIMENT = "lorapar"
JSON = "application/json"
# Statuses of a server that answers with an error of its own.
ATTEMPTS = 10
PAUSE_SECONDS = 6
LOG_BYTES = 64 * 1024
ERROR_BYTES = 64 * 1024
# Statuses of a proxy without a server behind it: the same as no answer.
ABSENT = (502, 503, 504)
ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
UNREACHABLE = 3
LOOK_AT = (
    "look whether pipeline.kfp.endpoint is right, whether its Service has pods that are ready, and whether the "
    "NetworkPolicies of both namespaces let this Job through (pipeline.kfp.namespace); then run helm upgrade again"
)


class Unreachable(Exception):
    """Nobody answered for as long as may be waited."""


class Kubeflow:
    """The calls of the API that are needed here."""

    def __init__(self, endpoint: str, namespace: str, waiting: Waiting) -> None:
        self.root = endpoint.rstrip("/")
        self.base = f"{self.root}/apis/v2beta1"
        self.namespace = namespace
        self.waiting = waiting
        self.limit_seconds = limit_seconds(480)

    def await_it(self) -> None:
        """Until somebody answers there, whatever the answer; a hanging attempt ends soon and the next one begins."""
        while True:
            try:
                with urllib.request.urlopen(self.request("GET", f"{self.base}/healthz"), timeout=10):
                    break
            except urllib.error.HTTPError as error:
                if error.code not in ABSENT:
                    break
                self.no_answer(error)
            except OSError as error:
                self.no_answer(error)
        self.waiting.answered()

    def no_answer(self, error: Exception) -> None:
        """Wait a little; raises Unreachable where there is no time left."""
        self.waiting.note(in_words(error, self.base))
        if self.waiting.seconds + PAUSE_SECONDS >= self.limit_seconds:
            raise Unreachable(self.waiting.given_up()) from None
        time.sleep(PAUSE_SECONDS)

    def call(self, method: str, path: str, query: dict | None = None, body: bytes = b"", kind: str = JSON) -> dict:
        """One call of v2beta1; what comes back as JSON."""
        given = {key: value for key, value in (query or {}).items() if value}
        address = f"{self.base}{path}?{urllib.parse.urlencode(given)}"
        return json.loads(self.ask(method, address, body, kind) or b"{}")

    def ask(
        self,
        method: str,
        address: str,
        body: bytes = b"",
        kind: str = JSON,
        attempts: int = ATTEMPTS,
        most_bytes: int = -1,
    ) -> bytes:
        """A server that fails is asked again for a minute, one that does not answer for as long as may be."""
        left, path = attempts, address.removeprefix(self.root).partition("?")[0]
        while True:
            try:
                with urllib.request.urlopen(self.request(method, address, body, kind), timeout=60) as answer:
                    self.waiting.answered()
                    return answer.read(most_bytes)
            except urllib.error.HTTPError as error:
                if error.code in ABSENT:
                    self.no_answer(error)
                    continue
                left -= 1
                if error.code < 500 or not left:
                    raise ValueError(f"{method} {path}: {error.code} {words(error.read(ERROR_BYTES))}") from None
                time.sleep(PAUSE_SECONDS)
            except OSError as error:
                self.no_answer(error)

    def request(self, method: str, address: str, body: bytes = b"", kind: str = JSON) -> urllib.request.Request:
        """With the token as it is now: the kubelet renews it."""
        request = urllib.request.Request(address, data=body or None, method=method)
        request.add_header("Content-Type", kind)
        token = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH")
        if token:
            with open(token, encoding="utf-8") as file:
                request.add_header("Authorization", f"Bearer {file.read().strip()}")
        return request

    def manifest(self, run: str) -> str:
        """Argo's Workflow of a run, as JSON; empty where this Kubeflow does not hand it out."""
        try:
            found = json.loads(self.ask("GET", f"{self.root}/apis/v1beta1/runs/{run}", attempts=1) or b"{}")
        except ValueError:
            return ""
        return (found.get("pipeline_runtime") or {}).get("workflow_manifest") or ""

    def log(self, run: str, pod: str) -> str:
        """The beginning of a pod's log; raises UnreachableError with Kubeflow's words where it has none."""
        try:
            address = f"{self.root}/apis/v1alpha1/runs/{run}/nodes/{pod}/log"
            said = self.ask("GET", address, attempts=1, most_bytes=LOG_BYTES).decode(errors="replace")
        except ValueError as error:
            raise UnreachableError(str(error)) from None
        try:
            problem = json.loads(said).get("error_message")
        except (ValueError, AttributeError):
            problem = None
        if problem:
            raise UnreachableError(problem)
        return said

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


def words(said: bytes) -> str:
    """What an error's body says: the message of Kubeflow's JSON, or the beginning of what a gateway writes."""
    text = said.decode(errors="replace")
    try:
        value = json.loads(text)
        text = value.get("error_message") or value.get("message") or text
    except (ValueError, AttributeError):
        pass
    return str(text)[:500]


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
        if not is_behind(kubeflow, versions, package, version):
            return pipeline["pipeline_id"], found["pipeline_version_id"], False
        name += f"-{datetime.now(UTC):%Y%m%d%H%M%S}"
    query = {"name": name, "display_name": name, "pipelineid": pipeline["pipeline_id"]}
    made = kubeflow.upload("/pipelines/upload_version", query, package)
    return pipeline["pipeline_id"], made["pipeline_version_id"], True


def is_behind(kubeflow: Kubeflow, versions: str, package: bytes, version: str) -> bool:
    """Whether a newer version has other images, as after `helm rollback`: who names none would get those."""
    import yaml

    from lorapar.kubeflow.package import images_of

    ours = images_of(next(yaml.load_all(package, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))))
    listed = kubeflow.call("GET", versions, {"sort_by": "created_at desc", "page_size": 100})
    for one in listed.get("pipeline_versions") or []:
        images = images_of(one.get("pipeline_spec")) if one["display_name"].startswith(f"{version}-") else {}
        if images:
            return bool(ours) and images != ours
    return False


def experiment_of(kubeflow: Kubeflow) -> str:
    found = kubeflow.find("/experiments", "experiments", EXPERIMENT)
    body = {"display_name": EXPERIMENT, **({"namespace": kubeflow.namespace} if kubeflow.namespace else {})}
    return (found or kubeflow.post("/experiments", body))["experiment_id"]


def pages(kubeflow: Kubeflow, path: str, field: str, query: dict) -> Iterator[dict]:
    """All entries of a list."""
    page = ""
    while True:
        asked = {"namespace": kubeflow.namespace, "page_size": 100, "page_token": page, **query}
        listed = kubeflow.call("GET", path, asked)
        yield from listed.get(field) or []
        page = listed.get("next_page_token", "")
        if not page:
            return


def recurring_runs(kubeflow: Kubeflow, owner: str) -> list[dict]:
    """Those that this release made, by the mark in their description."""
    found = pages(kubeflow, "/recurringruns", "recurringRuns", {})
    return [run for run in found if run.get("description", "").startswith(f"{owner} ")]


def going_on(kubeflow: Kubeflow, recurring: dict) -> str:
    """Name of a run that it started and that has not ended, or nothing."""
    made = [{"operation": "EQUALS", "key": "recurring_run_id", "stringValue": recurring["recurring_run_id"]}]
    query = {"sort_by": "created_at desc", "filter": json.dumps({"predicates": made})}
    for run in pages(kubeflow, "/runs", "runs", query):
        if run.get("state") not in ENDED and not is_over(kubeflow, run["run_id"]):
            return run.get("display_name") or run["run_id"]
    return ""


def is_over(kubeflow: Kubeflow, run: str) -> bool:
    """Whether a run that Kubeflow calls running has lost its Workflow, by its pods; False where nothing says it."""
    from lorapar.kubeflow.follow import is_gone
    from lorapar.kubeflow.workflow import read_workflow

    text = kubeflow.manifest(run)
    workflow = read_workflow(text, ()) if text else None
    return workflow is not None and is_gone(kubeflow, run, workflow)


def remove(kubeflow: Kubeflow, recurring: dict) -> None:
    """Switch it off first, so that it starts nothing while we look; delete it only where no run of it is going on."""
    path, name = f"/recurringruns/{recurring['recurring_run_id']}", recurring["display_name"]
    if recurring.get("status") != "DISABLED":
        kubeflow.post(f"{path}:disable", {})
    run = going_on(kubeflow, recurring)
    if run:
        print(f"recurring run {name}: switched off; its run {run!r} goes on, the next upgrade deletes it")
    else:
        # From 2.16 on this does not affect a run that has begun since.
        kubeflow.call("DELETE", path, {"propagation_policy": "ORPHAN"})
        print(f"recurring run {name}: deleted")


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
        if settings.get("plugins"):
            body["plugins_input"] = settings["plugins"]
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
        runs.append({**body, "description": f"{settings['owner']} {digest}"})
    return runs


def keep_in_step(kubeflow: Kubeflow, settings: dict, pipeline: str, version: str) -> None:
    """Make what is missing first, then remove what is no longer wanted."""
    there = recurring_runs(kubeflow, settings["owner"])
    wanted = desired(settings, pipeline, version, experiment_of(kubeflow)) if settings["runs"] else []
    # A recurring run that was disabled because its run went on does not count as existing if it is wanted again.
    active = {run.get("description") for run in there if run.get("status") != "DISABLED"}
    for run in wanted:
        if run["description"] not in active:
            kubeflow.post("/recurringruns", run)
            print(f"recurring run {run['display_name']}: made, {run['trigger']['cron_schedule']['cron']}")
    for run in there:
        if run["description"] not in {one["description"] for one in wanted} or run.get("status") == "DISABLED":
            remove(kubeflow, run)


def main() -> int:
    endpoint, path, version, *settings = arguments(__doc__, 3, 4)
    with open(path, "rb") as file:
        package = file.read()
    with Waiting(endpoint, LOOK_AT) as waiting:
        kubeflow = Kubeflow(endpoint, os.environ.get("NAMESPACE", ""), waiting)
        try:
            kubeflow.await_it()
            pipeline, made, new = uploaded(kubeflow, package, version)
            print(f"pipeline {PIPELINE}: version {made} {'uploaded' if new else 'is there already'}", flush=True)
            for listed in settings:
                with open(listed, encoding="utf-8") as file:
                    keep_in_step(kubeflow, json.load(file), pipeline, made)
        except ValueError as error:
            print(f"{endpoint}: {error}", file=sys.stderr)
            return 1
        except Unreachable as error:
            print(f"{endpoint}: {error}", file=sys.stderr)
            return UNREACHABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
