"""`lorapar run` and `lorapar plan`: all stages on this machine, or what they would do."""

from __future__ import annotations

from lorapar.cli.base import (
    AsJson,
    ConfigFile,
    Fresh,
    OutDir,
    Overrides,
    Preset,
    Store,
    Until,
    app,
    err,
    out,
    out_dir_of,
    reporter,
    settings_of,
    show_document,
)


@app.command("run")
def run_command(
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    out_dir: OutDir = None,
    store: Store = None,
    until: Until = None,
    fresh: Fresh = False,
) -> None:
    """Run every stage on this machine into one folder; a second run continues and reuses what is unchanged.

    Examples: `lorapar run --preset demo`, `lorapar run --config mine.yaml --out runs/mine --until score`
    """
    settings = settings_of(preset, config, overrides, store)
    from lorapar.local.runner import run_local
    from lorapar.report.terminal import closing_table, warning_lines

    folder = run_local(settings, out_dir_of(settings, out_dir), reporter, until=until, fresh=fresh)
    metrics = folder.root / "metrics.json"
    if metrics.is_file():
        out.print(closing_table(metrics))
        for line in warning_lines(metrics):
            err.say(f"lorapar: warning: {line}", "yellow")
    out.print(f"report: {folder.root / 'report.html'}", markup=False, soft_wrap=True)
    if (folder.root / "adapter").is_dir() and until is None:
        out.print(f"adapter: {folder.root / 'adapter'}", markup=False, soft_wrap=True)


@app.command("plan")
def plan_command(
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    out_dir: OutDir = None,
    until: Until = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Say what `run` would do: stages that run or are reused (no store is looked into), memory, teacher calls, and
    hours by earlier runs of the same shape, of which the store is asked.

    Examples: `lorapar plan --preset demo`, `lorapar plan --config mine.yaml --set rl.max_steps=40`
    """
    settings = settings_of(preset, config, overrides)
    from lorapar.local.planning import plan_run, plan_table

    planned = plan_run(settings, out_dir_of(settings, out_dir), until=until, fresh=fresh)
    if as_json:
        from lorapar.cli.fill_documents import plan_document

        show_document(plan_document(planned))
        return
    out.print(plan_table(planned))
