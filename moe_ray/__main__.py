"""Entry point of ``python -m moe_ray``."""

import sys


def main() -> None:
    """Run the command line as the console script does: without the working directory on the import path.

    Otherwise a file there, such as pandas.py, would be imported in place of the library of that name.
    """
    if not sys.flags.safe_path:
        del sys.path[0]  # where `python -m` put the working directory
    from moe_ray.entry import main as run

    run()


main()
