"""From what the parser reduces to the syntax tree: `tree.TreeBuilder`."""
