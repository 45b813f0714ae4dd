"""The canonical spelling of the nodes of the syntax tree: `statements.statement`, `expressions.expression`."""
