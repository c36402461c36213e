"""Looking at photographs through trained models: the explorer, and explanations of any photograph."""

from .explain import explain_photographs, find_photos, named_run
from .explorer import Explorer, explorer_widget

__all__ = ["Explorer", "explain_photographs", "explorer_widget", "find_photos", "named_run"]
