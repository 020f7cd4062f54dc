"""A stand-in for Kubeflow's API server, over real HTTP: every request and response goes through kfp-server-api's types.

The one part of Kubeflow that is not real in these tests. It keeps pipelines, versions, experiments, runs and recurring
runs in memory; a body that is no such type, or has a field the type does not know, is answered with 400. It behaves as
Kubeflow Pipelines 2.17.0 does in what lorapar relies on (files below backend/src/apiserver):

- task details are made of plain node statuses (argo_double.py makes both), and stay what they were once those are
  packed (server/report_server.go, reportTasksFromExecution: a report without nodes changes no task);
- the Workflow itself is handed out by v1beta1 (server/run_server.go, GetRunV1), a pod's log by v1alpha1, with status
  200 whatever happens (server/run_log_server.go, ReadRunLogV1), an archived log as the artifact `main-logs`
  (server/run_artifact_server.go, ReadArtifact);
- the Workflow is kept as Kubernetes gave it back when it was made, without a status, until it is first reported
  (resource/resource_manager.go, CreateRun; the persistence agent reports what Argo has changed:
  src/agent/persistence/worker/workflow_saver.go), so that one deleted before stays so for ever;
- a terminated run is CANCELING until Argo has ended it, then FAILED (resource/resource_manager.go, TerminateRun and
  ReportWorkflowResource), with CANCELING in its history where it was reported meanwhile;
- a recurring run that is deleted takes its Workflows with it unless they are orphaned, and their runs stay as they were
  (resource/resource_manager.go, DeleteJob; owner references: src/common/util/workflow.go, SetOwnerReferences);
- with users' namespaces, a list without a namespace has the pipelines of none, and an upload under a name that the
  namespace has already is refused with 409 (server/pipeline_server.go, listPipelines).
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import re
import threading
import urllib.parse
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import kfp_server_api as api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

from tests.kubeflow.argo_double import Argo, fate

CODEC = api.ApiClient(api.Configuration(host="http://unused"))


@dataclass(frozen=True)
class Frame:
    """A run at one moment."""

    state: str
    nodes: Mapping[str, Any] = field(default_factory=dict)
    """The fate of each node of the graph that has been reached: a state, or a Fate."""
    packed: bool = False
    """Whether the Workflow has grown beyond 1 MiB by now."""
    deadline: int | None = None
    history: tuple[str, ...] = ()
    begun: bool = True
    """Whether Argo has looked at the Workflow: one that it has not has no status at all."""


class NotThereError(Exception):
    """What is answered with 404."""


class NoLogError(Exception):
    """What is answered with 500."""


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
        self.killed: list[str] = []
        """Names of runs whose Workflows were deleted while they went on."""
        self.endings: list[Any] = []
        """What becomes of each run in turn: a Frame, or several, of which each question about the run sees the next."""
        self.frames: dict[str, list[Frame]] = {}
        self.workflows: dict[str, Any] = {}
        """The Workflow of each run: nodes and logs, and whether the manifest is packed."""
        self.gone: set[str] = set()
        """Ids of runs whose Workflow and pods have been deleted."""
        self.answers_before_404: int | None = None
        """How often a run is shown before somebody deletes it; none: nobody does."""
        self.hands_out_workflows = True
        self.says_500_for_logs = False
        """Whether a log that is not there is answered with an error's status, as after Kubeflow 2.17."""
        self.multi_user = False
        self.pipeline_namespaces: dict[str, str] = {}
        self.prefix = ""
        """What every path must begin with, as by a service of another address."""
        self.refuse: int | None = None
        self.web_page = ""
        """What is answered to everything in place of JSON, as by a login page."""
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
            if not url.path.startswith(self.prefix):
                raise NotThereError(url.path)
            path = url.path.removeprefix(self.prefix)
            status, value = 200, self.route(request.command, path, query, body, request.headers)
        except PermissionError:
            status, value = self.refuse or 403, {"message": "not allowed", "code": 7}
        except NotThereError as error:
            status, value = 404, {"message": f"{error} not found", "code": 5}
        except NoLogError as error:
            status, value = 500, {"error": str(error), "code": 13, "message": str(error), "details": []}
        except FileExistsError as error:
            status, value = 409, {"message": f"{error} already exists", "code": 6}
        except (ValueError, TypeError, KeyError) as error:
            status, value = 400, {"message": f"invalid: {error}", "code": 3}
        if self.web_page:
            status, value = 200, self.web_page
        text = isinstance(value, str)
        data = value.encode() if text else json.dumps(CODEC.sanitize_for_serialization(value)).encode()
        request.send_response(status)
        request.send_header(
            "Content-Type", "text/html" if self.web_page else "text/plain" if text else "application/json"
        )
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        # A client may have given up meanwhile.
        with contextlib.suppress(ConnectionError):
            request.wfile.write(data)

    def route(self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        """One call of the API."""
        root = "/apis/v2beta1"
        what = path.removeprefix(root)
        if (method, what) == ("GET", "/healthz"):
            return api.V2beta1GetHealthzResponse(multi_user=self.multi_user)
        if (method, what) == ("GET", "/pipelines"):
            namespace = query.get("namespace", "") if self.multi_user else ""
            mine = {key: one for key, one in self.pipelines.items() if self.pipeline_namespaces[key] == namespace}
            return api.V2beta1ListPipelinesResponse(pipelines=_matching(mine, query))
        if (method, what) == ("POST", "/pipelines/upload"):
            return self._upload(query["name"], body, headers, query.get("namespace", "") if self.multi_user else "")
        if (method, what) == ("POST", "/pipelines/upload_version"):
            return self._upload_version(query["name"], query["pipelineid"], body, headers)
        if method == "GET" and (match := re.fullmatch(r"/pipelines/([^/]+)/versions", what)):
            found = [one for one in _matching(self.versions, query) if one.pipeline_id == match[1]]
            if query.get("sort_by") == "created_at desc":
                found.reverse()
            return api.V2beta1ListPipelineVersionsResponse(pipeline_versions=found)
        if what == "/experiments":
            return self._experiments(method, query, body)
        if (method, what) == ("POST", "/runs"):
            return self._run(parse(body, "V2beta1Run"))
        if (method, what) == ("GET", "/runs"):
            return api.V2beta1ListRunsResponse(runs=list(reversed(_matching(self.runs, query))))
        if method == "GET" and (found := self._of_a_run(what)) is not None:
            return found
        if what.startswith("/recurringruns"):
            return self._recurring(method, what, query, body)
        raise KeyError(f"no such call: {method} {path}")

    def _experiments(self, method: str, query: dict[str, str], body: bytes) -> Any:
        if method == "GET":
            return api.V2beta1ListExperimentsResponse(experiments=_matching(self.experiments, query))
        made = parse(body, "V2beta1Experiment")
        made.experiment_id = f"experiment-{len(self.experiments)}"
        self.experiments[made.experiment_id] = made
        return made

    def _of_a_run(self, what: str) -> Any:
        """A run, its Workflow or a log of it; None for another path."""
        if match := re.fullmatch(r"/runs/([^/]+)", what):
            return self.show(match[1])
        if match := re.fullmatch(r"/apis/v1beta1/runs/([^/]+)", what):
            return self._workflow(match[1])
        if match := re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", what):
            return self._log(match[1], match[2])
        if match := re.fullmatch(r"/runs/([^/]+)/nodes/([^/]+)/artifacts/main-logs:read", what):
            return self._archived(match[1], match[2])
        return None

    def _recurring(self, method: str, what: str, query: dict[str, str], body: bytes) -> Any:
        """The calls about recurring runs.

        Deleting one deletes the Workflows that it started, which belong to its ScheduledWorkflow, while the API goes on
        calling their runs what they were (Kubeflow 2.17.0: ownerReferences in
        backend/src/crd/controller/scheduledworkflow/util/scheduled_workflow.go): `killed` keeps their names.
        """
        if method == "DELETE":
            return self._delete_recurring(what.rpartition("/")[2], query.get("propagation_policy"))
        if method == "POST" and what.endswith(":disable"):
            self._known(what.rpartition("/")[2].removesuffix(":disable")).status = "DISABLED"
            return {}
        if method == "GET" and what != "/recurringruns":
            return self._known(what.rpartition("/")[2])
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

    def _known(self, recurring: str) -> Any:
        if recurring not in self.recurring:
            raise NotThereError(recurring)
        return self.recurring[recurring]

    def _delete_recurring(self, recurring: str, policy: str | None) -> Any:
        """Its Workflows go with it; what the API says of their runs stays what it was."""
        self._known(recurring)
        del self.recurring[recurring]
        if policy != "ORPHAN":
            going = {key: run for key, run in self.runs.items() if run.recurring_run_id == recurring}
            going = {key: run for key, run in going.items() if run.state in ("PENDING", "RUNNING")}
            self.killed += [str(run.display_name) for run in going.values()]
            self.gone |= set(going)
        return {}

    def fire(self, recurring: str, frame: Frame) -> api.V2beta1Run:
        """Let a recurring run start one of its runs."""
        made = self.recurring[recurring]
        if made.status != "ENABLED":
            raise ValueError("a disabled recurring run starts nothing")
        self.endings = [frame]
        run = self._run(
            api.V2beta1Run(
                display_name=f"{made.display_name}-1",
                experiment_id=made.experiment_id,
                pipeline_version_reference=made.pipeline_version_reference,
                runtime_config=made.runtime_config,
                recurring_run_id=recurring,
            )
        )
        self.show(run.run_id)
        return run

    def _upload(self, name: str, body: bytes, headers: Any, namespace: str) -> api.V2beta1Pipeline:
        there = [key for key, one in self.pipelines.items() if one.display_name == name]
        if any(self.pipeline_namespaces[key] == namespace for key in there):
            raise FileExistsError(f"pipeline {name}")
        self.pipeline_namespaces[f"pipeline-{len(self.pipelines)}"] = namespace
        made = api.V2beta1Pipeline(pipeline_id=f"pipeline-{len(self.pipelines)}", display_name=name)
        self.pipelines[made.pipeline_id] = made
        self._upload_version(name, made.pipeline_id, body, headers)
        return made

    def _upload_version(self, name: str, pipeline: str, body: bytes, headers: Any) -> api.V2beta1PipelineVersion:
        """The uploaded package must be one that KFP itself parses."""
        boundary = re.search(r"boundary=(.+)", headers["Content-Type"])[1].encode()
        (part,) = [one for one in body.split(b"--" + boundary) if b"filename=" in one]
        spec, platform = yaml.load_all(part.partition(b"\r\n\r\n")[2].rstrip(b"\r\n").decode(), Loader=yaml.CSafeLoader)
        json_format.ParseDict(spec, pb.PipelineSpec(), ignore_unknown_fields=False)
        made = api.V2beta1PipelineVersion(
            pipeline_version_id=f"version-{len(self.versions)}", display_name=name, pipeline_id=pipeline
        )
        # The spec as server/api_util.go, YamlStringToPipelineSpecStruct, gives it where there is a platform document.
        made.pipeline_spec = {"pipeline_spec": spec, "platform_spec": platform}
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
        if run.plugins_input is not None and not all(isinstance(one, dict) for one in run.plugins_input.values()):
            raise ValueError("plugins_input: a plugin takes an object")
        ending = self.endings.pop(0) if self.endings else Frame("PENDING")
        run.run_id = f"run-{len(self.runs)}"
        run.created_at = datetime.now(UTC)
        run.run_details = api.V2beta1RunDetails(task_details=[])
        self.runs[run.run_id] = run
        self.frames[run.run_id] = list(ending) if isinstance(ending, list) else [ending]
        run.state = self.frames[run.run_id][-1].state
        run.state_history = [
            api.V2beta1RuntimeStatus(state=state) for state in (*self.frames[run.run_id][-1].history, run.state)
        ]
        return run

    def show(self, run: str) -> api.V2beta1Run:
        """The run at its next moment; the last one stays."""
        if self.answers_before_404 is not None:
            self.answers_before_404 -= 1
            if self.answers_before_404 < 0:
                raise NotThereError(f"run {run}")
        found, frames = self.runs[run], self.frames[run]
        frame = frames[0]
        if run not in self.gone and len(frames) > 1:
            frames.pop(0)
        spec = self.packages[found.pipeline_version_reference.pipeline_version_id]["spec"]
        drawn = Argo(spec, {name: fate(one) for name, one in frame.nodes.items()})
        self.workflows[run] = (drawn, drawn.manifest(packed=frame.packed, deadline=frame.deadline, begun=frame.begun))
        if frame.begun and not frame.packed:
            found.run_details = api.V2beta1RunDetails(task_details=drawn.details())
        found.state = frame.state
        found.state_history = [api.V2beta1RuntimeStatus(state=state) for state in (*frame.history, frame.state)]
        return found

    def _workflow(self, run: str) -> Any:
        if not self.hands_out_workflows:
            raise NotThereError(run)
        _, manifest = self.workflows[run]
        return {"run": {"id": run}, "pipeline_runtime": {"workflow_manifest": json.dumps(manifest)}}

    def _log(self, run: str, pod: str) -> str:
        given = self.workflows[run][0].logs.get(pod)
        if given is not None and given.state == "PENDING" and given.made and run not in self.gone:
            return json.dumps(
                {"error_message": f'container "main" in pod "{pod}" is waiting to start: PodInitializing'}
            )
        if given is None or given.log is None or given.archived or run in self.gone:
            message = f'Failed to read logs for run {run}: InternalServerError: pods "{pod}" not found'
            if self.says_500_for_logs:
                raise NoLogError(message)
            return json.dumps({"error_message": message, "error_details": message})
        return given.log

    def _archived(self, run: str, pod: str) -> Any:
        given = self.workflows[run][0].logs.get(pod)
        if given is None or not given.archived or given.log is None:
            raise NotThereError(f"artifact main-logs of {pod}")
        return {"data": base64.b64encode(given.log.encode()).decode()}


def _matching(held: dict[str, Any], query: dict[str, str]) -> list[Any]:
    """What fits the filter of a list call; the filter itself must be one of kfp-server-api's type.

    By `recurring_run_id` too: Kubeflow 2.17.0, backend/src/apiserver/model/run.go, runAPIToModelFieldMap.
    """
    found = list(held.values())
    for predicate in json.loads(query.get("filter", "{}")).get("predicates", ()):
        # Protobuf's JSON takes an enum by name or by number.
        if predicate["operation"] not in ("EQUALS", 1) or predicate["key"] not in ("display_name", "recurring_run_id"):
            raise ValueError(f"no such predicate: {predicate}")
        found = [one for one in found if getattr(one, predicate["key"]) == predicate["stringValue"]]
    if query.get("experiment_id"):
        found = [one for one in found if getattr(one, "experiment_id", None) == query["experiment_id"]]
    return found
