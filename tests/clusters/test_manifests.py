"""cluster/kuberay and cluster/ray, checked with the schemas of their readers and with rules that no schema has."""

import gzip
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERAY, LAUNCHER = ROOT / "cluster" / "kuberay", ROOT / "cluster" / "ray"
# Schemas made from KubeRay's definitions, which no package carries. They lie beside the checkout where they are.
SCHEMAS = ROOT.parent / "shared" / "schemas"
KINDS = {"rayjob.yaml": "RayJob", "rayservice.yaml": "RayService"}
CLUSTER_KEY = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
TOKEN_SINCE = (2, 52, 0)

Manifest = dict[str, Any]
Change = Callable[[Manifest], object]


def manifest(name: str) -> Manifest:
    loaded: Manifest = yaml.safe_load((KUBERAY / name).read_text(encoding="utf-8"))
    return loaded


def schema(kind: str) -> Any:
    path = SCHEMAS / f"{kind}.v1.7.0.json.gz"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    return json.loads(gzip.decompress(path.read_bytes()))


def groups(found: Manifest) -> Iterator[Manifest]:
    spec = found["spec"][CLUSTER_KEY[found["kind"]]]
    yield spec["headGroupSpec"]
    yield from spec["workerGroupSpecs"]


def pods(found: Manifest) -> Iterator[Manifest]:
    yield from (group["template"] for group in groups(found))
    if "submitterPodTemplate" in found["spec"]:
        yield found["spec"]["submitterPodTemplate"]


@pytest.mark.parametrize("name", KINDS)
def test_a_manifest_of_kuberay_follows_its_definition(name: str) -> None:
    jsonschema.validate(manifest(name), schema(KINDS[name]))


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["spec"].update(activeDeadlineSecond=1),
        lambda found: found["spec"]["rayClusterSpec"]["authOptions"].update(mode="tokens"),
        lambda found: found["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(replicas="2"),
    ],
)
def test_the_definition_refuses_a_misspelt_key_or_value(change: Change) -> None:
    spoilt = manifest("rayjob.yaml")
    change(spoilt)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoilt, schema("RayJob"))


def operator_problems(found: Manifest) -> list[str]:
    """Problems that KubeRay's operator finds at run time, and its definitions do not hold."""
    spec, cluster = found["spec"], found["spec"][CLUSTER_KEY[found["kind"]]]
    name, auth = found["metadata"]["name"], cluster.get("authOptions", {})
    version = tuple(int(part) for part in str(cluster.get("rayVersion", "0")).split("."))
    scaled = [(group.get("minReplicas"), group.get("maxReplicas")) for group in cluster["workerGroupSpecs"]]
    rules = {
        "name is a DNS label of at most 47 characters": len(name) <= 47 and bool(LABEL.fullmatch(name)),
        "a token needs rayVersion 2.52": auth.get("mode") != "token" or version >= TOKEN_SINCE,
        "Kubernetes tokens are refused for jobs and services": "enableK8sTokenAuth" not in auth,
        "minReplicas and maxReplicas are both set": all(None not in pair for pair in scaled),
        "labels are no rayStartParams": not any("labels" in group["rayStartParams"] for group in groups(found)),
        "resources are given once": not any(
            group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & group["rayStartParams"].keys()
            for group in groups(found)
        ),
        "deadlines are positive": all(
            spec.get(key, 1) > 0 for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds")
        ),
        "backoffLimit and the TTL are not negative": min(
            spec.get("backoffLimit", 0), spec.get("ttlSecondsAfterFinished", 0)
        )
        >= 0,
        "a TTL needs shutdownAfterJobFinishes": not spec.get("ttlSecondsAfterFinished")
        or spec.get("shutdownAfterJobFinishes", False),
        "every pod has a container": all(pod["spec"]["containers"] for pod in pods(found)),
    }
    return [rule for rule, holds in rules.items() if not holds]


