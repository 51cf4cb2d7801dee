"""An import hook that lets vLLM's deciding modules load without torch or vLLM's dependencies.

The modules in `DECIDING` are executed from the wheel's own files, unchanged. Every other module
of vLLM, and every heavy dependency that is not installed, becomes an *inert* module: its
attributes are empty classes that can be subclassed, subscripted, called and used as decorators,
which is all that happens at import time. An inert value refuses arithmetic, comparison and
conversion to a number, so that a decision can never rest on one unnoticed.
"""

# ruff: noqa: ARG001, ARG005 -- stubs take what they are given and ignore it

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

# Modules executed for real, where the release has them: those of 0.32, then those of 0.8.5.
DECIDING = frozenset(
    f"vllm.{name}"
    for name in (
        "v1.core",
        "v1.core.block_pool",
        "v1.core.encoder_cache_manager",
        "v1.core.kv_cache_coordinator",
        "v1.core.kv_cache_manager",
        "v1.core.kv_cache_utils",
        "v1.core.single_type_kv_cache_manager",
        "v1.core.sched",
        "v1.core.sched.async_scheduler",
        "v1.core.sched.interface",
        "v1.core.sched.output",
        "v1.core.sched.request_queue",
        "v1.core.sched.scheduler",
        "v1.core.sched.utils",
        "v1.engine",
        "v1.kv_cache_interface",
        "v1.kv_cache_layout",
        "v1.kv_cache_spec_registry",
        "v1.metrics.stats",
        "v1.outputs",
        "v1.request",
        "v1.utils",
        "utils.cache",
        "utils.hashing",
        "utils.math_utils",
        "lora.model_manager",
        "lora.request",
        "lora.worker_manager",
        "v1.core.specialized_manager",
        "lora.models",
        "adapter_commons.models",
        "adapter_commons.request",
        "adapter_commons.utils",
        "adapter_commons.worker_manager",
    )
)
# Imported by the deciding modules, used by none of the decisions.
DEPENDENCIES = frozenset(
    {
        "PIL",
        "blake3",
        "cbor2",
        "cloudpickle",
        "cpuinfo",
        "huggingface_hub",
        "opentelemetry",
        "prometheus_client",
        "psutil",
        "pydantic",
        "regex",
        "safetensors",
        "torch",
        "transformers",
        "triton",
        "uvloop",
        "xxhash",
        "zmq",
    }
)
# 0.8.5 keeps its helpers in one large vllm/utils.py: only these definitions are taken from it.
UTILS_OF_0_8_5 = frozenset(
    {
        "ALL_PINNED_SENTINEL",
        "CacheInfo",
        "LRUCache",
        "_K",
        "_MappingOrderCacheView",
        "_Sentinel",
        "_T",
        "_V",
        "K",
        "T",
        "U",
        "cdiv",
        "is_list_of",
        "sha256",
    }
)


class _InertMeta(type):
    """The class of inert classes: attributes, unions and subscripts give inert things."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = inert(name)
        setattr(cls, name, value)
        return value

    def __or__(cls, other: object) -> Any:
        return cls

    def __ror__(cls, other: object) -> Any:
        return cls

    def __getitem__(cls, item: object) -> Any:
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    def __bool__(cls) -> bool:
        return False


def _call(self: object, *args: Any, **kwargs: Any) -> Any:
    # As a decorator it keeps what it decorates; otherwise it returns nothing.
    return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else None


def _getattr(self: object, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return inert(name)()


def inert(name: str) -> Any:
    """An empty class called `name`; see the module's text."""
    return _InertMeta(
        name,
        (),
        {
            "__init__": lambda self, *args, **kwargs: None,
            "__init_subclass__": classmethod(lambda cls, **kwargs: None),
            "__class_getitem__": classmethod(lambda cls, item: cls),
            "__call__": _call,
            "__getattr__": _getattr,
            "__enter__": lambda self: self,
            "__exit__": lambda self, *exc: None,
            "__bool__": lambda self: False,
        },
    )


class _InertModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = inert(name)
        setattr(self, name, value)
        return value


