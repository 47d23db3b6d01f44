"""A finished run on disk, made by the pipeline's own steps without Ray."""

import copy
import json
from pathlib import Path
from typing import Any

import yaml

from moe_ray.config.load import load_experiment
from moe_ray.planning.cells import Cell
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs.manifest import begin
from moe_ray.runs.work import prepare
from moe_ray.store.answers import Answer
from moe_ray.store.opening import begin_session, end_session
from moe_ray.store.records import ProbeTiming, ReplicaTelemetry
from moe_ray.store.run_directory import RunDirectory
from tests.support.synthetic_routes import route


def finished_run(folder: Path, experiment: dict[str, Any], rows: bytes) -> RunDirectory:
    """Run `experiment` on `rows` (as rows.jsonl) with made-up answers, score it, and put a router's routes beside."""
    described = copy.deepcopy(experiment)
    described["domains"]["second"] = copy.deepcopy(described["domains"]["parity"])
    (folder / "rows.jsonl").write_bytes(rows)
    (folder / "experiment.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    loaded = load_experiment(folder / "experiment.yaml", [f"output.results_dir={folder / 'results'}"])
    prepared = prepare(loaded)
    run = prepared.run
    run.prepare()
    manifest = begin(prepared).manifest
    session = begin_session(manifest, 0)
    for shard in prepared.work.shards:
        run.write_shard([_answer(cell, shard.id) for cell in shard.cells])
    for model in loaded.config.models:
        identity = prepared.checkpoints[model].identity.key
        run.write_telemetry(_telemetry(model, session.session, identity))
    end_session(session, "complete", len(prepared.work.cells))
    run.write_manifest(manifest)
    pipeline.score(run)
    route(run)
    return run


def _answer(cell: Cell, shard: str) -> Answer:
    return Answer(
        key=cell.key,
        kind=cell.kind,
        model=cell.model,
        domain=cell.domain,
        example_id=cell.example_id,
        sample_index=cell.sample_index,
        messages=json.dumps([{"role": message.role, "content": message.content} for message in cell.prompt.messages]),
        settings=json.dumps({"prompt_style": "chat", "max_new_tokens": 4, "temperature": 0.0, "seed": 0}),
        text="yes" if cell.model == "base" else "No.",
        token_ids=[1, 2],
        finish_reason="stop",
        num_prompt_tokens=10,
        num_completion_tokens=2,
        loglikelihoods=None,
        loglikelihood_tokens=None,
        error=None,
        batch_rows=2,
        time_to_first_token_s=0.1,
        total_s=0.2,
        replica=f"{cell.model}-0",
        shard=shard,
        finished_at=1.0,
    )


def _telemetry(model: str, session: str, identity: str) -> ReplicaTelemetry:
    probe = ProbeTiming(
        example_id="t0", num_prompt_tokens=3, num_completion_tokens=2, time_to_first_token_s=0.1, total_s=0.5
    )
    return ReplicaTelemetry(
        replica=f"{model}-0",
        model=model,
        identity=identity,
        session=session,
        node="node",
        pid=1,
        device="cpu",
        started_at=1.0,
        load_s=1.0,
        busy_s=2.0,
        num_answers=16,
        peak_resident_bytes=1 << 30,
        probe=[probe],
        end="finished",
    )
