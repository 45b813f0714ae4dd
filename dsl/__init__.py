"""The text of parc: sources, diagnostics, grammar, syntax tree, printer and the standard library (no numpy)."""
