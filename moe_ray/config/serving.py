"""The section `serving` of an experiment file."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from moe_ray.config.section import Name, Section


class ServingConfig(Section):
    """The HTTP endpoint of `moe-ray serve`. Nothing here enters a fingerprint."""

    host: str = Field("127.0.0.1", min_length=1, description="interface to listen on; 0.0.0.0 opens it to the network")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="0: one that is free")
    api_keys_file: Path | None = Field(
        None, description="a file of API keys, one a line; without it every client that reaches the port is served"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Host names to answer to beside localhost and `host`; a web page cannot reach others"
    )
    replicas: dict[Name, Annotated[int, Field(ge=1, le=1024)]] = Field(
        default_factory=dict, description="copies of a model; default: one, and fewer slots than models swap them"
    )
    ingress_replicas: Annotated[int, Field(ge=1, le=64)] = Field(1, description="HTTP processes, each with the router")
    autoscaling: dict[str, Any] | None = Field(
        None, description="Ray Serve's autoscaling_config of the HTTP processes, in place of ingress_replicas"
    )
    max_running: Annotated[int, Field(ge=1, le=4096)] = Field(
        64, description="requests that one copy of a model answers at a time; more wait"
    )
    max_queued: Annotated[int, Field(ge=1, le=65536)] = Field(
        128, description="requests that may wait for a slot; beyond it 503 with Retry-After"
    )
    max_wait_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        10.0, description="after that long a waiting request closes the loaded model's queue: its own model is next"
    )
    request_timeout_s: Annotated[float, Field(gt=0, le=86400)] = Field(600.0, description="of a request, in all")
    max_body_mib: Annotated[float, Field(gt=0, le=1024)] = 4.0
    sticky_sessions: bool = Field(False, description="a conversation with x-session-id stays with its first expert")
    record_dir: Path | None = Field(
        None, description="folder to record prompts and answers in, as Parquet that `evaluate` reads; default: none"
    )
    drain_timeout_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        60.0, description="at the end, time for running requests to finish"
    )
