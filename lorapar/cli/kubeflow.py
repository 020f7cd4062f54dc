"""`lorapar compile`, `submit`, `runs` and `schedule`: the pipeline in Kubeflow.

`submit` and `schedule` repeat the options they share: typer reads a command's options from its own signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorapar.cli.base import AsJson, ConfigFile, Overrides, Preset, app, err, out, settings_of, show_document
from lorapar.errors import BadInputError, ExitCode, UnreachableError, stopped

if TYPE_CHECKING:
    from lorapar.config import RunConfig
    from lorapar.kubeflow.package import Package, PlannedTask
    from lorapar.kubeflow.server import Server, Start
    from lorapar.study.remote import Cluster

Images = Annotated[
    list[str] | None, typer.Option("--image", help="client=, trainer= or vllm=REFERENCE, best with @sha256:DIGEST.")
]
Registry = Annotated[str | None, typer.Option(help="First part of the images' names; default: lorapar.")]
PlacementFile = Annotated[
    Path | None, typer.Option("--placement", help="YAML file: accelerators, nodes, queues, volumes, retries.")
]
RequireDigests = Annotated[bool, typer.Option("--require-digests", help="Refuse images named by a tag.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Run every task again, whatever Kubeflow remembers.")]
Host = Annotated[str | None, typer.Option(help="Address of Kubeflow Pipelines; default: KF_PIPELINES_ENDPOINT.")]
StudyHost = Annotated[
    str | None, typer.Option("--host", help="Address of Kubeflow Pipelines: there instead of on this machine.")
]
Namespace = Annotated[str | None, typer.Option(help="Namespace of a multi-user Kubeflow.")]
Experiment = Annotated[str, typer.Option(help="Experiment that runs are listed under.")]
ServiceAccount = Annotated[str | None, typer.Option(help="Kubernetes ServiceAccount of the run's pods.")]
PipelineRoot = Annotated[str | None, typer.Option(help="Where Kubeflow keeps its own artifacts.")]
Parameters = Annotated[list[str] | None, typer.Option("--param", help="NAME=VALUE of a pipeline parameter.")]
RunStore = Annotated[str | None, typer.Option("--store", help="s3://BUCKET/PREFIX for data and results of the run.")]
_WITHOUT_US = (
    "the run goes on in Kubeflow (`lorapar runs` shows its state); the same command starts another one, with "
    "--if-changed none while it goes on"
)
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugins", help="PLUGIN.KEY=VALUE for a plugin of Kubeflow, such as mlflow.experiment_name=NAME."),
]
RunName = Annotated[str | None, typer.Option("--name", help="Name of the run; default: that of the settings.")]


@app.command("compile")
def compile_command(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; absent: to the terminal.")
    ] = None,
    images: Images = None,
    registry: Registry = None,
    placement: PlacementFile = None,
    require_digests: RequireDigests = False,
    no_cache: NoCache = False,
    manifest: Annotated[bool, typer.Option("--manifest", help="Write Kubernetes resources, for GitOps.")] = False,
    namespace: Namespace = None,
) -> None:
    """Write the pipeline package with your images and placement in it.

    Example: `lorapar compile --registry REGISTRY/lorapar --placement placement.yaml -o pipeline.yaml`
    """
    from lorapar.kubeflow.checks import check_namespace

    if namespace is not None:
        check_namespace(namespace)
        if not manifest:
            raise BadInputError("--namespace is written into Kubernetes resources only; give --manifest too")
    from lorapar.cli.packages import Wanted, warn_of_tags

    package = Wanted(images or (), registry, placement, require_digests, no_cache).package()
    warn_of_tags(package)
    text = package.manifest_text(namespace) if manifest else package.text()
    if output is None:
        typer.echo(text, nl=False)
        return
    from lorapar.store import write_named_file

    write_named_file(output, text)
    out.print(f"{output}: version {package.version_name}", markup=False, highlight=False, soft_wrap=True)


@app.command("submit")
def submit_command(  # noqa: PLR0913  -- an argument is an option of the command
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    parameters: Parameters = None,
    store: RunStore = None,
    name: RunName = None,
    images: Images = None,
    registry: Registry = None,
    placement: PlacementFile = None,
    require_digests: RequireDigests = False,
    no_cache: NoCache = False,
    host: Host = None,
    namespace: Namespace = None,
    experiment: Experiment = "lorapar",
    service_account: ServiceAccount = None,
    pipeline_root: PipelineRoot = None,
    plugins: Plugins = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run; its end decides the exit code.")] = False,
    resubmit: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="With --wait: start a failed run again, at most so many times; default: a stopped one, twice.",
        ),
    ] = None,
    if_changed: Annotated[
        bool, typer.Option("--if-changed", help="Start nothing if an equal run has succeeded or is still running.")
    ] = False,
) -> None:
    """Start the pipeline in Kubeflow; finished tasks of earlier runs are reused where nothing they read has changed.

    Example: `lorapar submit --config mine.yaml --store s3://BUCKET/PREFIX --wait`
    """
    _check_resubmit(resubmit, wait=wait)
    settings = settings_of(preset, config, overrides)
    from lorapar.cli.packages import Wanted
    from lorapar.kubeflow.checks import check_server, check_service_account, plugins_input
    from lorapar.kubeflow.parameters import pipeline_parameters
    from lorapar.kubeflow.placement import mounts_of, plugins_of

    check_server(host, namespace)
    check_service_account(service_account)
    values = pipeline_parameters(settings, parameters or [], store or settings.store.address, mounts_of(placement))
    given = plugins_input(plugins or [], plugins_of(placement))
    wanted = Wanted(images or (), registry, placement, require_digests, no_cache)
    wanted.check(values)
    server = server_at(host, namespace)
    package = wanted.package_for(server, "run")
    mark = _mark(package, values, settings) if if_changed else ""
    start = _start(f"{name or settings.name}{mark}", experiment, values, service_account, pipeline_root, given)
    if if_changed and _goes_on(server, start):
        return
    version = _uploaded(server, package)
    start = _with_settings_in_the_store(start)
    if wait:
        _start_and_wait(server, version, start, package.tasks(), again=resubmit)
    else:
        _start_line(server, version, start)


@app.command("runs")
def runs_command(
    host: Host = None,
    namespace: Namespace = None,
    experiment: Annotated[str | None, typer.Option(help="Only runs of this experiment.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs in Kubeflow.

    Examples: `lorapar runs --host http://HOST:8888`, `lorapar runs --experiment lorapar --limit 5`
    """
    server, listed, written = server_at(host, namespace), [], []
    for run, state, summary in seen_runs(server, server.runs(experiment, limit)):
        listed.append((run, state))
        if summary:
            written.append((state, summary))
    if as_json:
        from lorapar.cli.documents import Runs
        from lorapar.cli.fill_documents import run_document

        documents = [run_document(run, state) for run, state in listed]
        show_document(Runs(runs=documents, summaries=[address for _, address in written]))
        return
    from rich.table import Table

    table = Table("run", "name", "state", "started", box=None, header_style="bold")
    for run, state in listed:
        started = run.created_at.strftime("%Y-%m-%d %H:%M") if run.created_at else ""
        table.add_row(str(run.run_id), str(run.display_name), state, started)
    if table.row_count:
        out.print(table)
        for state, address in written:
            show_summary(state, address)
    else:
        out.print("no runs" + (f" in an experiment called '{experiment}'" if experiment else ""), markup=False)


