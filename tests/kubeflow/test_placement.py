"""A placement file ends up in the package as KFP's own functions would have put it there."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, dsl, kubernetes
from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes_pb
from kfp.pipeline_spec import pipeline_spec_pb2 as pb
from typer.testing import CliRunner

from lorapar.cli import app
from lorapar.errors import BadInputError
from lorapar.kubeflow.package import build_package
from lorapar.kubeflow.placement import read_placement
from lorapar.kubeflow.tasks import Takes

FILE = """
image_pull_secrets: [regcred]
image_pull_policy: Always
credentials_secret: s3
user: 2000
vote_parallelism: 2
groups:
  sft:
    count: 2
    node_selector: {pool: big}
    tolerations: [{key: dedicated, operator: Equal, value: gpu, effect: NoSchedule}]
    queue: team
    priority: high
    cpu: "4"
    memory: 32Gi
    shared_memory: 8Gi
    models: {size: 20Gi}
    timeout_seconds: 7200
    retries: 4
  evaluate: {models: {claim: shared-models}}
  vote: {count: 2}
  score: {count: 0}
  init: {count: 1}
"""


@dsl.container_component
def sft() -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image="x", command=["lorapar", "stage", "sft"])


@dsl.pipeline(name="expected")
def expected() -> None:
    """The same placement in KFP's own words."""
    task = sft()
    task.set_cpu_request("4").set_cpu_limit("4").set_memory_request("32Gi").set_memory_limit("32Gi")
    task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(2)
    kubernetes.add_node_selector(task, "pool", "big")
    kubernetes.add_toleration(task, key="dedicated", operator="Equal", value="gpu", effect="NoSchedule")
    kubernetes.add_pod_label(task, "lorapar/stage", "sft")  # the shipped pipeline's own
    kubernetes.add_pod_label(task, "kueue.x-k8s.io/queue-name", "team")
    kubernetes.add_pod_label(task, "kueue.x-k8s.io/priority-class", "high")
    kubernetes.empty_dir_mount(task, "scratch", "/scratch")  # the shipped pipeline's own, as the next
    kubernetes.empty_dir_mount(task, "tmp", "/tmp")  # noqa: S108
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", "Memory", "8Gi")  # noqa: S108
    kubernetes.empty_dir_mount(task, "models", "/models", size_limit="20Gi")
    kubernetes.set_timeout(task, 7200)
    kubernetes.set_image_pull_policy(task, "Always")
    kubernetes.set_image_pull_secrets(task, ["regcred"])


@pytest.fixture
def placed(tmp_path: Path):
    path = tmp_path / "placement.yaml"
    path.write_text(FILE, encoding="utf-8")
    return build_package({}, read_placement(path))


def pod(package, label: str) -> dict:
    return package.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]


def container(package, label: str) -> dict:
    return package.spec["deploymentSpec"]["executors"][label]["container"]


def test_it_says_what_kfps_own_functions_say(placed, tmp_path) -> None:
    compiler.Compiler().compile(expected, str(tmp_path / "expected.yaml"))
    spec, platform = yaml.safe_load_all((tmp_path / "expected.yaml").read_text(encoding="utf-8"))
    theirs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-sft"]
    ours = pod(placed, "exec-sft")
    assert {key: ours[key] for key in theirs} == theirs
    wanted = spec["deploymentSpec"]["executors"]["exec-sft"]["container"]["resources"]
    got = container(placed, "exec-sft")["resources"]
    # The fields without `resource` in their names are for backends older than those this project runs on.
    assert {key: got[key] for key in got if key.startswith("resource")} == {
        key: wanted[key] for key in wanted if key.startswith("resource")
    }
    assert got["accelerator"] == wanted["accelerator"]


def as_read(value: dict, message: Any) -> dict:
    """What is left of a value in one of KFP's types; raises ParseError for a field that the type does not have."""
    return json_format.MessageToDict(json_format.ParseDict(value, message, ignore_unknown_fields=False))


def test_kfp_reads_all_of_the_placed_package(placed) -> None:
    assert as_read(placed.spec, pb.PipelineSpec()) == placed.spec
    executors = placed.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for executor in executors.values():
        assert as_read(executor, kubernetes_pb.KubernetesExecutorConfig()) == executor


def test_kfp_itself_has_no_word_for_a_priority_class() -> None:
    """Why `priority` is a label of Kueue; once this fails, KFP has a field that the placement should use."""
    fields = kubernetes_pb.KubernetesExecutorConfig.DESCRIPTOR.fields_by_name
    assert "podMetadata" in {field.json_name for field in fields.values()}
    assert not [name for name in fields if "priority" in name]


