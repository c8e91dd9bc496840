"""Targets that a bundle can be built for and run on. Each is a builder and a runner behind one small protocol."""

from vitcop.export.runtimes.base import EngineInfo, EngineRunner, Target, open_target, target_names

__all__ = ["EngineInfo", "EngineRunner", "Target", "open_target", "target_names"]
