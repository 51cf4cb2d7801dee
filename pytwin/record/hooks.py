"""Following another program's methods: wrap them once their module is there, and never harm it."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from .writer import Writer

_F = TypeVar("_F", bound=Callable[..., None])
Patch = Callable[[ModuleType], None]
Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


class Place(NamedTuple):
    """Where this process records: `base/run/`."""

    base: Path
    run: str
    writer: Writer


def wrap(owner: type, name: str, make: Wrapper) -> None:
    """Puts `make(original)` in the place of `owner.name`.

    Raises:
        AttributeError: the class has no such method: another version of vLLM.
    """
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(make(original)))


def guarded(method: _F) -> _F:
    """A tap's method: its time is booked as the recorder's, and a fault ends the recording."""

    @functools.wraps(method)
    def call(self: Any, *args: Any) -> None:
        writer: Writer = self.writer
        if not writer.active:
            return
        begun = time.perf_counter()
        try:
            method(self, *args)
        except Exception as error:
            writer.fail(f"{method.__name__}: {type(error).__name__}: {error}")
        writer.cost_s += time.perf_counter() - begun

    return call  # type: ignore[return-value]


def when_imported(patches: Mapping[str, Patch], on_error: Callable[[str], None]) -> None:
    """Runs each patch on its module: now if it is imported, else right after its import."""
    waiting = dict(patches)
    for name in patches:
        module = sys.modules.get(name)
        # A module that is being imported right now is not whole yet.
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            _apply(waiting.pop(name), module, on_error)
    if waiting:
        sys.meta_path.insert(0, _Finder(waiting, on_error))


def _apply(patch: Patch, module: ModuleType, on_error: Callable[[str], None]) -> None:
    try:
        patch(module)
    except Exception as error:
        on_error(f"{module.__name__} is not as in vLLM 0.32: {error}")


class _Finder(MetaPathFinder):
    """Finds nothing itself; lets the others find, and follows the loading."""

    def __init__(self, waiting: dict[str, Patch], on_error: Callable[[str], None]) -> None:
        self._waiting = waiting
        self._on_error = on_error

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._waiting:
            return None
        patch = self._waiting.pop(fullname)
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, patch, self._on_error)
                return spec
        return None


class _Loader(Loader):
    """A module's own loader, and the patch behind it."""

    def __init__(self, loader: Loader, patch: Patch, on_error: Callable[[str], None]) -> None:
        self._loader = loader
        self._patch = patch
        self._on_error = on_error

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # inspect and pickle ask for the real one
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _apply(self._patch, module, self._on_error)
