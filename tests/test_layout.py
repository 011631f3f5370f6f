"""Every module of the package can be the first that is imported: no circle, and nothing that another must have done."""

from __future__ import annotations

from pathlib import Path

from warm import Python

ROOT = Path(__file__).parents[1] / "diffusers_restore"

IMPORTS = """
import gc, os, sys, traceback
import accelerate, click, datasets, diffusers.modular_pipelines, diffusers.training_utils, gradio
import PIL.Image, scipy, sklearn, torch, yaml
gc.collect()
gc.freeze()
failed = []
for module in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            __import__(module)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        failed.append(module)
print(*failed)
"""


def test_every_module_imports_alone(python: Python) -> None:
    files = [path for path in ROOT.rglob("*.py") if "assets" not in path.parts and path.stem != "__main__"]
    parts = [path.relative_to(ROOT.parent).with_suffix("").parts for path in sorted(files)]
    modules = [".".join(part for part in one if part != "__init__") for one in parts]
    assert len(modules) > 90
    done = python.run("-c", IMPORTS, *modules, check=True)
    assert done.stdout.split() == [], done.stderr
