"""Registers this package with diffusers when both are imported.

The order doesn't matter, and neither import triggers the other: `import diffusers_restore` stays cheap.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from functools import wraps
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook

from .errors import InvalidInputError, one_line
from .registries import METHODS

PACKAGE = __package__
PLUG_IN = "pipeline"
"""The name, without .py, of the file in a saved pipeline from which diffusers takes the class."""

STAND_INS = {"UNet2DModel": "ResidualUNet2DModel"}
"""Models of diffusers -> models of this package that any diffusers pipeline can have instead."""

NETWORKS = (
    *STAND_INS.values(),
    "FaceEnhancer",
    "OldPhotoMapping",
    "OldPhotoVAE",
    "ResnetGenerator",
    "ScratchDetector",
    "UNetGenerator",
)
"""Models of this package that are components of pipelines."""

_PLUG_IN_FILE = '''"""{name} of the installed package {distribution}."""

for leftover in [name for name in globals() if not name.startswith("__")]:
    del globals()[leftover]  # diffusers runs all local files of one name in one module

try:
    from {module} import {name}
except ImportError as error:
    message = "{name} needs the package {distribution}: pip install --upgrade {distribution}"
    raise ImportError(message) from error

__all__ = ["{name}"]
'''


def plug_in_file(module: str, name: str) -> str:
    """The content of the file in a repository from which diffusers imports a class of an installed package."""
    top = module.partition(".")[0]
    distribution = "diffusers-restore" if top == PACKAGE else packages_distributions().get(top, [top])[0]
    return _PLUG_IN_FILE.format(module=module, name=name, distribution=distribution)


def register(package: ModuleType, names: Iterable[str]) -> None:
    """Let diffusers find the classes of this package when it loads what was saved with them.

    `DiffusionPipeline.from_pretrained` then takes them from the installed package: no code of a repository is run or
    has to be trusted.

    Args:
        package: diffusers_restore itself.
        names: of its classes.
    """
    known = frozenset(names)

    def offer(_: ModuleType) -> None:
        diffusers = sys.modules["diffusers"]  # diffusers replaces its module while it is imported
        before = vars(diffusers).get("__getattr__")

        def find(name: str) -> Any:
            if name in known:
                return getattr(package, name)
            if before is not None:
                return before(name)
            raise AttributeError(f"module 'diffusers' has no attribute {name!r}")

        vars(diffusers)["__getattr__"] = find

    @_unless_changed
    def load(loading: ModuleType) -> None:
        loading.LOADABLE_CLASSES.setdefault(package.__name__, {})
        setattr(sys.modules["diffusers.pipelines"], package.__name__, package)
        find: Any = loading.get_class_from_dynamic_module
        loading.get_class_from_dynamic_module = _installed_first(find, package, known)  # type: ignore[attr-defined]

    register_post_import_hook(offer, "diffusers")

    @_unless_changed
    def widen(utils: ModuleType) -> None:
        pipeline = utils.DiffusionPipeline
        pipeline._get_signature_types = classmethod(_with_stand_ins(pipeline._get_signature_types.__func__, package))
        check, loadable = utils.maybe_raise_or_warn, utils.LOADABLE_CLASSES["diffusers"]
        utils.maybe_raise_or_warn = _checked_as_originals(check, package, loadable)  # type: ignore[attr-defined]

    register_post_import_hook(load, "diffusers.pipelines.pipeline_loading_utils")
    register_post_import_hook(widen, "diffusers.pipelines.pipeline_utils")


def _unless_changed(hook: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    """A hook for private parts of diffusers, whose absence from a later version mustn't keep diffusers from loading."""

    @wraps(hook)
    def careful(module: ModuleType) -> None:
        try:
            hook(module)
        except AttributeError as error:
            warnings.warn(
                f"diffusers_restore lacks what it needs of this diffusers ({one_line(error)}): pipelines load by "
                "their own classes, but not by DiffusionPipeline; upgrade diffusers_restore",
                RuntimeWarning,
                stacklevel=2,
            )

    return careful


def _installed_first(find: Callable[..., Any], package: ModuleType, known: frozenset[str]) -> Callable[..., Any]:
    """diffusers' search for a class in a repository's code; if that isn't trusted, the installed class is used."""

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


def _with_stand_ins(find: Callable[[Any], dict[str, tuple[Any, ...]]], package: ModuleType) -> Callable[..., Any]:
    """diffusers' search for the classes that a pipeline's components may have, extended by our replacements."""

    @wraps(find)
    def find_types(cls: Any) -> dict[str, tuple[Any, ...]]:
        diffusers = sys.modules["diffusers"]
        types = find(cls)
        for original, stand_in in STAND_INS.items():
            for name, kinds in types.items():
                if getattr(diffusers, original) in kinds and getattr(package, stand_in) not in kinds:
                    types[name] = (*kinds, getattr(package, stand_in))
        return types

    return find_types


def _checked_as_originals(check: Callable[..., None], package: ModuleType, loadable: Any) -> Callable[..., None]:
    """diffusers' check of a component passed while loading; it only warns about classes that diffusers lacks."""

    @wraps(check)
    def check_passed(
        library_name: str,
        library: Any,
        class_name: str,
        importable_classes: Any,
        passed_class_obj: dict[str, Any],
        name: str,
        is_pipeline_module: bool,
    ) -> None:
        if library_name == package.__name__ and class_name in NETWORKS:
            library_name, importable_classes, is_pipeline_module = "diffusers", loadable, False
        check(library_name, library, class_name, importable_classes, passed_class_obj, name, is_pipeline_module)

    return check_passed
