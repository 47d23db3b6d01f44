"""Whether a server could listen on a port."""

import socket


def port_to_listen_on(host: str, port: int) -> int:
    """Return `port`, or a free one for 0. Raises `OSError` where nothing can listen on it now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        found: int = probe.getsockname()[1]
        return found
