"""`lorapar ui`: one page for all runs of a folder or store and the adapters of a registry; it writes nothing.

`runs.py` reads, `pages.py` says what is shown, `server.py` answers requests; templates, style and script are beside.
"""
