"""Which operators of a file an accelerator takes."""

from kdtf.export.delegates.report import Delegate
from kdtf.export.delegates.report import DelegateReport
from kdtf.export.delegates.report import Fallback
from kdtf.export.delegates.report import delegate_report

__all__ = ["Delegate", "DelegateReport", "Fallback", "delegate_report"]
