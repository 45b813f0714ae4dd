"""parc: a language and compiler for parallel strategies.

    import parc

    compiled = parc.compile("examples/gpt.par", params={"layers": 4})
    print(parc.verify("examples/gpt.par").passed)

Each function is the command of the same name. What the user got wrong is raised as `parc.ParcError`.
"""

from __future__ import annotations

__version__ = "0.1.0"