class _NoEnvironment(types.ModuleType):
    """vllm.envs with every switch unset."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Hook(MetaPathFinder, Loader):
    def __init__(self, root: Path) -> None:
        self.root = root
        self.special: dict[str, Callable[[types.ModuleType], None]] = {
            "torch": _fill_torch,
            "vllm.distributed.kv_events": _fill_kv_events,
            "vllm.envs": _fill_envs,
            "vllm.platforms": _fill_platforms,
            "vllm.utils": self._fill_utils,
            "vllm.v1.structured_output.request": _fill_structured_output,
        }

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        if top == "vllm":
            if fullname in DECIDING:
                real = self._file_spec(fullname)
                if real is not None:
                    return real
        elif top not in DEPENDENCIES or (top != "torch" and PathFinder.find_spec(top)):
            return None  # an installed dependency is used as it is
        return ModuleSpec(fullname, self, is_package=True)

    def _file_spec(self, fullname: str) -> ModuleSpec | None:
        stem = self.root.joinpath(*fullname.split("."))
        module, package = stem.with_suffix(".py"), stem / "__init__.py"
        if module.exists():
            return importlib.util.spec_from_file_location(fullname, module)
        if package.exists():
            return importlib.util.spec_from_file_location(
                fullname, package, submodule_search_locations=[str(stem)]
            )
        return None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = _InertModule(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        fill = self.special.get(module.__name__)
        if fill is not None:
            fill(module)

    def _fill_utils(self, module: types.ModuleType) -> None:
        module.length_from_prompt_token_ids_or_embeds = (  # type: ignore[attr-defined]
            lambda token_ids, embeds: len(token_ids)
        )
        one_file = self.root / "vllm" / "utils.py"
        if one_file.exists():
            _execute_definitions(one_file, UTILS_OF_0_8_5, module.__dict__)


def _fill_torch(module: Any) -> None:
    module.float32 = "float32"
    module.Tensor = inert("Tensor")
    module.nn = types.SimpleNamespace(Module=inert("Module"))


def _fill_kv_events(module: Any) -> None:
    module.EventPublisherFactory = types.SimpleNamespace(create=lambda *args, **kwargs: None)


def _fill_envs(module: types.ModuleType) -> None:
    module.__class__ = _NoEnvironment


def _fill_platforms(module: Any) -> None:
    module.current_platform = types.SimpleNamespace(
        is_xpu=lambda: False, register_custom_kv_cache_specs=lambda *args: None
    )


def _fill_structured_output(module: Any) -> None:
    module.StructuredOutputRequest = types.SimpleNamespace(from_sampling_params=lambda *args: None)


def _execute_definitions(path: Path, names: frozenset[str], namespace: dict[str, Any]) -> None:
    """Executes only the top-level definitions in `names` of a source file."""
    import collections
    import collections.abc
    import hashlib
    import pickle
    import typing

    import cachetools

    namespace.update({name: getattr(typing, name) for name in typing.__all__})
    namespace.update({name: getattr(collections.abc, name) for name in collections.abc.__all__})
    namespace.update(
        UserDict=collections.UserDict,
        OrderedDict=collections.OrderedDict,
        MappingProxyType=types.MappingProxyType,
        hashlib=hashlib,
        pickle=pickle,
        cachetools=cachetools,
    )
    lazy_annotations = ast.ImportFrom("__future__", [ast.alias("annotations")], 0)
    wanted = [node for node in ast.parse(path.read_text()).body if _defined(node) & names]
    module = ast.fix_missing_locations(ast.Module([lazy_annotations, *wanted], []))
    exec(compile(module, str(path), "exec"), namespace)  # noqa: S102 -- vLLM's own source


def _defined(node: ast.stmt) -> frozenset[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return frozenset({node.name})
    if isinstance(node, ast.Assign):
        return frozenset(t.id for t in node.targets if isinstance(t, ast.Name))
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return frozenset({node.target.id})
    return frozenset()


def install(root: Path) -> None:
    """From now on `import vllm...` in this process means the files under `root`."""
    sys.meta_path.insert(0, _Hook(root))
