"""The guest's code as bytes, so that a box needs no folder: the warden receives it before anything else."""

import marshal
from functools import cache
from pathlib import Path

from moe_ray.scoring.sandbox import guest

MODULES = ("kernel", "syscalls", "wire", "confine", "meter", "namespaces", "judge", "player", "clock", "warden")
"""The guest's modules, each after those that it imports."""

START = """
import marshal, os, sys
def receive(count):
    data = b""
    while len(data) < count:
        data += os.read(0, count - len(data)) or sys.exit("the host is gone")
    return data
package = type(sys)({package!r})
package.__path__ = []
sys.modules[package.__name__] = package
for name, code in marshal.loads(receive(int.from_bytes(receive(4), "little"))):
    module = type(sys)(package.__name__ + "." + name)
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(code, module.__dict__)
package.warden.main()
"""


def start_program() -> str:
    """Return the program, for `python -c`, that becomes the warden once it has received `guest_code()`."""
    return START.format(package=guest.__name__)


@cache
def guest_code() -> bytes:
    """Return the guest, compiled for this interpreter, as one frame."""
    folder = Path(guest.__file__).parent
    modules = [(name, _compiled(folder / f"{name}.py")) for name in MODULES]
    data = marshal.dumps(modules)
    return len(data).to_bytes(4, "little") + data


def _compiled(path: Path) -> object:
    name = f"<{guest.__name__}.{path.stem}>"
    return compile(path.read_text(encoding="utf-8"), name, "exec", dont_inherit=True, optimize=2)
