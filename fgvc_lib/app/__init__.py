"""Looking at photographs through trained models: the explorer, and explanations of any photograph."""

from .explain import explain_photographs, find_photos, named_run
from .explorer import Explorer, explorer_widget
