"""The explorer, and explanations of any photograph."""
