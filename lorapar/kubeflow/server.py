"""Kubeflow Pipelines' API server, by kfp's own client; the one module that imports kfp.

Where it is and who we are come from kfp's own settings: a host or KF_PIPELINES_ENDPOINT, else the cluster we are in;
a ServiceAccount's token where KF_PIPELINES_SA_TOKEN_PATH or the usual place has one. A bearer token or cookies, which
are secrets, come from KFP_TOKEN and KFP_COOKIES and never from the command line.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lorapar.errors import BadInputError, UnreachableError
from lorapar.kubeflow.checks import ENDPOINT_VARIABLE
from lorapar.kubeflow.package import PIPELINE_NAME, Package

TOKEN_VARIABLE = "KFP_TOKEN"  # noqa: S105 -- a name, not a token
COOKIES_VARIABLE = "KFP_COOKIES"
_PAGE = 100


@dataclass(frozen=True)
class Where:
    """Which server, and which namespace of it."""

    host: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class Start:
    """What a run is started with."""

    name: str
    experiment: str
    parameters: dict[str, Any]
    service_account: str | None = None
    pipeline_root: str | None = None


class Server:
    """The calls of the API that lorapar makes; raises UnreachableError and BadInputError in one line."""

    def __init__(self, where: Where) -> None:
        try:
            import kfp
        except ModuleNotFoundError:
            raise BadInputError("kfp is not installed here: pip install 'lorapar[pipelines]'") from None
        self._namespace = where.namespace
        self.address = where.host or os.environ.get(ENDPOINT_VARIABLE) or "the cluster this runs in"

        class Client(kfp.Client):  # type: ignore[misc]  # kfp has no types
            def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
                """Ask once: kfp asks for 25 seconds and says nothing of why."""
                return self._healthz_api.healthz_service_get_healthz()

        with self._errors("connecting"):
            self._client = Client(
                host=where.host,
                namespace=where.namespace or "kubeflow",
                existing_token=os.environ.get(TOKEN_VARIABLE),
                cookies=os.environ.get(COOKIES_VARIABLE),
            )

    def upload(self, package: Package) -> tuple[str, str, bool]:
        """Ids of the pipeline and of this version of it, and whether it had to be uploaded."""
        with self._errors("looking for the pipeline"):
            pipeline = self._client.get_pipeline_id(PIPELINE_NAME)
        with TemporaryDirectory() as folder, self._errors("uploading the pipeline"):
            path = Path(folder) / "pipeline.yaml"
            path.write_text(package.text(), encoding="utf-8")
            if pipeline is None:
                pipeline = self._client.upload_pipeline(
                    str(path), pipeline_name=PIPELINE_NAME, namespace=self._namespace
                ).pipeline_id
            found = self._version(pipeline, package.version_name)
            if found is not None:
                return pipeline, found, False
            version = self._client.upload_pipeline_version(
                str(path), pipeline_version_name=package.version_name, pipeline_id=pipeline
            )
        return pipeline, version.pipeline_version_id, True

    def start(self, pipeline: str, version: str, start: Start) -> str:
        """Start a run; its id."""
        with self._errors("starting the run"):
            experiment = self._experiment(start.experiment)
            run = self._client.run_pipeline(
                experiment_id=experiment,
                job_name=start.name,
                params=start.parameters,
                pipeline_id=pipeline,
                version_id=version,
                pipeline_root=start.pipeline_root,
                service_account=start.service_account,
            )
        return str(run.run_id)

    def schedule(self, pipeline: str, version: str, start: Start, cron: str, max_concurrency: int) -> str:
        """Make a recurring run; its id. Runs that were missed are not caught up on."""
        with self._errors("making the recurring run"):
            recurring = self._client.create_recurring_run(
                experiment_id=self._experiment(start.experiment),
                job_name=start.name,
                cron_expression=cron,
                max_concurrency=max_concurrency,
                no_catchup=True,
                params=start.parameters,
                pipeline_id=pipeline,
                version_id=version,
                pipeline_root=start.pipeline_root,
                service_account=start.service_account,
            )
        return str(recurring.recurring_run_id)

    def schedules(self) -> list[Any]:
        """The recurring runs of our pipeline, the newest first (V2beta1RecurringRun)."""
        with self._errors("listing recurring runs"):
            pipeline = self._client.get_pipeline_id(PIPELINE_NAME)
            return [one for one in self._recurring_runs() if pipeline is not None and _pipeline_of(one) == pipeline]

    def delete_schedule(self, schedule: str) -> None:
        """Delete a recurring run; runs it has started go on."""
        with self._errors(f"deleting the recurring run {schedule}"):
            self._client.delete_recurring_run(schedule)

    def run(self, run: str) -> Any:
        """A run with its tasks (V2beta1Run)."""
        with self._errors(f"asking for run {run}"):
            return self._client.get_run(run)

    def runs(self, experiment: str | None, limit: int, name: str | None = None) -> list[Any]:
        """The newest runs first; those of one experiment (none, if it is not there) or with one name, where given."""
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

    def _experiment(self, name: str) -> str:
        return str(self._client.create_experiment(name, namespace=self._namespace).experiment_id)

    def _known_experiment(self, name: str) -> str | None:
        """As `_experiment`, but looking at what is there makes nothing new; None where there is none of that name."""
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
        """kfp prints links and warns of plans of its own; what fails becomes one line."""
        import urllib3
        from kfp_server_api.exceptions import ApiException

        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except ApiException as error:
            raise _refused(self.address, doing, error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnreachableError(
                f"{self.address}: {doing}: Kubeflow did not answer ({type(error).__name__}); check --host"
            ) from None


def _pipeline_of(recurring: Any) -> str | None:
    reference = recurring.pipeline_version_reference
    return reference.pipeline_id if reference is not None else None


def _refused(address: str, doing: str, error: Any) -> UnreachableError | BadInputError:
    """401 and 403 are about credentials, other 4xx about what was asked, the rest about the server."""
    try:
        said = str(json.loads(error.body or "{}").get("message", ""))[:300]
    except (json.JSONDecodeError, AttributeError):
        said = ""
    said = " ".join(said.split()) or str(error.reason)
    if error.status in (401, 403):
        return UnreachableError(
            f"{address}: {doing}: refused ({error.status} {said}); set {TOKEN_VARIABLE} or {COOKIES_VARIABLE}, "
            "or check --namespace and the rights there"
        )
    if error.status is not None and 400 <= error.status < 500:
        return BadInputError(f"{address}: {doing}: Kubeflow says {error.status}: {said}")
    return UnreachableError(f"{address}: {doing}: Kubeflow failed ({error.status} {said}); try again later")