def test_priority_and_queue_are_labels_of_that_groups_pods_only(placed) -> None:
    labels = {"kueue.x-k8s.io/queue-name": "team", "kueue.x-k8s.io/priority-class": "high"}
    assert pod(placed, "exec-sft")["podMetadata"]["labels"] == {"lorapar/stage": "sft", **labels}
    assert pod(placed, "exec-rl")["podMetadata"]["labels"] == {"lorapar/stage": "rl"}


def test_groups_and_what_all_share(placed) -> None:
    assert "accelerator" not in container(placed, "exec-score").get("resources", {})
    assert pod(placed, "exec-evaluate")["pvcMount"][0]["constant"] == "shared-models"
    assert {"name": "HF_HOME", "value": "/models"} in container(placed, "exec-evaluate")["env"]
    for label in ("exec-plan", "exec-sft", "exec-report"):
        assert pod(placed, label)["securityContext"]["runAsUser"] == "2000"
        assert pod(placed, label)["secretAsVolume"][0]["secretName"] == "s3"
    # Everything else stays as it was shipped.
    assert "nodeSelectorJson" in pod(placed, "exec-rl")["nodeSelector"]


def test_init_takes_an_accelerator_where_a_placement_says_so(placed) -> None:
    assert container(placed, "exec-init")["resources"]["accelerator"]["resourceCount"] == "1"
    assert container(placed, "exec-init")["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert "accelerator" not in container(placed, "exec-publish").get("resources", {})


def test_tasks_and_loops(placed) -> None:
    dags = [component["dag"]["tasks"] for component in placed.spec["components"].values() if "dag" in component]
    tasks = {name: task for dag in dags for name, task in dag.items()}
    assert tasks["sft"]["retryPolicy"]["maxRetryCount"] == 4
    assert tasks["plan"]["inputs"]["parameters"]["vote_accelerators"] == {"runtimeValue": {"constant": "2"}}
    loops = [task for task in tasks.values() if "parameterIterator" in task]
    assert [task["iteratorPolicy"]["parallelismLimit"] for task in loops] == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: {sfft: {}}", "did you mean 'sft'"),
        ("groups: {sft: {memory: lots}}", "groups.sft.memory"),
        ("groups: {tally: {memory: 1Gi}}", "groups.tally: it runs in the task of `vote`; place that: groups.vote"),
        ("groups: {prepare: {memory: 1Gi}}", "groups.prepare: .*groups.plan"),
        ("groups: {sft: {coutn: 1}}", "groups.sft.coutn"),
        ("groups: {sft: {models: {claim: shared, size: 5Gi}}}", "a claim has its size and class already"),
        ("ca_bundle: {config_map: ca, entri: x}", "ca_bundle.entri"),
        ("env: {OPENAI_API_KEY: sk-abc}", r"OPENAI_API_KEY looks like a secret.*\{secret: NAME, key: OPENAI_API_KEY\}"),
        ("env: {HTTPS_PROXY: 'http://me:word@proxy:1'}", "HTTPS_PROXY looks like a secret"),
        ("groups: {rl: {env: {LORAPAR_RUN: x}}}", "LORAPAR_RUN is set by the pipeline itself"),
        ("env: {SSL_CERT_FILE: /x}", "SSL_CERT_FILE is set by the pipeline itself; name authorities by ca_bundle"),
        ("env: {9LIVES: x}", "env.9LIVES"),
        ("groups: {score: {nodes: 2}}", "groups.score.nodes: only sft and rl train on several"),
        ("groups: {others: {nodes: 2}}", "groups.others.nodes: only sft and rl"),
        ("groups: {rl: {processes: 2}}", "processes is of several nodes: give nodes too"),
        ("groups: {rl: {nodes: 1, runtime: x}}", "runtime is of several nodes"),
        ("groups: {rl: {nodes: 2, count: 2, processes: 4}}", "4 processes need as many accelerators on each node"),
        ("groups: {rl: {nodes: 2, runtime: 'a b'}}", "groups.rl.runtime"),
        ("groups: {rl: {env: {LORAPAR_NODES: x}}}", "LORAPAR_NODES is set by the pipeline itself"),
        ("labels: {team: 'two words'}", "labels.team"),
        ("groups: [", "not YAML"),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path, text, message) -> None:
    path = tmp_path / "placement.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=message):
        read_placement(path)


NETWORK = """
user: null
ca_bundle: {config_map: company, entry: bundle.pem}
env:
  HTTPS_PROXY: http://proxy.example:3128
  NO_PROXY: .example
  LEVEL: {config_map: settings, key: level}
labels: {team: nlp, lorapar/stage: not-this}
annotations: {example.com/cost: "17"}
groups:
  rl:
    env: {LEVEL: debug, PASSWORD_OF_PROXY: {secret: proxy, key: password, optional: true}}
    labels: {size: big}
    models: {storage_class: fast, size: 20Gi}
  sft: {env: {HF_HUB_DOWNLOAD_TIMEOUT: "60"}}
"""


