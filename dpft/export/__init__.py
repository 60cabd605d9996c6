"""Exports: a run's model as a folder that plain ``peft`` and ``transformers`` load, checked beforehand.

The formats are in ``dpft.tables.EXPORT_FORMATS``; each entry is a function of a run and a place, and returns
an :class:`ExportReport`.
"""

from __future__ import annotations

from dpft.export.report import ExportReport

__all__ = ["ExportReport"]
