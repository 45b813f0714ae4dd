"""From the syntax tree to the lowered program: graph, differentiation, placement, lowering (runs nothing)."""
