"""The device of a router or a mixture, and its threads."""


def visible_device() -> str:
    """Return "cuda" when a GPU is visible, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_device(num_threads: int) -> str:
    """Return "cuda" when a GPU is visible; else "cpu", for which torch gets `num_threads`."""
    use_threads(num_threads)
    return visible_device()


def use_threads(number: int) -> None:
    """Give torch's work on the CPU `number` threads."""
    import torch

    torch.set_num_threads(number)


def peak_torch_bytes(device: str) -> int | None:
    """Most memory that torch's tensors took on the GPU so far; None on a CPU."""
    import torch

    return int(torch.cuda.max_memory_allocated()) if device == "cuda" else None
