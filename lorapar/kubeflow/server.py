"""Kubeflow Pipelines' API server, by kfp's own client; the one module that imports kfp.

Address and identity come from kfp's own settings. The address is a host, KF_PIPELINES_ENDPOINT, or the cluster this
runs in. The identity is a ServiceAccount's token, if KF_PIPELINES_SA_TOKEN_PATH or the usual place has one. A bearer
token and cookies are secrets: they come from KFP_TOKEN and KFP_COOKIES, never from the command line.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lorapar.errors import BadInputError, UnreachableError
from lorapar.extras import pip_install
from lorapar.kubeflow.checks import ENDPOINT_VARIABLE
from lorapar.kubeflow.follow import NotInKubeflowError
from lorapar.kubeflow.package import OWN_PIPELINE, PIPELINE_NAME, Package
from lorapar.kubeflow.waiting import Waiting
from lorapar.network import network_cause, proxy_address, proxy_login, proxy_refusal, trust_authorities

TOKEN_VARIABLE = "KFP_TOKEN"  # noqa: S105 -- a name, not a token
COOKIES_VARIABLE = "KFP_COOKIES"
INSTALLED_IN = "kubeflow"
CONNECTING = "connecting"
"""Kubeflow's own namespace; in a pod of its cluster kfp derives the server's address from it."""
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 120.0
_PAGE = 100
_LOG_TAIL_BYTES = 64 * 1024
_LATER = (408, 425, 429)
"""Statuses with which a gateway answers that may succeed on a later try."""


@dataclass(frozen=True)
class Where:
    """Which server, and which namespace of it."""

    host: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class Start:
    """What a run starts with."""

    name: str
    experiment: str
    parameters: dict[str, Any]
    service_account: str | None = None
    pipeline_root: str | None = None
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Input for plugins of Kubeflow's server, by the plugin's name."""


