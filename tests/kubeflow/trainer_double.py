"""Kubernetes' API with Kubeflow Trainer 2 behind it, as far as a task asks: pods run as processes of this machine.

Written from kubeflow/trainer 2.3.0 (pkg/webhooks, pkg/runtime/framework/plugins/{torch,jobset}, the CRD's own schema in
trainjob_crd.json) and JobSet: what is refused, the variables each node gets, the conditions, and what becomes of pods.
Nodes meet at 127.0.0.1, where a cluster has the job's headless service.
"""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from jsonschema import Draft202012Validator

from tests.kubeflow.own_pod import NAMESPACE, OWN_POD

CRD = json.loads((Path(__file__).parent / "trainjob_crd.json").read_text(encoding="utf-8"))
_JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_GRACE_SECONDS = 60
_DENIED = 'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: '


def closed(schema: Any) -> Any:
    """The schema with fields that it does not name refused, where Kubernetes would drop them without a word."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema and "additionalProperties" not in schema:
        found["additionalProperties"] = False
    return found


VALIDATOR = Draft202012Validator(closed(CRD["schema"]))


@dataclass
class Pod:
    """A pod of a job, and the process that stands for it once it has been placed."""

    name: str
    rank: int
    job: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    lines: list[tuple[str, str]] = field(default_factory=list)
    waits_for: str = ""
    leaving: bool = False

    @property
    def exit_code(self) -> int | None:
        """As a container's: 128 and the signal's number where one ended it."""
        code = self.process.poll() if self.process is not None else None
        return 128 - code if code is not None and code < 0 else code


@dataclass
class TrainerDouble:
    """The server, what it was asked to make, and how its cluster is."""

    root: Path
    own_pod: dict[str, Any]
    secrets: Mapping[tuple[str, str], str] = field(default_factory=dict)
    runtimes: tuple[str, ...] = ("torch-distributed",)
    waits_for: str = ""
    """Why no pod can be placed; empty where all can."""
    restarts: bool = True
    """Whether a container that failed is to be started again, as the runtime that is shipped has it."""
    may: bool = True
    """Whether the ServiceAccount may start TrainJobs."""
    installed: bool = True
    """Whether the cluster has Kubeflow Trainer."""
    drops: tuple[str, ...] = ()
    """Fields of a TrainJob's spec that the definition in the cluster does not have, as `runtimePatches` before 2.2."""
    is_strict: bool = True
    """Whether the API server knows fieldValidation (from 1.27 on); another one drops such fields whatever is said."""
    failing: int = 0
    """How many of the next requests the API server does not manage."""
    run: Callable[[int], list[str]] | None = None
    """What each node runs instead of its own command."""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, list[Pod]] = field(default_factory=dict)
    made_at: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __enter__(self) -> TrainerDouble:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.double = self
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for pods in list(self.pods.values()):
            for pod in pods:
                if pod.process is not None and pod.process.poll() is None:
                    pod.process.kill()
                    pod.process.wait()
        self._server.shutdown()
        self._server.server_close()

    @property
    def kubeconfig(self) -> Path:
        """A file that leads clients here."""
        path, named = self.root / "kubeconfig.yaml", {"name": "double"}
        server = f"http://127.0.0.1:{self._server.server_address[1]}"
        context = {"cluster": "double", "user": "double", "namespace": NAMESPACE}
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "double",
            "clusters": [{**named, "cluster": {"server": server}}],
            "users": [{**named, "user": {"token": "t0ken"}}],
            "contexts": [{**named, "context": context}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    def environment(self) -> dict[str, str]:
        """What a task in `own_pod` sees, and how its client comes here."""
        (main,) = [one for one in self.own_pod["spec"]["containers"] if one["name"] == "main"]
        found = {"KUBECONFIG": str(self.kubeconfig), "KFP_POD_NAME": OWN_POD}
        return {**found, **resolved(main["env"], self.own_pod["metadata"], self.secrets)}

    # What the API does.

    def create(self, job: dict[str, Any], *, validation: str = "Warn") -> tuple[int, dict[str, Any]]:
        """A new TrainJob, checked as the API server and Trainer's webhooks check it.

        Unknown fields: kubernetes 1.34, apiextensions-apiserver/pkg/apiserver/customresource_handler.go (schemaCoercing
        decoder) and apiserver/pkg/endpoints/handlers/create.go (transformDecodeError).
        """
        with self._lock:
            name = job["metadata"]["name"]
            unknown = [key for key in self.drops if key in job["spec"]]
            if unknown and validation == "Strict" and self.is_strict:
                answer = f'strict decoding error: unknown field "spec.{unknown[0]}"'
                kind = 'TrainJob in version "v1alpha1" cannot be handled as a TrainJob'
                return _refused(400, "BadRequest", f"{kind}: {answer}")
            job["spec"] = {key: value for key, value in job["spec"].items() if key not in unknown}
            if not self.may:
                who = f'User "system:serviceaccount:{NAMESPACE}:default" cannot create resource "trainjobs"'
                return _refused(403, "Forbidden", f"trainjobs.trainer.kubeflow.org is forbidden: {who}")
            if name in self.jobs:
                return _refused(409, "AlreadyExists", f'trainjobs.trainer.kubeflow.org "{name}" already exists')
            problems = [f"{'.'.join(map(str, one.path))}: {one.message}" for one in VALIDATOR.iter_errors(job)]
            if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(f"{name}-node-0-00-xxxxx") > 63:
                problems.append(f"metadata.name: {name}")
            if problems:
                return _refused(422, "Invalid", f'TrainJob "{name}" is invalid: {"; ".join(problems)}')
            if job["spec"]["runtimeRef"]["name"] not in self.runtimes:
                answer = "specified clusterTrainingRuntime must be created before the TrainJob is created"
                return _refused(403, "Forbidden", f"{_DENIED}spec.runtimeRef: Invalid value: {answer}")
            if any(one["name"].startswith("PET_") for one in job["spec"]["trainer"]["env"]):
                return _refused(403, "Forbidden", f"{_DENIED}spec.trainer.env: must not have reserved envs")
            made = copy.deepcopy(job)
            made["metadata"] |= {"namespace": NAMESPACE, "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
            self.jobs[name], self.made_at[name] = made, time.monotonic()
            self.pods[name] = [
                Pod(f"{name}-node-0-{rank}-{uuid.uuid4().hex[:5]}", rank, made, waits_for=self.waits_for)
                for rank in range(made["spec"]["trainer"]["numNodes"])
            ]
            # Without patches a node has no volume and no label that its variables name: its container cannot start.
            if not self.waits_for and not made["spec"].get("suspend") and "runtimePatches" in made["spec"]:
                self._place(self.pods[name])
            return 201, made

    def get(self, name: str) -> tuple[int, dict[str, Any]]:
        """A TrainJob as it is now."""
        with self._lock:
            if name not in self.jobs:
                return _refused(404, "NotFound", f'trainjobs.trainer.kubeflow.org "{name}" not found')
            job, pods = self.jobs[name], self.pods[name]
            codes = [pod.exit_code for pod in pods]
            if codes and all(code == 0 for code in codes):
                _condition(job, "Complete", "AllJobsCompleted", "jobset completed successfully")
            elif not self.restarts and any(codes):
                _condition(job, "Failed", "FailedJobs", "jobset failed due to one or more job failures")
                self._stop(pods)
            elif (limit := job["spec"].get("activeDeadlineSeconds")) and time.monotonic() - self.made_at[name] > limit:
                _condition(job, "Failed", "DeadlineExceeded", "TrainJob exceeded its active deadline")
                self._stop(pods)
            return 200, job

    def delete(self, name: str) -> tuple[int, dict[str, Any]]:
        """End a job: it is there until its pods have gone, as propagationPolicy Foreground has it."""
        with self._lock:
            status, job = self.get(name)
            if status != 200:
                return status, job
            if "deletionTimestamp" not in job["metadata"]:
                job["metadata"]["deletionTimestamp"] = _now()
                self._stop(self.pods[name])
                threading.Thread(target=self._remove, args=(name,), daemon=True).start()
            return 200, job

    def suspend(self, name: str) -> None:
        """As Kueue does with a job that it has not admitted."""
        with self._lock:
            _condition(self.jobs[name], "Suspended", "Suspended", "TrainJob is suspended")
            self.pods[name] = []

    def listed(self, selector: str) -> tuple[int, dict[str, Any]]:
        """The pods of a job."""
        name = selector.partition("=")[2]
        with self._lock:
            return 200, {"kind": "PodList", "items": [self._pod(pod) for pod in self.pods.get(name, [])]}

    def _remove(self, name: str) -> None:
        until = time.monotonic() + _GRACE_SECONDS
        while any(pod.process and pod.process.poll() is None for pod in self.pods[name]):
            if time.monotonic() > until:
                for pod in self.pods[name]:
                    if pod.process is not None:
                        pod.process.kill()
            time.sleep(0.05)
        with self._lock:
            del self.jobs[name], self.pods[name]

    def _stop(self, pods: list[Pod]) -> None:
        for pod in pods:
            if pod.process is not None and pod.process.poll() is None:
                pod.leaving = True
                pod.process.send_signal(signal.SIGTERM)

    def _pod(self, pod: Pod) -> dict[str, Any]:
        labels = {
            **_template(pod.job)["metadata"]["labels"],
            "jobset.sigs.k8s.io/jobset-name": pod.job["metadata"]["name"],
            "batch.kubernetes.io/job-completion-index": str(pod.rank),
        }
        metadata = {"name": pod.name, "labels": labels, **({"deletionTimestamp": _now()} if pod.leaving else {})}
        code = pod.exit_code
        ended = {"terminated": {"exitCode": code, "reason": "OOMKilled" if code == 137 else "Error"}}
        status: dict[str, Any] = {"phase": "Running"}
        container: dict[str, Any] = {"name": "node", "state": {"running": {}}, "lastState": {}}
        if pod.process is None:
            unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": pod.waits_for}
            return {"metadata": metadata, "status": {"phase": "Pending", "conditions": [unplaced]}}
        if code == 0:
            status["phase"], container["state"] = "Succeeded", {"terminated": {"exitCode": 0, "reason": "Completed"}}
        elif code is not None and self.restarts:
            container |= {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}
        elif code is not None:
            status["phase"], container["state"] = "Failed", ended
        return {"metadata": metadata, "status": {**status, "containerStatuses": [container]}}

    def _place(self, pods: list[Pod]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for pod in pods:
            trainer = pod.job["spec"]["trainer"]
            env = {
                **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
                "HOME": str(self.root / f"home-{pod.rank}"), "LORAPAR_SCRATCH": str(self.root / f"node-{pod.rank}"),
                **resolved(trainer["env"], _template(pod.job)["metadata"], self.secrets),
                "PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(pod.rank), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port),
            }  # fmt: skip
            given = [one.replace("$$(", "$(") for one in [*trainer["command"], *trainer["args"]]]
            command = [sys.executable, "-m", *given] if self.run is None else self.run(pod.rank)
            pod.process = subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.root
            )
            threading.Thread(target=_pump, args=(pod,), daemon=True).start()


def resolved(
    env: list[dict[str, Any]], metadata: Mapping[str, Any], secrets: Mapping[tuple[str, str], str]
) -> dict[str, str]:
    """A container's variables, as the kubelet makes them."""
    found = {}
    for one in env:
        source = one.get("valueFrom", {})
        if "fieldRef" in source:
            label = re.fullmatch(r"metadata\.labels\['(.+)'\]", source["fieldRef"]["fieldPath"])
            found[one["name"]] = metadata["labels"][label[1]] if label else metadata["name"]
        elif "secretKeyRef" in source:
            found[one["name"]] = secrets[source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]]
        else:
            found[one["name"]] = one.get("value", "")
    return found


def _template(job: Mapping[str, Any]) -> dict[str, Any]:
    """What a TrainJob puts on top of its runtime's pods."""
    if "runtimePatches" not in job["spec"]:
        return {"metadata": {"labels": {}}}
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]["template"]


