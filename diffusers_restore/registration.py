"""What diffusers is told about this package, at the moment that it is imported.

The order doesn't matter, and neither import causes the other: `import diffusers_restore` stays cheap.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import wraps
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook

from .errors import InvalidInputError
from .registry import Registry

PLUG_IN = "pipeline"
"""The name, without .py, of the file in a saved pipeline from which diffusers takes the class."""

METHODS = Registry("diffusers_restore.methods", "method")
"""Zero-shot methods: name -> scheduler class."""


def register(package: ModuleType, names: Iterable[str]) -> None:
    """Let diffusers find the classes of this package when it loads what was saved with them.

    Then `DiffusionPipeline.from_pretrained` takes them from the installed package: no code of a repository is run, so
    none has to be trusted.

    Args:
        package: diffusers_restore itself.
        names: of its classes.
    """
    known = frozenset(names)

    def offer(_: ModuleType) -> None:
        diffusers = sys.modules["diffusers"]  # which puts another module in its place while it is imported
        before = vars(diffusers).get("__getattr__")

        def find(name: str) -> Any:
            if name in known:
                return getattr(package, name)
            if before is not None:
                return before(name)
            raise AttributeError(f"module 'diffusers' has no attribute {name!r}")

        vars(diffusers)["__getattr__"] = find

    def load(loading: ModuleType) -> None:
        loading.LOADABLE_CLASSES.setdefault(package.__name__, {})
        setattr(sys.modules["diffusers.pipelines"], package.__name__, package)
        find: Any = loading.get_class_from_dynamic_module
        loading.get_class_from_dynamic_module = _installed_first(find, package, known)  # type: ignore[attr-defined]

    register_post_import_hook(offer, "diffusers")
    register_post_import_hook(load, "diffusers.pipelines.pipeline_loading_utils")


def _installed_first(find: Callable[..., Any], package: ModuleType, known: frozenset[str]) -> Callable[..., Any]:
    """diffusers' search for a class in a repository's code, which asks for what is installed if that isn't trusted."""

    @wraps(find)
    def find_class(*args: Any, **options: Any) -> Any:
        if not options.get("trust_remote_code"):
            module = str(options.get("module_file")).removesuffix(".py")
            name = options.get("class_name")
            if name in known and module in (PLUG_IN, package.__name__):
                return getattr(package, name)
            for method, address in METHODS.addresses():
                if address == f"{module}:{name}":
                    return METHODS[method]
            if "." in module and find_spec(module.partition(".")[0]) is None:  # only our files are named so
                raise InvalidInputError(f"{name} is of the module {module}, which isn't installed; install its package")
        return find(*args, **options)

    return find_class
