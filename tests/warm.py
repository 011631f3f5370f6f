"""Python processes without a cold start: forked from one that has imported diffusers, and nothing of this package.

A cold start takes seconds, most of them to import torch and diffusers. Where a test needs a process of its own but not
one in which nothing is imported, `Python.run` takes the arguments of `python` and gives what `subprocess.run` would.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

PATIENCE = float(os.environ.get("PATIENCE", 1))
"""By which deadlines are multiplied; more than 1 on a machine that has much else to do."""

_REWRITE = "ignore:Module already imported so cannot be rewritten"
PYTEST = ("-m", "pytest", "-W", _REWRITE, "-p", "no:cacheprovider", "-n", "0")
"""Arguments that begin a run of pytest, in one process; plug-ins of it may have been imported with diffusers."""


class Python:
    """A server that forks; `environment` is what it is started with, for what is read when diffusers is imported."""

    def __init__(self, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        self.environment = dict(environment)
        self.server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.server is not None:
            assert self.server.stdin is not None
            assert self.server.stdout is not None
            self.server.stdin.close()  # it ends
            self.server.wait(60)
            self.server.stdout.close()

    def run(
        self,
        *arguments: object,
        environment: Mapping[str, str] = MappingProxyType({}),
        cwd: Path | None = None,
        timeout: float = 300,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """What `python -c code`, `python -m module` or `python script` gives, in an environment with more variables.

        PYTHONPATH is put before the path of the server. At a timeout the stacks of the process are in the output.
        """
        if self.server is None:
            self.server = subprocess.Popen(
                [sys.executable, __file__],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        words = [str(word) for word in arguments]
        with tempfile.TemporaryDirectory() as folder:
            request = {"arguments": words, "environment": {**os.environ, **self.environment, **environment}}
            request |= {
                "cwd": str(cwd or Path.cwd()),
                "folder": folder,
                "timeout": round(timeout * PATIENCE),
            }
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
            code = int(self.server.stdout.readline())
            output, errors = (Path(folder, name).read_text() for name in ("stdout", "stderr"))
        done = subprocess.CompletedProcess(["python", *words], code, output, errors)
        if check:
            assert code == 0, output + errors
        return done


def serve() -> None:
    """Answer each line of the standard input, which asks for a process, with its exit status."""
    import torch  # noqa: F401
    from diffusers import DDPMPipeline, DiffusionPipeline, UNet2DModel  # noqa: F401

    assert "diffusers_restore" not in sys.modules
    gc.collect()
    gc.freeze()  # else a collection in a child copies every page of the server's
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
        print(_wait(child, request["timeout"]), flush=True)


def _wait(child: int, timeout: int) -> int:
    """The exit status of a child; one that takes too long is asked for its stacks, and killed."""

    def too_long(*_: object) -> None:
        os.kill(child, signal.SIGABRT)  # faulthandler is on

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(timeout)
    status = os.waitpid(child, 0)[1]
    signal.alarm(0)
    return os.waitstatus_to_exitcode(status)


def _become(request: Mapping[str, Any]) -> None:
    """Be the process that was asked for, in a child of the server; never returns."""
    folder, environment = Path(request["folder"]), request["environment"]
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdin, sys.stdout, sys.stderr = (open(i, mode, closefd=False) for i, mode in enumerate("rww"))  # noqa: SIM115
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request["cwd"])
    words = list(request["arguments"])
    code = 0
    try:
        more = environment.get("PYTHONPATH", "").split(os.pathsep) if environment.get("PYTHONPATH") else []
        if words[0] == "-c":
            sys.argv, sys.path[:1] = ["-c", *words[2:]], ["", *more]
            exec(compile(words[1], "<string>", "exec"), _main())
        elif words[0] == "-m":
            sys.argv, sys.path[:1] = words[1:], [str(Path.cwd()), *more]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[:1] = words, [str(Path(words[0]).parent), *more]
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _main() -> dict[str, Any]:
    """A new `__main__`, as classes of a script have it."""
    module = type(sys)("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    return module.__dict__


if __name__ == "__main__":
    serve()