@app.command("schedule")
def schedule_command(  # noqa: PLR0913  -- an argument is an option of the command
    cron: Annotated[str, typer.Argument(help="When, in six fields beginning with seconds: '0 0 3 * * *'.")],
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    parameters: Parameters = None,
    store: RunStore = None,
    name: RunName = None,
    images: Images = None,
    registry: Registry = None,
    placement: PlacementFile = None,
    require_digests: RequireDigests = False,
    host: Host = None,
    namespace: Namespace = None,
    experiment: Experiment = "lorapar",
    service_account: ServiceAccount = None,
    plugins: Plugins = None,
    max_concurrency: Annotated[int, typer.Option(min=1, max=10, help="Runs of this schedule at once.")] = 1,
) -> None:
    """Start the pipeline again and again; a run with nothing changed reuses every task that may be reused.

    Example: `lorapar schedule '0 0 3 * * *' --config mine.yaml --store s3://BUCKET/PREFIX`
    """
    from lorapar.cli.packages import Wanted
    from lorapar.kubeflow.checks import check_cron, check_server, check_service_account, plugins_input
    from lorapar.kubeflow.parameters import pipeline_parameters
    from lorapar.kubeflow.placement import mounts_of, plugins_of

    check_cron(cron)
    check_server(host, namespace)
    check_service_account(service_account)
    settings = settings_of(preset, config, overrides)
    values = pipeline_parameters(settings, parameters or [], store or settings.store.address, mounts_of(placement))
    given = plugins_input(plugins or [], plugins_of(placement))
    wanted = Wanted(images or (), registry, placement, require_digests)
    wanted.check(values)
    from lorapar.kubeflow.server import Start

    server = server_at(host, namespace)
    _refuse_second(server, name or settings.name)
    pipeline, version, *_ = server.upload(wanted.package_for(server, "schedule"))
    start = _with_settings_in_the_store(
        Start(name or settings.name, experiment, values, service_account, plugins=given)
    )
    recurring = server.schedule(pipeline, version, start, cron, max_concurrency)
    out.print(f"recurring run {recurring}: {cron}", markup=False, highlight=False)


