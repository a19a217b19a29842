"""Commands as processes of their own, forked from one that has imported the libraries already.

Their imports are seconds of CPU time for each command, and no test is about them. What is forked
is the state after `import jax` and the like: the project's own modules are imported by the command,
as by `python -m`. Variables of JAX and NumPy that are read at import are those of the tests.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = (
    *("absl.app", "flax.linen", "jax.experimental.multihost_utils", "jaxtyping", "optax"),
    *("matplotlib.backends.backend_agg", "matplotlib.pyplot", "orbax.checkpoint"),
    *("praatio.textgrid", "scipy.optimize", "scipy.signal", "sklearn.decomposition", "sklearn.svm"),
    *("soundfile", "soxr", "submitit", "tqdm"),
)


def run_module(module, *arguments, env=None, timeout=300):
    """`python -m module arguments` in the project's folder, as `subprocess.run` would return it.

    Args:
        module: the command's module.
        arguments: its command line.
        env: the whole environment; the tests' own by default.
        timeout: seconds after which it is ended.
    """
    arguments = list(map(str, arguments))
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        request = {
            **{"module": module, "arguments": arguments, "timeout": timeout},
            **{"env": dict(os.environ if env is None else env), "out": str(out), "err": str(err)},
        }
        server = _server()
        print(json.dumps(request), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(
            [module, *arguments], code, out.read_text(), err.read_text()
        )


@cache
def _server():
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.commands"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)  # its input ends, and so does it
    return server


def _serve():
    for library in LIBRARIES:
        import_module(library)
    gc.freeze()  # so that a collection in a command leaves the shared memory alone
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _become(request)
            return
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request):
    signal.alarm(request["timeout"])
    os.environ.clear()
    os.environ.update(request["env"])
    for stream, path in ((1, request["out"]), (2, request["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [request["module"], *request["arguments"]]
    # What `python -m` calls; `runpy.run_module` makes another `__main__`, of which multiprocessing,
    # imported by then, does not know.
    runpy._run_module_as_main(request["module"])


if __name__ == "__main__":
    _serve()
