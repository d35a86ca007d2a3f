"""The files of launch/ are valid, ask for a token, and end in one command."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPO
from snippets import blocks

LAUNCH = REPO / "launch"
PAGES = (LAUNCH / "README.md", REPO / "docs" / "cluster.md")
COMMAND = "--engine ray --address auto --workers"
STARTERS = (
    "Dockerfile",
    "compose.yaml",
    "kuberay-job.yaml",
    "ray-cluster.yaml",
    "slurm.sbatch",
)
# Fields of ray.io/v1 that KubeRay 1.6 knows, and that a RayJob of a cluster of its own must have.
JOB = {
    "entrypoint",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "rayClusterSpec",
}
CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
GROUP = {"rayStartParams", "template"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas"}


def load(name: str) -> Any:
    return yaml.safe_load((LAUNCH / name).read_text())


def need(program: str) -> str:
    return shutil.which(program) or pytest.skip(f"needs {program}")


def gauges() -> set[str]:
    """Names of all gauges that a run with the built-in metrics has, as Prometheus sees them."""
    from decentral.engines.ray.run import FAILURES, PARTS_S, gauge_name
    from decentral.metrics.base import built_in_records
    from decentral.records import records_of

    names = {gauge_name(record.key) for record in records_of(built_in_records()).declared}
    return {f"ray_{name}" for name in (*names, FAILURES, PARTS_S)}


def panels() -> list[dict[str, Any]]:
    return json.loads((LAUNCH / "grafana.json").read_text())["panels"]


def queries() -> list[str]:
    """Every expression of the dashboard, with Grafana's variables filled in."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [q.replace("$run", ".+").replace("$__rate_interval", "20s") for q in found]


# --- what starts a cluster ------------------------------------------------------------------------


@pytest.mark.needs("ray")
def test_the_cloud_cluster_is_what_rays_schema_allows() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(load("ray-cluster.yaml"))
    validate_config(config)
    with pytest.raises(ValidationError, match="'max_worker' was unexpected"):
        validate_config({**config, "max_worker": 4})


