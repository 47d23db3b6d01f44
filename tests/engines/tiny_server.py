"""A program that serves the closed-form model, with the faults of real servers: `python -m tests.engines.tiny_server`.

A request for the model's answer to "exit" ends it. A brood is a child in a session of its own that ignores signals.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from tests.engines.openai_api import Api, Fault, serving

BROOD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--say", default="serving")
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--never-listen", action="store_true")
    parser.add_argument("--brood", action="store_true")
    parser.add_argument("--ignore-sigterm", action="store_true")
    asked = parser.parse_args()
    print(asked.say, flush=True)  # noqa: T201 - a server's log
    if asked.fail:
        sys.exit("ValueError: no such weights")
    if asked.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if asked.brood:
        subprocess.Popen([sys.executable, "-c", BROOD], start_new_session=True)
    if asked.never_listen:
        threading.Event().wait()

    def end(body: dict[str, Any]) -> Fault | None:
        if body.get("prompt") == "exit":
            print("RuntimeError: the weights fell out", flush=True)  # noqa: T201 - a server's log
            os._exit(3)
        return None

    with serving(Api(models=[asked.model, *os.environ.get("MORE_MODELS", "").split()], broken=end), asked.port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