def _refuse_second(server: Server, name: str) -> None:
    """Kubeflow takes two recurring runs of one name, which would train twice."""
    there = [str(one.recurring_run_id) for one in server.schedules() if str(one.display_name) == name]
    if there:
        raise BadInputError(
            f"--name {name}: there is a recurring run of this name, {', '.join(there)}; `lorapar schedules delete` "
            "removes it, or give another name"
        )


def server_at(host: str | None, namespace: str | None) -> Server:
    """The API server that options or kfp's own settings name; raises UnreachableError."""
    from lorapar.kubeflow.checks import check_server
    from lorapar.kubeflow.server import Server, Where

    check_server(host, namespace)
    return Server(Where(host, namespace))


def cluster_of(
    study: str,
    host: str | None,
    namespace: str | None,
    placement: Path | None,
    images: list[str] | None,
    service_account: str | None,
    *,
    scores: bool = False,
) -> Cluster | None:
    """Where the cells of a study run, its pipeline uploaded; None without --host, which the others need.

    `scores`: copy each run's scores too.
    """
    given = {
        "--namespace": namespace,
        "--placement": placement,
        "--image": images,
        "--service-account": service_account,
    }
    if host is None:
        for option, value in given.items():
            if value:
                raise BadInputError(f"{option} needs --host: it says how cells run in Kubeflow")
        return None
    from lorapar.cli.packages import Wanted
    from lorapar.kubeflow.checks import check_service_account
    from lorapar.kubeflow.placement import mounts_of, plugins_of
    from lorapar.study.remote import READ, SCORES, Cluster

    check_service_account(service_account)
    wanted = Wanted(images or (), None, placement)
    wanted.check()
    server = server_at(host, namespace)
    package = wanted.package_for(server, "study")
    return Cluster(
        server=partial(server_at, host, namespace),
        version=_uploaded(server, package),
        tasks=package.tasks(),
        start=_start(study, f"lorapar-study-{study}", {}, service_account, None, plugins_of(placement)),
        mounts=mounts_of(placement),
        files={**READ, **SCORES} if scores else READ,
        asked=package.asked,
    )


def _check_resubmit(resubmit: int | None, *, wait: bool) -> None:
    if resubmit is not None and not wait:
        raise BadInputError("--resubmit needs --wait: without following a run nobody knows that it failed")


def _uploaded(server: Server, package: Package) -> tuple[str, str]:
    """Ids of the pipeline and of its version, which is uploaded where it is not there; says so."""
    pipeline, version, name, uploaded = server.upload(package)
    where = f"pipeline {package.pipeline_name}, version {name}"
    out.print(f"{where}: {'uploaded' if uploaded else 'is there already'}", markup=False)
    return pipeline, version


def _mark(package: Package, values: dict[str, Any], settings: RunConfig) -> str:
    """What equal runs have in common, as the end of their names."""
    from lorapar.kubeflow.submission import fingerprint
    from lorapar.stages.plan import resolve_config

    return "-" + fingerprint(package.version_name, values, resolve_config(settings, ("model", "data")))[:12]


