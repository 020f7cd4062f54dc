"""`lorapar study` and `tune`: many runs over a grid of settings and seeds, their state, and a search for settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lorapar.cli.base import (
    AsJson,
    ConfigFile,
    Overrides,
    Preset,
    app,
    out,
    print_redacted,
    reporter,
    settings_of,
    show_document,
)
from lorapar.cli.command import CommandGroup
from lorapar.cli.kubeflow import Images, Namespace, PlacementFile, ServiceAccount, StudyHost, cluster_of, default_store
from lorapar.errors import BadInputError

if TYPE_CHECKING:
    from lorapar.study.folder import StudyFolder


class StudyCommands(TyperGroup):
    """`lorapar study NAME` is short for `lorapar study run NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names; a word that is none is the study to run."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


study = CommandGroup(
    cls=StudyCommands, no_args_is_help=True, help="Runs over a grid of settings and seeds, compared with each other."
)
app.add_typer(study, name="study")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A study that ships (`lorapar study list`), or a YAML file.")]
Where = Annotated[str, typer.Argument(metavar="NAME", help="Name of the study, or its folder.")]
Seeds = Annotated[str | None, typer.Option(help="Seeds of every cell, as in 0,1,2; default: those of the study.")]
Parallel = Annotated[int | None, typer.Option(min=1, help="Cells at a time; default: 1, or what the study says.")]
StudyStore = Annotated[
    str | None, typer.Option(help="s3://BUCKET/PREFIX or a folder in which cells share stages; default: OUT/store.")
]
StudyOut = Annotated[Path | None, typer.Option("--out", help="Folder of the study; default: studies/NAME.")]


@study.command("run")
def run_command(  # noqa: PLR0913  -- an argument is an option of the command
    name: Name,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    seeds: Seeds = None,
    parallel: Parallel = None,
    store: StudyStore = None,
    out_dir: StudyOut = None,
    host: StudyHost = None,
    namespace: Namespace = None,
    placement: PlacementFile = None,
    images: Images = None,
    service_account: ServiceAccount = None,
) -> None:
    """Run every cell with every seed on top of these settings; the same command continues and keeps what is finished.

    With --host cells are runs in Kubeflow, --parallel of them at a time.

    Examples: `lorapar study run theta-demo`, `lorapar study run mine.yaml --preset demo --seeds 0,1 --parallel 2`,
    `lorapar study run theta --config mine.yaml --store s3://BUCKET/PREFIX --host http://HOST:8888 --parallel 4`
    """
    from lorapar.config.study import load_study, validate_study
    from lorapar.local.needs import check_storage
    from lorapar.study.cells import cells_of, fitted
    from lorapar.study.earlier import refuse_other_settings
    from lorapar.study.folder import StudyFolder
    from lorapar.study.report import reported
    from lorapar.study.runner import StudyRun

    loaded = load_study(name)
    if seeds is not None:
        given = [int(one) if one.strip().isdecimal() else one for one in seeds.split(",")]
        loaded = validate_study({**loaded.model_dump(mode="json"), "seeds": given}, "--seeds")
    base = settings_of(preset, config, overrides, store)
    loaded = fitted(loaded, base)
    folder = StudyFolder(out_dir if out_dir is not None else Path("studies") / loaded.name)
    here = str(folder.root.absolute() / "store") if host is None else default_store()
    address = base.store.address or here
    cells = cells_of(loaded, base, address)
    cluster = cluster_of(loaded.name, host, namespace, placement, images, service_account)
    with folder.locked():
        check_storage(cells[0].config)
        refuse_other_settings(loaded, base, cells, folder)
        study_run = StudyRun(loaded, cells, folder, reporter, print_redacted, parallel or loaded.parallel, cluster)
        folder.write_settings(loaded, base, address)
        with reported(loaded, cells, folder, print_redacted):
            study_run.run()


@study.command("status")
def status_command(where: Where, as_json: AsJson = False) -> None:
    """Show the state of each cell.

    Examples: `lorapar study status theta-demo`, `lorapar study status studies/theta-demo --json`
    """
    from lorapar.study.cells import cells_of
    from lorapar.study.how_far import standings, status_table

    folder = _folder(where)
    loaded, base, address = folder.read_settings()
    rows = standings(loaded, cells_of(loaded, base, address), folder)
    if as_json:
        from lorapar.cli.fill_documents import study_status_document

        show_document(study_status_document(loaded.name, folder.root, rows))
        return
    out.print(status_table(rows))


@study.command("report")
def report_command(where: Where) -> None:
    """Write the report and the tables of a study again, from the cells that have finished.

    Examples: `lorapar study report theta-demo`, `lorapar study report studies/theta-demo`
    """
    from lorapar.study.cells import cells_of
    from lorapar.study.report import write_study_report

    folder = _folder(where)
    loaded, base, address = folder.read_settings()
    cells = cells_of(loaded, base, address)
    print_redacted(f"report: {write_study_report(loaded, cells, folder, print_redacted)}")


@study.command("list")
def list_command(
    show: Annotated[str | None, typer.Option(help="Print this study as YAML.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the studies that ship with the package.

    Examples: `lorapar study list`, `lorapar study list --show theta > mine.yaml`
    """
    from lorapar.config.study import load_study, study_names, study_text

    if as_json:
        from lorapar.cli.fill_documents import studies_document

        show_document(studies_document([show] if show is not None else study_names(), settings=show is not None))
        return
    if show is not None:
        out.print(study_text(show), markup=False, highlight=False, end="", soft_wrap=True)
        return
    from rich.table import Table

    table = Table("study", "what it asks", box=None, header_style="bold")
    for name in study_names():
        table.add_row(name, load_study(name).title)
    out.print(table)


