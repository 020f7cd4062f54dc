"""Kubeflow Pipelines: the executor contract of a stage's container, the compiled pipeline, submitting and following.

Only submitting imports kfp; the pipeline's containers do not need it.
"""
