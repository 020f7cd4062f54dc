"""Pictures and pages: the report of a run, its metrics, the closing table and the sweep over theta. Without torch."""

from lorapar.report.page import write_report
from lorapar.report.sources import ReportSources

__all__ = ["ReportSources", "write_report"]