def test_the_rayjob_has_the_fields_kuberay_knows() -> None:
    volume, job = yaml.safe_load_all((LAUNCH / "kuberay-job.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert (job["spec"].keys(), cluster.keys()) == (JOB, CLUSTER)
    assert (head.keys(), workers.keys()) == (GROUP, GROUP | WORKERS)
    for parameters in (head["rayStartParams"], workers["rayStartParams"]):
        assert all(isinstance(value, str) for value in parameters.values())
    claims = [v.get("persistentVolumeClaim") for v in head["template"]["spec"]["volumes"]]
    assert {"claimName": volume["metadata"]["name"]} in claims
    assert f"{COMMAND} {workers['replicas']}" in job["spec"]["entrypoint"]


def test_versions_come_from_the_constraints() -> None:
    _, job = yaml.safe_load_all((LAUNCH / "kuberay-job.yaml").read_text())
    version = job["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"\nray=={version}\n" in (REPO / "constraints.txt").read_text()
    for name in ("Dockerfile", "ray-cluster.yaml"):
        installs = re.findall(r"pip install (?!.*boto3).*", (LAUNCH / name).read_text())
        assert installs
        assert all("constraints.txt" in install for install in installs)


def test_published_ports_are_loopback() -> None:
    services = load("compose.yaml")["services"].values()
    ports = [port for service in services for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", STARTERS)
def test_every_cluster_asks_for_a_token_that_is_not_in_the_file(name: str) -> None:
    text = (LAUNCH / name).read_text()
    assert re.search(r"RAY_AUTH_MODE[=:] ?token|mode: token", text)
    assert re.search(r"\b[0-9a-f]{32,}\b", text) is None


# --- Slurm ----------------------------------------------------------------------------------------

FAKES = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; echo "$*" >"$LOG/srun"; exec "$@"',
    "ray": """case $1 in
get-auth-token) echo secret ;;
*) echo "$*" >"$LOG/ray"; while [[ $1 != -- ]]; do shift; done; shift; exec "$@" ;;
esac""",
    "decentral": 'printf "%s\\n" "$RAY_AUTH_MODE" "$@" >"$LOG/decentral"',
}


def sbatch(log: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script as Slurm would on the first node, with every program replaced."""
    for name, body in FAKES.items():
        program = log / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/usr/bin/env bash\n{body}\n")
        program.chmod(0o755)
    path = f"{log / 'bin'}{os.pathsep}{os.environ['PATH']}"
    slurm = {"SLURM_JOB_NUM_NODES": "4", "SLURM_CPUS_ON_NODE": "8", "SLURM_JOB_ID": "17"}
    return subprocess.run(
        ["bash", str(LAUNCH / "slurm.sbatch"), *arguments],
        env={**os.environ, "PATH": path, "LOG": str(log), **slurm, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_slurm_script_passes_shellcheck() -> None:
    done = subprocess.run(
        [need("shellcheck"), str(LAUNCH / "slurm.sbatch")], capture_output=True, text=True
    )
    assert done.stdout == ""
    assert done.returncode == 0


def test_slurm_runs_the_one_command_on_a_cluster_of_all_nodes(tmp_path: Path) -> None:
    done = sbatch(tmp_path, "late.yaml", "seed=2", HEAD_ADDRESS="10.1.0.7")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    ray = (tmp_path / "ray").read_text().split()
    assert ray[:5] == ["symmetric-run", "--address", "10.1.0.7:6379", "--min-nodes", "4"]
    assert ray[5:7] == ["--num-cpus", "8"]
    launched = (tmp_path / "decentral").read_text().split()
    resumed = "--resume --out runs/decentral-17"
    assert launched == f"token launch late.yaml {COMMAND} 4 {resumed} seed=2".split()


def test_slurm_takes_the_number_of_workers_and_its_own_address(tmp_path: Path) -> None:
    assert sbatch(tmp_path, "late.yaml", WORKERS="8").returncode == 0
    assert "--workers 8 --resume" in " ".join(
        (tmp_path / "decentral").read_text().split()
    )
    address = (tmp_path / "ray").read_text().split()[2]
    assert re.fullmatch(r"[0-9a-f.:]+:6379", address)


def test_slurm_without_a_configuration_says_so(tmp_path: Path) -> None:
    done = sbatch(tmp_path)
    assert done.returncode == 2
    assert "experiment.yaml" in done.stderr
    assert not (tmp_path / "srun").exists()


# --- what watches it ------------------------------------------------------------------------------


@pytest.mark.needs("prometheus")
def test_prometheus_accepts_its_configuration() -> None:
    check = [need("promtool"), "check", "config", str(LAUNCH / "prometheus.yml")]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.needs("prometheus")
def test_every_query_of_the_dashboard_parses(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{i}", "expr": query} for i, query in enumerate(queries())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "grafana", "rules": rules}]}))
    done = subprocess.run(
        [need("promtool"), "check", "rules", str(file)], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert f"{len(rules)} rules found" in done.stdout.decode()


def test_the_dashboard_shows_gauges_that_a_run_has() -> None:
    shown = set(re.findall(r"ray_\w+", " ".join(queries())))
    assert len(shown) > 10
    assert shown <= gauges()


def test_every_query_is_of_the_chosen_run() -> None:
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    assert all(q.count("ray_decentral_") == q.count('run=~"$run"') == 1 for q in shown)


def test_every_panel_says_what_it_shows_in_which_unit() -> None:
    for panel in panels():
        assert re.fullmatch(r"[A-Z][^.]+\.", panel["description"])
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_panels_do_not_overlap_and_fill_the_rows() -> None:
    tiles = [
        {
            (x, y)
            for x in range(g["x"], g["x"] + g["w"])
            for y in range(g["y"], g["y"] + g["h"])
        }
        for g in (panel["gridPos"] for panel in panels())
    ]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(tiles, 2))
    everything = set().union(*tiles)
    assert everything == set(
        itertools.product(range(24), range(1 + max(y for _, y in everything)))
    )


# --- the pages ------------------------------------------------------------------------------------


def test_the_readme_of_launch_names_every_file() -> None:
    text = PAGES[0].read_text()
    assert [
        f.name for f in LAUNCH.iterdir() if f.name != "README.md" and f.name not in text
    ] == []


def test_code_and_links_of_the_readme_of_launch() -> None:
    page = PAGES[0]
    assert [block.place for block in blocks(page) if not block.verdict()] == []
    targets = re.findall(r"\]\(([^)#:\s]+)[^):]*\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.needs("ray")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_ray_command_in_the_pages_exists(page: Path) -> None:
    from ray.scripts.scripts import cli

    code = "\n".join(block.source for block in blocks(page) if block.language == "bash")
    used = set(re.findall(r"(?:^|[\s(])ray ([a-z][a-z-]+)", code))
    assert used
    assert used <= cli.commands.keys()
