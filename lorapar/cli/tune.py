"""`lorapar tune`: search settings, and end with a file to run with and the evidence for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorapar.cli.base import ConfigFile, Overrides, Preset, app, out, reporter, settings_of
from lorapar.cli.kubeflow import Images, Namespace, PlacementFile, ServiceAccount, StudyHost, cluster_of, default_store


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
    """Search settings by successive halving on top of these settings; the same command goes on and keeps what is done.

    With --host trials are runs in Kubeflow, one after another.

    Examples: `lorapar tune --preset demo`, `lorapar tune search.yaml --config mine.yaml --trials 30`
    """
    from lorapar.config.tune import load_search, validate_search
    from lorapar.local.needs import check_storage
    from lorapar.redaction import redact
    from lorapar.study.folder import StudyFolder
    from lorapar.study.search import Search

    loaded = load_search(search)
    if trials is not None:
        loaded = validate_search(
            {**loaded.model_dump(mode="json", exclude_defaults=True), "trials": trials}, "--trials"
        )
    base = settings_of(preset, config, overrides, store)
    folder = StudyFolder(out_dir if out_dir is not None else Path("studies") / loaded.name)
    address = base.store.address or (str(folder.root.absolute() / "store") if host is None else default_store())
    cluster = cluster_of(loaded.name, host, namespace, placement, images, service_account, scores=True)

    def say(line: str) -> None:
        out.print(redact(line), markup=False, highlight=False, soft_wrap=True)

    made = Search(loaded, base, folder, address, reporter, say, cluster)
    with folder.locked():
        check_storage(base)
        report = made.run()
    say(f"report: {report}; settings: {folder.root / 'best.yaml'}")
