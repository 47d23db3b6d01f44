"""`moe-ray serve`: the evaluated system behind an OpenAI-compatible endpoint, until Ctrl-C."""

import threading
from pathlib import Path

from moe_ray.cli.progress import ProgressDisplay
from moe_ray.cli.terminal import Terminal, output_console
from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import RunFailedError
from moe_ray.execution import interruption, ray_calls
from moe_ray.runs.serve import open_served, serving
from moe_ray.serving.calls import AUTO
from moe_ray.serving.running import Served
from moe_ray.serving.system import ServedSystem

LOOK_EVERY_S = 1.0


def serve_system(path: Path, overrides: tuple[str, ...], *, trust: bool) -> None:
    """Serve the experiment file or the run directory at `path`. The first Ctrl-C drains, the second ends at once."""
    experiment = open_served(path, overrides, trust=trust)
    console = output_console(soft_wrap=True)
    with ProgressDisplay(console) as display, serving(experiment, display) as served:
        _show(console, served)
        try:
            _wait()
        except KeyboardInterrupt:
            _drain(console, experiment, served)
            raise


def _wait() -> None:
    """Wait for Ctrl-C or SIGTERM, or until Ray is gone."""
    while not threading.Event().wait(LOOK_EVERY_S):
        interruption.check()
        ray_calls.check()


def _drain(console: Terminal, experiment: LoadedExperiment, served: Served) -> None:
    timeout_s = experiment.config.serving.drain_timeout_s
    console.print("\nDraining: running requests finish, new ones are refused. Ctrl-C again ends at once.")
    if not served.close(timeout_s):
        console.print(f"Some requests were still running after {timeout_s:g} s.")


def _show(console: Terminal, served: Served) -> None:
    system, url = served.system, served.url
    for name, reason in served.failed.items():
        console.print(f"{name} cannot be loaded: {reason}", markup=False)
    if len(served.failed) == len(system.models):
        raise RunFailedError("no model could be loaded")
    for slot in system.slots:
        console.print(f"  {slot.name}: {', '.join(slot.models)}{_turns(system, slot.models)}", markup=False)
    if system.serving.api_keys_file is None:
        console.print("No API key is needed (serving.api_keys_file names a file of keys).")
    console.print(f"Serving at {url}/v1, with a chat page at {url}/. Ctrl-C stops. Try:\n\n  {_first_line(served)}\n")


def _turns(system: ServedSystem, models: tuple[str, ...]) -> str:
    return (
        f" (take turns; at most {system.serving.max_wait_s:g} s before the next is loaded)" if len(models) > 1 else ""
    )


def _first_line(served: Served) -> str:
    model = AUTO if served.system.router_dir is not None else served.system.models[0].name
    key = "" if served.system.serving.api_keys_file is None else " -H 'Authorization: Bearer KEY'"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    return f"curl {served.url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"