class Server:
    """The calls of the API that lorapar makes; raises UnreachableError and BadInputError in one line."""

    def __init__(self, where: Where) -> None:
        try:
            import kfp
        except ModuleNotFoundError:
            raise BadInputError(f"kfp is not installed here: {pip_install('pipelines')}") from None
        nowhere = f"the cluster this runs in, as neither --host nor {ENDPOINT_VARIABLE} is set"
        self.address = address = where.host or os.environ.get(ENDPOINT_VARIABLE) or nowhere

        class Client(kfp.Client):  # type: ignore[misc]  # kfp has no types
            def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
                """Ask once: kfp asks for 25 seconds without saying why."""
                _ask_with_a_limit(self._healthz_api.api_client.rest_client, address)
                return self._healthz_api.healthz_service_get_healthz()

            def set_user_namespace(self, namespace: str) -> None:
                """Keep it for this process only: kfp writes it into the home folder, which a pod may not have."""
                self._context_setting["namespace"] = namespace

        with self._errors(CONNECTING):
            # kfp's `namespace` is Kubeflow's own; with a user's namespace, it would look for a server there.
            self._client = Client(
                host=where.host,
                namespace=INSTALLED_IN,
                existing_token=os.environ.get(TOKEN_VARIABLE),
                cookies=os.environ.get(COOKIES_VARIABLE),
                # kfp's own HTTP client reads neither the variables of certificate authorities nor those of proxies.
                ssl_ca_cert=trust_authorities(),
                proxy=proxy_address(where.host or os.environ.get(ENDPOINT_VARIABLE) or ""),
            )
        _ask_with_a_limit(self._client._run_api.api_client.rest_client, self.address)
        self._known_pipelines: set[str] | None = None
        # In a pod of a multi-user Kubeflow, kfp uses the pod's own namespace.
        self._namespace = where.namespace or self._client.get_user_namespace() or None

    def upload(self, package: Package) -> tuple[str, str, str, bool]:
        """Ids of the pipeline and of this version of it, the version's name, and whether it had to be uploaded."""
        with self._errors("looking for the pipeline"):
            pipeline = self._pipeline(package.pipeline_name)
        with TemporaryDirectory() as folder, self._errors("uploading the pipeline"):
            path = Path(folder) / "pipeline.yaml"
            path.write_text(package.text(), encoding="utf-8")
            if pipeline is None:
                pipeline = self._client.upload_pipeline(
                    str(path), pipeline_name=package.pipeline_name, namespace=self._namespace
                ).pipeline_id
            found, name = self._version(pipeline, package.version_name), package.version_name
            if found is not None and not package.is_to_be_newest:
                return pipeline, found, name, False
            if found is not None:
                name += f"-{datetime.now(UTC):%Y%m%d%H%M%S}"
            version = self._client.upload_pipeline_version(str(path), pipeline_version_name=name, pipeline_id=pipeline)
        return pipeline, version.pipeline_version_id, name, True

    def start(self, pipeline: str, version: str, start: Start) -> str:
        """Start a run; its id."""
        with self._errors("starting the run"):
            experiment = self._experiment(start.experiment)
            run = self._client._run_api.run_service_create_run(
                run=self._body("V2beta1Run", pipeline, version, start, experiment)
            )
        return str(run.run_id)

    def schedule(self, pipeline: str, version: str, start: Start, cron: str, max_concurrency: int) -> str:
        """Make a recurring run; its id. Runs that were missed are not caught up on."""
        import kfp_server_api as api

        with self._errors("making the recurring run"):
            body = self._body("V2beta1RecurringRun", pipeline, version, start, self._experiment(start.experiment))
            body.trigger = api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron))
            body.max_concurrency, body.no_catchup, body.mode = str(max_concurrency), True, api.RecurringRunMode.ENABLE
            recurring = self._client._recurring_run_api.recurring_run_service_create_recurring_run(recurring_run=body)
        return str(recurring.recurring_run_id)

    def schedules(self) -> list[Any]:
        """The recurring runs of lorapar's pipeline, newest first (V2beta1RecurringRun)."""
        with self._errors("listing recurring runs"):
            ours = self._pipelines()
            return [one for one in self._recurring_runs() if _pipeline_of(one) in ours]

    def disable_schedule(self, schedule: str) -> None:
        """Stop a recurring run from starting runs; those that it started go on."""
        with self._errors(f"disabling the recurring run {schedule}"):
            self._client.disable_recurring_run(schedule)

    def delete_schedule(self, schedule: str, *, with_runs: bool) -> None:
        """Delete a recurring run. Kubernetes deletes the Workflows that it owns, unless they are orphaned.

        Kubeflow takes `propagation_policy` from 2.16 on; an older one ignores it.
        """
        policy = {} if with_runs else {"propagation_policy": "ORPHAN"}
        with self._errors(f"deleting the recurring run {schedule}"):
            self._client._recurring_run_api.recurring_run_service_delete_recurring_run(schedule, **policy)

    def is_ours(self, run: Any) -> bool:
        """Whether a run belongs to lorapar's pipeline."""
        if self._known_pipelines is None:
            with self._errors("looking for the pipeline"):
                self._known_pipelines = self._pipelines()
        return _pipeline_of(run) in self._known_pipelines

    def runs_of(self, schedule: str) -> list[Any]:
        """The newest runs that a recurring run started."""
        predicates = [{"operation": "EQUALS", "key": "recurring_run_id", "stringValue": schedule}]
        with self._errors(f"listing the runs of the recurring run {schedule}"):
            found = self._client.list_runs(
                page_size=_PAGE,
                sort_by="created_at desc",
                namespace=self._namespace,
                filter=json.dumps({"predicates": predicates}),
            )
        return list(found.runs or [])

    def run(self, run: str) -> Any:
        """A run with its tasks (V2beta1Run)."""
        with self._errors(f"asking for run {run}"):
            return self._client.get_run(run)

    def manifest(self, run: str) -> str | None:
        """Argo's Workflow of a run as JSON; None where this Kubeflow does not return it."""
        try:
            with self._errors(f"asking for the workflow of run {run}"):
                found = self._get("/apis/v1beta1/runs/{run_id}", {"run_id": run})
        except (BadInputError, UnreachableError):
            return None
        runtime = found.get("pipeline_runtime") if isinstance(found, dict) else None
        return (runtime or {}).get("workflow_manifest") or None

    def log(self, run: str, pod: str) -> str:
        """The end of a pod's log, from the pod or from Argo's archive.

        Raises UnreachableError where Kubeflow has neither. (2.17.0, backend/src/apiserver/main.go: the first is served
        below v1alpha1 only, and answers 200 whatever happens: run_log_server.go, ReadRunLogV1. The second goes by the
        pod's name since 2.17.0; 2.16 knows Argo's node ids alone: backend/src/common/util/workflow.go,
        FindObjectStoreArtifactKeyOrEmpty.)
        """
        names = {"run_id": run, "pod": pod}
        doing = f"reading the log of {pod}"
        try:
            with self._errors(doing):
                text = _tail(self._get("/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", names, whole=False))
            problem = _problem(text)
            if problem is None:
                return text
        except (BadInputError, UnreachableError) as error:  # later releases answer with a status of their own
            problem = str(error)
        archived = "/apis/v2beta1/runs/{run_id}/nodes/{pod}/artifacts/main-logs:read"
        try:
            with self._errors(doing):
                found = self._get(archived, names)
            return base64.b64decode(found["data"])[-_LOG_TAIL_BYTES:].decode(errors="replace")
        except (BadInputError, UnreachableError, KeyError, TypeError, ValueError):
            raise UnreachableError(f"{self.address}: {doing}: {problem}") from None

    def packages(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Versions of the pipeline whose names have this prefix, newest first: the name, and what was uploaded."""
        with self._errors("listing versions of the pipeline"):
            pipeline = self._pipeline(PIPELINE_NAME)
            found = (
                self._client.list_pipeline_versions(pipeline, page_size=_PAGE, sort_by="created_at desc")
                if pipeline is not None
                else None
            )
        for version in (found.pipeline_versions if found is not None else None) or []:
            if str(version.display_name).startswith(prefix):
                yield str(version.display_name), version.pipeline_spec

    def runs(self, experiment: str | None, limit: int, name: str | None = None) -> list[Any]:
        """Runs, newest first; of one experiment (none, if it does not exist) or with one name, where given."""
        predicates = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
        with self._errors("listing runs"):
            known = self._known_experiment(experiment) if experiment else None
            if experiment and known is None:
                return []
            found = self._client.list_runs(
                page_size=min(limit, _PAGE),
                sort_by="created_at desc",
                experiment_id=known,
                namespace=self._namespace,
                filter=json.dumps(predicates) if name else None,
            )
        return list(found.runs or [])[:limit]

    def _pipelines(self) -> set[str]:
        """Ids of the pipelines that lorapar made in the namespace."""
        found = [self._pipeline(name) for name in (PIPELINE_NAME, OWN_PIPELINE)]
        return {one for one in found if one is not None}

    def _pipeline(self, name: str) -> str | None:
        """The id of a pipeline in the namespace; kfp's own get_pipeline_id finds only shared pipelines."""
        predicates = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
        found = self._client.list_pipelines(
            page_size=_PAGE, namespace=self._namespace, filter=json.dumps(predicates)
        ).pipelines
        return str(found[0].pipeline_id) if found else None

    def _body(self, kind: str, pipeline: str, version: str, start: Start, experiment: str) -> Any:
        """A run or recurring run; kfp's own methods do not take plugins."""
        import kfp_server_api as api

        return getattr(api, kind)(
            experiment_id=experiment,
            display_name=start.name,
            pipeline_version_reference=api.V2beta1PipelineVersionReference(
                pipeline_id=pipeline, pipeline_version_id=version
            ),
            runtime_config=api.V2beta1RuntimeConfig(pipeline_root=start.pipeline_root, parameters=start.parameters),
            service_account=start.service_account,
            plugins_input={name: dict(given) for name, given in start.plugins.items()} or None,
        )

    def _get(self, path: str, names: Mapping[str, str], *, whole: bool = True) -> Any:
        """A request for which kfp-server-api has no method; its answer as JSON, or left open to read."""
        return self._client._run_api.api_client.call_api(
            path,
            "GET",
            dict(names),
            [],
            {"Accept": "application/json"},
            response_type="object" if whole else None,
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            _preload_content=whole,
        )

    def _experiment(self, name: str) -> str:
        return str(self._client.create_experiment(name, namespace=self._namespace).experiment_id)

    def _known_experiment(self, name: str) -> str | None:
        """Like `_experiment`, but creates nothing; None where there is no experiment of that name."""
        try:
            return str(self._client.get_experiment(experiment_name=name, namespace=self._namespace).experiment_id)
        except ValueError:
            return None

    def _recurring_runs(self) -> Iterator[Any]:
        token = ""
        while True:
            page = self._client.list_recurring_runs(
                page_token=token, page_size=_PAGE, sort_by="created_at desc", namespace=self._namespace
            )
            yield from page.recurring_runs or []
            token = page.next_page_token
            if not token:
                return

    def _version(self, pipeline: str, name: str) -> str | None:
        predicates = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
        found = self._client.list_pipeline_versions(pipeline, page_size=_PAGE, filter=json.dumps(predicates))
        for version in found.pipeline_versions or []:
            if version.display_name == name:
                return str(version.pipeline_version_id)
        return None

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Silence kfp's links and warnings; a failure becomes one line."""
        import urllib3
        from kfp_server_api.exceptions import ApiException

        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except ApiException as error:
            if error.status == 404 and doing == CONNECTING:
                raise UnreachableError(
                    f"{self.address}: answered 404 to the first request, so this is not the API of Kubeflow Pipelines "
                    "2; check --host (behind Kubeflow's dashboard it ends with /pipeline)"
                ) from None
            raise _refused(self.address, doing, error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            cause = network_cause(error, self.address) or f"Kubeflow did not answer ({_in_words(error)}); check --host"
            raise UnreachableError(f"{self.address}: {doing}: {cause}") from None


def _in_words(error: Exception) -> str:
    """The cause of a request without an answer; urllib3 wraps it in the error of its last try."""
    from urllib3 import exceptions

    reason = getattr(error, "reason", None) or error
    if "refused" in str(reason).lower():  # before its kind: urllib3 1 counts it among the time-outs
        return "connection refused"
    if isinstance(reason, exceptions.NameResolutionError):
        return "its name is not known here"
    return "no answer in time" if isinstance(reason, exceptions.TimeoutError) else type(reason).__name__


def _ask_with_a_limit(rest: Any, address: str) -> None:
    """Limit the time of every request, and refuse a web page as an answer.

    kfp sets no time limit, and a network that drops packets never answers. A login page or Kubeflow's dashboard comes
    with status 200, and kfp reads it as an empty list. Nor does kfp send credentials to a proxy.
    """
    if "request" in vars(rest):
        return
    if (proxy := proxy_login(address)) and hasattr(rest.pool_manager, "proxy_headers"):
        rest.pool_manager.proxy_headers["proxy-authorization"] = proxy  # the pools of all hosts share them
    asked = rest.request
    rest.pool_manager.connection_pool_kw["retries"] = _tries()

    def request(*given: Any, **options: Any) -> Any:
        limit = options.pop("_request_timeout", None) or (CONNECT_SECONDS, ANSWER_SECONDS)
        with Waiting(address, ANSWER_SECONDS):
            answer = asked(*given, **options, _request_timeout=limit)
        headers = answer.getheaders() if hasattr(answer, "getheaders") else answer.headers
        if str(headers.get("Content-Type", "")).startswith("text/html"):
            raise UnreachableError(
                f"{address}: answered with a web page, so this is not Kubeflow's API: a login page (set "
                f"{TOKEN_VARIABLE} or {COOKIES_VARIABLE}) or the dashboard (its API is below /pipeline); check --host"
            )
        return answer

    rest.request = request


def _tries() -> Any:
    """urllib3's three further tries, but none after a full time-out: that would take 8 minutes."""
    import urllib3

    class Tries(urllib3.Retry):
        def increment(self, *given: Any, **more: Any) -> Any:
            if isinstance(more.get("error"), urllib3.exceptions.ReadTimeoutError):
                raise more["error"]
            return super().increment(*given, **more)

    return Tries(3)


def _tail(answer: Any) -> str:
    """The end of an open answer; a log may be long."""
    kept = b""
    for part in answer.stream(_LOG_TAIL_BYTES):
        kept = (kept + part)[-_LOG_TAIL_BYTES:]
    answer.release_conn()
    return kept.decode(errors="replace")


def _problem(text: str) -> str | None:
    """The error that Kubeflow returns in place of a log; None where the text is a log."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return str(value["error_message"]) if isinstance(value, dict) and "error_message" in value else None


def _pipeline_of(recurring: Any) -> str | None:
    reference = recurring.pipeline_version_reference
    return reference.pipeline_id if reference is not None else None


def _refused(address: str, doing: str, error: Any) -> UnreachableError | BadInputError:
    """The error for a status: 401 and 403 mean credentials, other 4xx the request, the rest the server."""
    try:
        body = json.loads(error.body or "{}")
        message = str(body.get("message") or body.get("error_message") or "")[:300]
    except (json.JSONDecodeError, AttributeError):
        message = ""
    message = " ".join(message.split()) or str(error.reason)
    if proxy := proxy_refusal(error.status, address):
        return UnreachableError(f"{address}: {doing}: {proxy}")
    if error.status in (401, 403):
        return UnreachableError(
            f"{address}: {doing}: refused ({error.status} {message}); set {TOKEN_VARIABLE} or {COOKIES_VARIABLE}, "
            "or check --namespace and the rights there"
        )
    if error.status is not None and 400 <= error.status < 500 and error.status not in _LATER:
        kind = NotInKubeflowError if error.status == 404 else BadInputError
        return kind(f"{address}: {doing}: Kubeflow says {error.status}: {message}")
    return UnreachableError(f"{address}: {doing}: Kubeflow failed ({error.status} {message}); try again later")