def _pump(pod: Pod) -> None:
    for line in pod.process.stdout:
        pod.lines.append((_now(), line.decode(errors="replace").rstrip("\n")))


def _condition(job: dict[str, Any], kind: str, reason: str, message: str) -> None:
    conditions = job.setdefault("status", {}).setdefault("conditions", [])
    if all(one["type"] != kind for one in conditions):
        reported = {"type": kind, "status": "True", "reason": reason, "message": message}
        conditions.append({**reported, "lastTransitionTime": _now()})


def _refused(status: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": status}


def _now() -> str:
    seconds, rest = divmod(time.time_ns(), 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


class _Server(ThreadingHTTPServer):
    double: TrainerDouble


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def answer(self) -> None:
        double, url = self.server.double, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        double.asked.append(f"{self.command} {self.path}")
        name, query = url.path.rpartition("/")[2], parse_qs(url.query)
        if double.failing > 0:
            double.failing -= 1
            return self.respond(*_refused(503, "ServiceUnavailable", "etcdserver: leader changed"))
        if url.path.startswith(_JOBS) and not double.installed:
            self.send_response(404)
            self.send_header("Content-Length", "19")
            self.end_headers()
            self.wfile.write(b"404 page not found\n")
            return None
        if url.path == _JOBS and self.command == "POST":
            return self.respond(*double.create(json.loads(body), validation=query.get("fieldValidation", ["Warn"])[0]))
        if url.path.startswith(f"{_JOBS}/"):
            return self.respond(*(double.delete(name) if self.command == "DELETE" else double.get(name)))
        if url.path == _PODS:
            return self.respond(*double.listed(query["labelSelector"][0]))
        if url.path.startswith(f"{_PODS}/") and name == "log":
            return self.follow(url.path.split("/")[-2])
        if url.path == f"{_PODS}/{OWN_POD}":
            return self.respond(200, double.own_pod)
        return self.respond(*_refused(404, "NotFound", f"{url.path} not found"))

    def respond(self, status: int, document: Mapping[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def follow(self, name: str) -> None:
        """The lines of a pod's log with their moments, until its container ends."""
        (pod,) = [one for pods in self.server.double.pods.values() for one in pods if one.name == name]
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        reported, ended = 0, False
        while not ended or reported < len(pod.lines):
            ended = pod.exit_code is not None
            for moment, line in pod.lines[reported:]:
                data = f"{moment} {line}\n".encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                reported += 1
            time.sleep(0.02)
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_DELETE = answer
