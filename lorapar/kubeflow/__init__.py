"""Kubeflow Pipelines: the executor contract of a stage's container, the compiled pipeline, submitting and following.

kfp is imported only where a run is submitted; a container of the pipeline does without it.
"""
