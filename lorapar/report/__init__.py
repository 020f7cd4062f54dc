"""Pictures and pages: the report of a run, its metrics, the closing table and the sweep over theta. Without torch.

Nothing is imported here: who only names a score or counts rows does without Jinja2.
"""