def _folder(where: str) -> StudyFolder:
    from lorapar.study.folder import StudyFolder

    named = Path("studies") / where
    path = named if named.is_dir() and not (Path(where) / "study.yaml").is_file() else Path(where)
    if not path.is_dir():
        raise BadInputError(f"there is no study in {named} nor in {where}; start one with `lorapar study run NAME`")
    return StudyFolder(path)


@app.command("tune")
def tune_command(  # noqa: PLR0913  -- an argument is an option of the command
    search: Annotated[
        Path | None, typer.Argument(metavar="SEARCH", help="YAML file of a search; default: theta, alpha, beta, rates.")
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all; default: what the search says.")] = None,
    store: Annotated[
        str | None,
        typer.Option(help="s3://BUCKET/PREFIX or a folder in which trials share stages; default: OUT/store."),
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder of the search; default: studies/NAME.")] = None,
    host: StudyHost = None,
    namespace: Namespace = None,
    placement: PlacementFile = None,
    images: Images = None,
    service_account: ServiceAccount = None,
) -> None:
    """Search settings by successive halving, on top of these; the same command continues and keeps what is done.

    With --host trials are runs in Kubeflow, one after another.

    Examples: `lorapar tune --preset demo`, `lorapar tune search.yaml --config mine.yaml --trials 30`
    """
    from lorapar.config.tune import load_search, validate_search
    from lorapar.local.needs import check_storage
    from lorapar.study.folder import StudyFolder
    from lorapar.study.search import Search

    loaded = load_search(search)
    if trials is not None:
        loaded = validate_search(
            {**loaded.model_dump(mode="json", exclude_defaults=True), "trials": trials}, "--trials"
        )
    base = settings_of(preset, config, overrides, store)
    root = out_dir if out_dir is not None else Path("studies") / loaded.name
    folder = StudyFolder(root, keeps_results=False)
    address = base.store.address or (str(folder.root.absolute() / "store") if host is None else default_store())
    cluster = cluster_of(loaded.name, host, namespace, placement, images, service_account, scores=True)

    made = Search(loaded, base, folder, address, reporter, print_redacted, cluster)
    made.check()
    check_storage(base)
    with folder.locked():
        report = made.run()
    print_redacted(f"report: {report}; settings: {folder.root / 'best.yaml'}")
