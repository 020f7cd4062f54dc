"""Pictures and pages: the report of a run, its metrics, the closing table and the sweep over theta. Without torch.

Nothing is imported here, so that naming a score or counting rows does not load Jinja2.
"""
