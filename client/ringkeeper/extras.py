"""What to say where a framework that a module is for is not installed."""

from __future__ import annotations


def lacking(module: str, extra: str, package: str) -> ModuleNotFoundError:
    """`module` wants `package`, which the extra of that name brings along."""
    return ModuleNotFoundError(
        f"{module} needs {package}, which is not installed: pip install {package}, or ringkeeper "
        f"with its extra [{extra}]",
        name=package,
    )
