"""The installed versions of the packages that results depend on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

NAMES = ("cogen-ai", "torch", "transformers", "peft", "flwr", "accelerate")


def versions() -> dict[str, str]:
    """Package name to installed version, or to "unknown"."""

    def find(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "unknown"

    return {name: find(name) for name in NAMES}