@dsl.pipeline(name="networked")
def networked() -> None:
    """The task `rl` of NETWORK in KFP's own words."""
    task = sft()
    kubernetes.use_config_map_as_volume(task, "company", "/etc/lorapar/ca")
    kubernetes.add_ephemeral_volume(task, "models", "/models", ["ReadWriteOnce"], "20Gi", "fast")
    kubernetes.use_secret_as_env(task, "proxy", {"password": "PASSWORD_OF_PROXY"}, optional=True)
    for key, value in {"team": "nlp", "size": "big", "lorapar/stage": "rl"}.items():
        kubernetes.add_pod_label(task, key, value)
    kubernetes.add_pod_annotation(task, "example.com/cost", "17")


@pytest.fixture
def in_a_company(tmp_path: Path):
    path = tmp_path / "placement.yaml"
    path.write_text(NETWORK, encoding="utf-8")
    return build_package({}, read_placement(path))


def variables(package, label: str) -> dict[str, str]:
    env = container(package, label).get("env", [])
    assert len({entry["name"] for entry in env}) == len(env), "a variable stands there twice"
    return {entry["name"]: entry["value"] for entry in env}


def labels_of(package) -> list[str]:
    return list(package.spec["deploymentSpec"]["executors"])


def test_the_network_is_put_as_kfps_own_functions_put_it(in_a_company, tmp_path) -> None:
    compiler.Compiler().compile(networked, str(tmp_path / "expected.yaml"))
    _, platform = yaml.safe_load_all((tmp_path / "expected.yaml").read_text(encoding="utf-8"))
    theirs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-sft"]
    ours = pod(in_a_company, "exec-rl")
    (secret,) = theirs.pop("secretAsEnv")
    assert secret in ours["secretAsEnv"]
    assert {key: ours[key] for key in theirs} == theirs
    for label in labels_of(in_a_company):
        one = pod(in_a_company, label)
        assert as_read(one, kubernetes_pb.KubernetesExecutorConfig()) == one
    assert as_read(in_a_company.spec, pb.PipelineSpec()) == in_a_company.spec


