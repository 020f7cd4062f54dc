"""What every task gets, wherever it runs: no root, scratch, optional credentials, the run's id, the stage as label."""

from kfp import dsl, kubernetes

from lorapar.kubeflow.executor import CREDENTIALS_FOLDER
from lorapar.kubeflow.package import RETRIED_FOR_SECONDS

USER = 10001
SCRATCH = "/scratch"
TMP = "/tmp"  # noqa: S108
"""Kubeflow's launcher keeps a task's outputs below it (2.17.0, driver.go: /tmp/kfp/outputs), read-only root or not."""
CREDENTIALS = "lorapar-credentials"
"""A secret that may be there; where it is not, boto3 finds the ServiceAccount's own identity."""
ACCELERATOR = "nvidia.com/gpu"


def settled(
    task: dsl.PipelineTask, *, cached: bool = True, retries: int = 1, wait_seconds: int = 30
) -> dsl.PipelineTask:
    """A task that may run in a hardened namespace. The compiler itself drops capabilities and sets seccomp.

    `wait_seconds` pass before it is tried again, where Argo does that.
    """
    task.set_caching_options(cached)
    if retries:
        longest = f"{RETRIED_FOR_SECONDS}s"
        task.set_retry(retries, backoff_duration=f"{wait_seconds}s", backoff_factor=2, backoff_max_duration=longest)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.empty_dir_mount(task, volume_name="scratch", mount_path=SCRATCH)
    kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path=TMP)
    kubernetes.use_field_path_as_env(task, env_name="LORAPAR_RUN", field_path="metadata.labels['pipeline/runid']")
    # What selects pods in a cluster goes by it: teachers that wake for votes, network policies.
    kubernetes.add_pod_label(task, "lorapar/stage", str(task.container_spec.command[-1]))
    kubernetes.use_secret_as_volume(task, CREDENTIALS, str(CREDENTIALS_FOLDER), optional=True)
    return task


def on_gpu(task: dsl.PipelineTask, pool: dsl.PipelineTask) -> dsl.PipelineTask:
    """A task with an accelerator, on the nodes whose labels `pool` names at run time, with room for its processes."""
    task.set_accelerator_type(ACCELERATOR).set_accelerator_limit(1)
    return in_pool(task, pool)


def in_pool(task: dsl.PipelineTask, pool: dsl.PipelineTask) -> dsl.PipelineTask:
    """A task on the nodes that `pool` names. Its accelerators, if it takes any, are set elsewhere."""
    kubernetes.add_node_selector_json(task, pool)
    kubernetes.add_toleration(task, key=ACCELERATOR, operator="Exists", effect="NoSchedule")
    kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory")  # noqa: S108
    return task
