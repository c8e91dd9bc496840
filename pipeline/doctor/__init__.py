"""`doctor`: what this machine has, what each missing part is needed for, and what to install."""

from vitcop.pipeline.doctor.examination import examine
from vitcop.pipeline.doctor.rows import Examination, Row

__all__ = ["Examination", "Row", "examine"]