def test_authorities_and_proxies_reach_every_task(in_a_company) -> None:
    named = dict.fromkeys(
        ("LORAPAR_CA_BUNDLE", "AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), "/etc/lorapar/ca/bundle.pem"
    )
    for label in labels_of(in_a_company):
        assert pod(in_a_company, label)["configMapAsVolume"][0]["configMapName"] == "company"
        assert variables(in_a_company, label).items() >= named.items()
        assert variables(in_a_company, label)["HTTPS_PROXY"] == "http://proxy.example:3128"
        assert variables(in_a_company, label)["NO_PROXY"] == ".example"


def test_a_groups_variable_wins_and_one_from_a_secret_is_only_named(in_a_company) -> None:
    assert variables(in_a_company, "exec-rl")["LEVEL"] == "debug"
    assert "LEVEL" not in variables(in_a_company, "exec-sft")
    assert pod(in_a_company, "exec-sft")["configMapAsEnv"][0]["keyToEnv"] == [
        {"configMapKey": "level", "envVar": "LEVEL"}
    ]
    assert variables(in_a_company, "exec-sft")["HF_HUB_DOWNLOAD_TIMEOUT"] == "60"
    assert "HF_HUB_DOWNLOAD_TIMEOUT" not in variables(in_a_company, "exec-plan")


def test_a_proxy_without_exceptions_leaves_kubeflows_own_services_alone(tmp_path) -> None:
    path = tmp_path / "placement.yaml"
    path.write_text("groups: {sft: {env: {https_proxy: 'http://proxy:1'}}}", encoding="utf-8")
    package = build_package({}, read_placement(path))
    direct = variables(package, "exec-sft")["NO_PROXY"].split(",")
    assert {"$(KUBERNETES_SERVICE_HOST)", "metadata-grpc-service", ".svc", ".cluster.local"} <= set(direct)
    assert "NO_PROXY" not in variables(package, "exec-rl")


def test_a_platform_that_gives_out_users_itself_is_reported_none(in_a_company) -> None:
    for label in labels_of(in_a_company):
        assert pod(in_a_company, label)["securityContext"] == {"runAsNonRoot": True}
    for label in labels_of(build_package({}, None)):
        assert pod(build_package({}, None), label)["securityContext"]["runAsUser"] == "10001"


def test_a_read_only_root_leaves_the_launcher_its_outputs() -> None:
    """kubeflow/pipelines 2.17.0, backend/src/v2/driver/driver.go: outputs are files below /tmp/kfp/outputs.

    The other folders that the launcher writes to (/s3, /minio, /gcs, /.cache, …) are volumes of its own
    (backend/src/v2/compiler/argocompiler/container.go).
    """
    shipped = build_package({}, None)
    for label in labels_of(shipped):
        mounts = {one["mountPath"]: one["volumeName"] for one in pod(shipped, label)["emptyDirMounts"]}
        assert {"/tmp", "/scratch"} <= set(mounts)  # noqa: S108
        assert len(set(mounts.values())) == len(mounts)


SEVERAL = """
annotations: {example.com/cost: "17"}
groups:
  rl: {nodes: 2, processes: 4, memory: 64Gi, timeout_seconds: 60, runtime: torch-own}
  sft: {nodes: 3, count: 0, processes: 2, image: "registry.example/trainer:1"}
"""


def test_a_task_of_several_nodes_holds_nothing_itself_and_knows_what_they_want(tmp_path) -> None:
    path = tmp_path / "placement.yaml"
    path.write_text(SEVERAL, encoding="utf-8")
    package, shipped = build_package({}, read_placement(path)), build_package({}, None)
    wanted = {label: json.loads(variables(package, label)["LORAPAR_NODES"]) for label in ("exec-rl", "exec-sft")}
    assert wanted["exec-rl"] == {
        "nodes": 2, "processes": 4, "runtime": "torch-own", "count": 4, "memory": "64Gi", "timeout_seconds": 60,
        "annotations": {"example.com/cost": "17"},
    }  # fmt: skip
    assert wanted["exec-sft"]["image"] == "registry.example/trainer:1"
    assert "count" not in wanted["exec-sft"]
    assert "accelerator" not in container(package, "exec-rl")["resources"]
    assert container(package, "exec-rl")["resources"]["resourceMemoryLimit"] == "2Gi"
    assert "resources" not in container(package, "exec-sft")
    assert package.asked["rl"] == Takes(nodes=2, processes=4, count=4)
    assert package.asked["rl"].text() == "2 nodes x 4 processes, 4 nvidia.com/gpu each"
    assert package.asked["sft"] == Takes(nodes=3, processes=2)
    assert package.asked["sft"].text() == "3 nodes x 2 processes"
    assert package.asked["evaluate"] == Takes(count=1)
    path.write_text("groups: {rl: {nodes: 1}}", encoding="utf-8")
    assert build_package({}, read_placement(path)).text() == shipped.text()


def test_a_missing_file_is_one_line(tmp_path) -> None:
    with pytest.raises(BadInputError, match="there is no file"):
        read_placement(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--manifest", "--namespace", "Kube Flow"], "--namespace Kube Flow"), (["--namespace", "ml"], "give --manifest")],
)
def test_a_namespace_that_none_can_have_or_that_goes_nowhere_is_refused(options, message) -> None:
    result = CliRunner().invoke(app, ["compile", *options])
    assert isinstance(result.exception, BadInputError)
    assert message in str(result.exception)
    assert not result.output


def test_the_manifest_is_what_kfp_writes_for_gitops(tmp_path) -> None:
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    from pipelines.lorapar_pipeline import lorapar

    options = KubernetesManifestOptions(
        pipeline_name="lorapar", pipeline_display_name="lorapar", namespace="kubeflow", include_pipeline_manifest=True
    )
    path = tmp_path / "manifest.yaml"
    compiler.Compiler().compile(
        lorapar, str(path), kubernetes_manifest_format=True, kubernetes_manifest_options=options
    )
    theirs = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    ours = list(yaml.safe_load_all(build_package({}, None).manifest_text("kubeflow")))
    assert [(one["apiVersion"], one["kind"]) for one in ours] == [(one["apiVersion"], one["kind"]) for one in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert set(our["spec"]) >= set(their["spec"]) - {"description", "pipelineVersionDisplayName"}
        assert our["metadata"]["namespace"] == "kubeflow"
    assert ours[1]["spec"]["platformSpec"] == theirs[1]["spec"]["platformSpec"]
    assert set(ours[1]["spec"]["pipelineSpec"]) == set(theirs[1]["spec"]["pipelineSpec"])


def test_the_placement_in_the_docs_is_one(tmp_path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "kubeflow.md").read_text(encoding="utf-8")
    path = tmp_path / "placement.yaml"
    path.write_text(page.partition("```\nimage_pull_secrets")[2].partition("```")[0].join(["image_pull_secrets", ""]))
    placement = read_placement(path)
    assert placement.group("rl").retries == 3
    assert build_package({}, placement).images


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: {rl: {count: many}}", r"groups\.rl\.count: must be a whole number"),
        ("groups: {rl: {cuont: 2}}", r"groups\.rl\.cuont: no such key .did you mean 'count'"),
        ("groups: {rl: {count: 1}, rl: {count: 2}}", "the key 'rl' is there twice"),
    ],
)
def test_mistakes_are_reported_as_in_the_settings_of_a_run(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "placement.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=f"--placement: .*{message}"):
        read_placement(file)
