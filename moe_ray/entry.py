"""The command's entry point. It imports nothing heavy before Ctrl-C and SIGTERM end the process without a traceback."""

from moe_ray.execution import interruption


def main() -> None:
    """Run the command line."""
    interruption.exit_at_once()
    from moe_ray.cli.main import run

    run()
