"""The syntax tree of `.par`: what was written, nothing evaluated. Every node knows its span.

Printed back to canonical text by `dsl.printer`. Comments are kept by the lexer apart from the tree.
"""

# ruff: noqa: F403
# All names of the parts are the tree's: a list of them would be one more place to forget.

from dsl.ast.expressions import *
from dsl.ast.items import *
from dsl.ast.statements import *
from dsl.ast.strategies import *