@pytest.mark.parametrize("name", KINDS)
def test_the_operator_accepts_a_manifest(name: str) -> None:
    assert operator_problems(manifest(name)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda found: found["metadata"].update(name="a" * 48), "name is a DNS label of at most 47 characters"),
        (lambda found: found["spec"]["rayClusterSpec"].update(rayVersion="2.51.9"), "a token needs rayVersion 2.52"),
        (lambda found: found["spec"]["rayClusterSpec"].pop("rayVersion"), "a token needs rayVersion 2.52"),
        (
            lambda found: found["spec"]["rayClusterSpec"]["authOptions"].update(enableK8sTokenAuth=True),
            "Kubernetes tokens are refused for jobs and services",
        ),
        (
            lambda found: found["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"),
            "minReplicas and maxReplicas are both set",
        ),
        (lambda found: found["spec"].update(shutdownAfterJobFinishes=False), "a TTL needs shutdownAfterJobFinishes"),
        (lambda found: found["spec"].update(activeDeadlineSeconds=0), "deadlines are positive"),
    ],
)
def test_each_rule_of_the_operator_finds_its_problem(change: Change, problem: str) -> None:
    spoilt = manifest("rayjob.yaml")
    change(spoilt)
    assert operator_problems(spoilt) == [problem]


@pytest.mark.parametrize("name", KINDS)
def test_every_pod_is_valid_and_reachable_only_through_the_policy(name: str) -> None:
    """Kubernetes' own definition of a pod, with the label that the network policy selects, and no API token."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    selected = manifest("network-policy.yaml")["spec"]["podSelector"]["matchLabels"]
    for pod in pods(manifest(name)):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod["spec"]}
        kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)
        assert selected.items() <= pod["metadata"]["labels"].items()
        assert pod["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", ["storage.yaml", "network-policy.yaml"])
def test_a_plain_object_follows_the_definition_of_kubernetes(name: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(manifest(name), kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", KINDS)
def test_every_volume_that_is_mounted_is_declared(name: str) -> None:
    for pod in pods(manifest(name)):
        declared = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
        assert {mount["name"] for one in containers for mount in one.get("volumeMounts", [])} <= declared
    claim = manifest("storage.yaml")["metadata"]["name"]
    assert f"claimName: {claim}" in (KUBERAY / name).read_text(encoding="utf-8")


def test_a_job_resumes_from_the_volume_on_a_new_cluster() -> None:
    spec = manifest("rayjob.yaml")["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["entrypoint"].startswith("python /app/jobs/run.py evaluate ")
    assert "--results-dir /data/" in spec["entrypoint"]


def test_what_is_served_is_an_application_of_this_package() -> None:
    from ray.serve.schema import ServeDeploySchema

    deployed = ServeDeploySchema.model_validate(yaml.safe_load(manifest("rayservice.yaml")["spec"]["serveConfigV2"]))
    (application,) = deployed.applications
    assert application.import_path == "deployments.app:build"
    from deployments.app import Arguments

    arguments = Arguments.model_validate(application.args)
    assert any(text.startswith("serving.api_keys_file=") for text in arguments.overrides)


@pytest.mark.parametrize("path", sorted(LAUNCHER.glob("*.yaml")), ids=lambda path: path.name)
def test_a_launcher_file_is_accepted_by_ray(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(path.read_text(encoding="utf-8")))
    validate_config(prepared)
    with pytest.raises(Exception, match="max_worker"):
        validate_config({**prepared, "max_worker": 1})


@pytest.mark.parametrize("path", sorted(LAUNCHER.glob("*.yaml")), ids=lambda path: path.name)
def test_a_launcher_file_starts_ray_with_a_token_and_stops_no_other(path: Path) -> None:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    commands = [*found["head_start_ray_commands"], *found["worker_start_ray_commands"]]
    for command in commands:
        assert "ray stop" not in command
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in command
        assert command.startswith("pgrep ")
    assert all("--dashboard-host=127.0.0.1" in command for command in found["head_start_ray_commands"])
    for command in [*commands, *found["setup_commands"]]:
        subprocess.run(["bash", "-n"], input=command, text=True, check=True)
