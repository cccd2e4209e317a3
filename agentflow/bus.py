"""Ports: how a lower package calls what a higher one provides, without importing it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from django.core.checks import Error, register

T = TypeVar("T")
_ports: list[Port[Any]] = []


class Port(Generic[T]):
    """A named place for an implementation that an upper app binds in `AppConfig.ready()`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._bound: T | None = None
        _ports.append(self)

    def bind(self, implementation: T) -> None:
        self._bound = implementation

    def __call__(self) -> T:
        if self._bound is None:
            raise RuntimeError(f"the port {self.name} is not bound")
        return self._bound

    @property
    def bound(self) -> bool:
        return self._bound is not None


@register()
def every_port_is_bound(app_configs: Any, **kwargs: Any) -> list[Error]:
    """Refuse to start while a port has no implementation: its callers would be stuck at run time."""
    return [
        Error(f"The port {port.name} is not bound.", id="agentflow.E001") for port in _ports if not port.bound
    ]