def _goes_on(server: Server, start: Start) -> bool:
    """Whether an equal run has succeeded or still goes on; says so."""
    for run, state, summary in seen_runs(server, server.runs(start.experiment, 20, start.name)):
        show_summary(state, summary)
        if state in ("succeeded", "running", "pending"):
            out.print(f"unchanged since run {run.run_id} ({state}), nothing started", markup=False)
            return True
    return False


def _start(*given: Any) -> Start:
    from lorapar.kubeflow.server import Start

    return Start(*given)


def _with_settings_in_the_store(start: Start) -> Start:
    from lorapar.kubeflow.submission import by_address

    parameters, inline = by_address(start.parameters, start.parameters.get("store") or default_store())
    if inline:
        err.print_line(f"lorapar: {inline}", "yellow")
    return replace(start, parameters=parameters)


def _start_line(server: Server, version: tuple[str, str], start: Start) -> str:
    run = server.start(*version, start)
    out.print(f"run {run} started", markup=False, highlight=False)
    return run


def _start_and_wait(
    server: Server, version: tuple[str, str], start: Start, tasks: Sequence[PlannedTask], *, again: int | None
) -> None:
    """Follow the run, and start it again as often as asked; where nothing was asked, one that was stopped, twice."""
    from lorapar.kubeflow.submission import STARTED_AGAIN, wait_for

    store = str(start.parameters.get("store") or default_store())
    begun = 0
    while True:
        run = _start_line(server, version, start)
        begun += 1
        try:
            ending = wait_for(server, run, store, tasks, out.console)
        except KeyboardInterrupt as stop:
            raise stopped(stop, f" while following run {run}", _WITHOUT_US) from None
        except UnreachableError as error:
            raise UnreachableError(f"{error}; run {run} is not followed any more: {_WITHOUT_US}") from None
        allowed = again if again is not None else STARTED_AGAIN if ending.stopped else 0
        if ending.exit_code != ExitCode.RUN_FAILED or begun > allowed:
            _close(run, store, ending)
        err.print(f"lorapar: {ending.line}; starting again", markup=False, highlight=False, soft_wrap=True)


def seen_runs(server: Server, runs: Iterable[Any]) -> Iterator[tuple[Any, str, str]]:
    """Runs with their states for people, and the address of each summary that was written now.

    A run that somebody ended has none before a command sees it: its report did not run. A store that does not take one
    is not asked again.
    """
    from lorapar.kubeflow.submission import told_state, write_cancelled

    silent: set[str] = set()
    for run in runs:
        state, store, summary = told_state(server, run), _store_of(run), ""
        if state in ("cancelled", "gone") and store not in silent:
            written = write_cancelled(store, str(run.run_id))
            summary = f"{store}/runs/{run.run_id}/summary.md" if written else ""
            silent.update([store] if written is None else [])
        yield run, state, summary


def show_summary(state: str, address: str) -> None:
    """Say where a summary was written, if one was."""
    if address:
        out.print(f"summary of the {state} run: {address}", markup=False, highlight=False, soft_wrap=True)


def _store_of(run: Any) -> str:
    """The store of a run, where it says one or has the pipeline's own."""
    parameters = (run.runtime_config.parameters if run.runtime_config is not None else None) or {}
    return str(parameters.get("store") or default_store())


def _close(run: str, store: str, ending: Any) -> None:
    """The metrics, one line, and the exit code."""
    from lorapar.kubeflow.submission import metrics_of_run
    from lorapar.report.terminal import metrics_table

    metrics = metrics_of_run(store, run)
    if metrics is not None:
        out.print(metrics_table(metrics))
    where, mark = (out, "") if ending.exit_code == ExitCode.OK else (err, "lorapar: ")
    where.print(f"{mark}{ending.line}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"report and summary: {store.rstrip('/')}/runs/{run}/", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(ending.exit_code)


def default_store() -> str:
    from lorapar.kubeflow.parameters import PARAMETERS

    return str(next(parameter.default for parameter in PARAMETERS if parameter.name == "store"))
