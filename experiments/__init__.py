"""Command-line scripts; each has an importable ``run``."""
