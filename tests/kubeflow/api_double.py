"""A stand-in for Kubeflow's API server, over real HTTP: every request and response goes through kfp-server-api's types.

The one part of Kubeflow that is not real in these tests. It keeps pipelines, versions, experiments, runs and recurring
runs in memory; a body that is no such type, or has a field the type does not know, is answered with 400.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import urllib.parse
import uuid
from datetime import UTC, datetime
from typing import Any

import kfp_server_api as api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

CODEC = api.ApiClient(api.Configuration(host="http://unused"))


class _Body:
    def __init__(self, data: str) -> None:
        self.data = data


def parse(text: bytes, kind: str) -> Any:
    """A request body as one of kfp-server-api's types; raises ValueError for a field the type does not have."""
    value = json.loads(text)
    parsed = CODEC.deserialize(_Body(json.dumps(value)), kind)
    known = set(type(parsed).attribute_map.values())
    unknown = set(value) - known
    if unknown:
        raise ValueError(f"{kind} has no {sorted(unknown)}")
    return parsed


class Double:
    """The server and what it holds."""

    def __init__(self, port: int = 0) -> None:
        self.pipelines: dict[str, api.V2beta1Pipeline] = {}
        self.versions: dict[str, api.V2beta1PipelineVersion] = {}
        self.packages: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, api.V2beta1Experiment] = {}
        self.runs: dict[str, api.V2beta1Run] = {}
        self.recurring: dict[str, api.V2beta1RecurringRun] = {}
        self.endings: list[tuple[str, dict[str, str]]] = []
        """What becomes of each run in turn: its last state, and the states of its tasks."""
        self.killed: list[str] = []
        """Runs whose Workflows were deleted while they went on."""
        self.refuse: int | None = None
        self.tokens: list[str | None] = []
        double = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                double.answer(self, b"")

            def do_POST(self) -> None:
                double.answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def do_DELETE(self) -> None:
                double.answer(self, b"")

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: Any, body: bytes) -> None:
        """Find the handler by method and path; what it returns is sent as JSON."""
        url = urllib.parse.urlparse(request.path)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(url.query).items()}
        self.tokens.append(request.headers.get("authorization"))
        try:
            if self.refuse is not None:
                raise PermissionError
            status, value = 200, self.route(request.command, url.path, query, body, request.headers)
        except PermissionError:
            status, value = self.refuse or 403, {"message": "not allowed", "code": 7}
        except (ValueError, TypeError, KeyError) as error:
            status, value = 400, {"message": f"invalid: {error}", "code": 3}
        data = json.dumps(CODEC.sanitize_for_serialization(value)).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def route(self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        """One call of the API."""
        root = "/apis/v2beta1"
        what = path.removeprefix(root)
        if (method, what) == ("GET", "/healthz"):
            return api.V2beta1GetHealthzResponse(multi_user=False)
        if (method, what) == ("GET", "/pipelines"):
            return api.V2beta1ListPipelinesResponse(pipelines=_matching(self.pipelines, query))
        if (method, what) == ("POST", "/pipelines/upload"):
            return self._upload(query["name"], body, headers)
        if (method, what) == ("POST", "/pipelines/upload_version"):
            return self._upload_version(query["name"], query["pipelineid"], body, headers)
        if method == "GET" and (match := re.fullmatch(r"/pipelines/([^/]+)/versions", what)):
            found = [one for one in _matching(self.versions, query) if one.pipeline_id == match[1]]
            return api.V2beta1ListPipelineVersionsResponse(pipeline_versions=found)
        if (method, what) == ("GET", "/experiments"):
            return api.V2beta1ListExperimentsResponse(experiments=_matching(self.experiments, query))
        if (method, what) == ("POST", "/experiments"):
            made = parse(body, "V2beta1Experiment")
            made.experiment_id = f"experiment-{len(self.experiments)}"
            self.experiments[made.experiment_id] = made
            return made
        if (method, what) == ("POST", "/runs"):
            return self._run(parse(body, "V2beta1Run"))
        if (method, what) == ("GET", "/runs"):
            return api.V2beta1ListRunsResponse(runs=list(reversed(_matching(self.runs, query))))
        if method == "GET" and (match := re.fullmatch(r"/runs/([^/]+)", what)):
            return self.runs[match[1]]
        if what.startswith("/recurringruns"):
            return self._recurring(method, what, query, body)
        raise KeyError(f"no such call: {method} {path}")

    def _recurring(self, method: str, what: str, query: dict[str, str], body: bytes) -> Any:
        """The calls about recurring runs.

        Deleting one deletes the Workflows that it started, which belong to its ScheduledWorkflow, while the API goes on
        calling their runs what they were (Kubeflow 2.17.0: ownerReferences in
        backend/src/crd/controller/scheduledworkflow/util/scheduled_workflow.go): `killed` keeps their names.
        """
        if method == "DELETE":
            identity = what.rpartition("/")[2]
            del self.recurring[identity]
            self.killed += [
                str(run.display_name)
                for run in self.runs.values()
                if run.recurring_run_id == identity and run.state in ("PENDING", "RUNNING")
            ]
            return {}
        if method == "POST" and what.endswith(":disable"):
            recurring = self.recurring[what.rpartition("/")[2].removesuffix(":disable")]
            recurring.status = api.V2beta1RecurringRunStatus.DISABLED
            return {}
        if method == "GET":
            found = list(reversed(_matching(self.recurring, query)))
            start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 20)
            after = str(start + size) if start + size < len(found) else ""
            return api.V2beta1ListRecurringRunsResponse(
                recurring_runs=found[start : start + size], next_page_token=after, total_size=len(found)
            )
        made = parse(body, "V2beta1RecurringRun")
        made.recurring_run_id = str(uuid.uuid4())
        made.status = api.V2beta1RecurringRunStatus.ENABLED
        made.created_at = datetime.now(UTC)
        self.recurring[made.recurring_run_id] = made
        return made

    def _upload(self, name: str, body: bytes, headers: Any) -> api.V2beta1Pipeline:
        made = api.V2beta1Pipeline(pipeline_id=f"pipeline-{len(self.pipelines)}", display_name=name)
        self.pipelines[made.pipeline_id] = made
        self._upload_version(name, made.pipeline_id, body, headers)
        return made

    def _upload_version(self, name: str, pipeline: str, body: bytes, headers: Any) -> api.V2beta1PipelineVersion:
        """The uploaded package must be one that KFP itself parses."""
        boundary = re.search(r"boundary=(.+)", headers["Content-Type"])[1].encode()
        (part,) = [one for one in body.split(b"--" + boundary) if b"filename=" in one]
        spec, platform = yaml.safe_load_all(part.partition(b"\r\n\r\n")[2].rstrip(b"\r\n").decode())
        json_format.ParseDict(spec, pb.PipelineSpec(), ignore_unknown_fields=False)
        made = api.V2beta1PipelineVersion(
            pipeline_version_id=f"version-{len(self.versions)}", display_name=name, pipeline_id=pipeline
        )
        self.versions[made.pipeline_version_id] = made
        self.packages[made.pipeline_version_id] = {"spec": spec, "platform": platform}
        return made

    def _run(self, run: api.V2beta1Run) -> api.V2beta1Run:
        """Start a run: only parameters that the pipeline has are accepted, as by the real server."""
        version = run.pipeline_version_reference.pipeline_version_id
        known = self.packages[version]["spec"]["root"]["inputDefinitions"]["parameters"]
        unknown = set(run.runtime_config.parameters or {}) - set(known)
        if unknown:
            raise ValueError(f"the pipeline has no parameters {sorted(unknown)}")
        state, tasks = self.endings.pop(0) if self.endings else ("PENDING", {})
        now = datetime.now(UTC)
        run.run_id = f"run-{len(self.runs)}"
        run.state, run.created_at = state, now
        details = [
            api.V2beta1PipelineTaskDetail(display_name=name, state=one, start_time=now, end_time=now)
            for name, one in tasks.items()
        ]
        run.run_details = api.V2beta1RunDetails(task_details=details)
        self.runs[run.run_id] = run
        return run


def _matching(held: dict[str, Any], query: dict[str, str]) -> list[Any]:
    """What fits the filter of a list call; the filter itself must be one of kfp-server-api's type."""
    found = list(held.values())
    for predicate in json.loads(query.get("filter", "{}")).get("predicates", ()):
        # Protobuf's JSON takes an enum by name or by number.
        if predicate["operation"] not in ("EQUALS", 1) or predicate["key"] != "display_name":
            raise ValueError(f"no such predicate: {predicate}")
        found = [one for one in found if one.display_name == predicate["stringValue"]]
    if query.get("experiment_id"):
        found = [one for one in found if getattr(one, "experiment_id", None) == query["experiment_id"]]
    return found
