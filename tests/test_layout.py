"""What others import can be the first that is imported; names of tests that the list of long ones has exist.

That no modules import each other in a circle is what import-linter sees, of all of them.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from conftest import PROGRAMS
from warm import Python

import diffusers_restore

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


def test_what_others_import_imports_alone(python: Python) -> None:
    """Packages, modules with classes that are saved, and those of entry points."""
    packages = {".".join(path.parent.relative_to(ROOT.parent).parts) for path in ROOT.rglob("__init__.py")}
    homes = {f"diffusers_restore{home}" for home in diffusers_restore._HOMES.values()}
    tables = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]["entry-points"].values()
    points = {one.partition(":")[0] for table in tables for one in table.values()}
    modules = sorted(packages | homes | points)
    assert len(modules) > 60
    done = python.run("-c", IMPORTS, *modules, check=True)
    assert done.stdout.split() == [], done.stderr


def test_tests_of_whole_programs_exist() -> None:
    """One that was renamed would be among the others, and slow them."""
    written = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in PROGRAMS if f"\ndef {name}(" not in written] == []
