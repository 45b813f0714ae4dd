"""`parc check --strategy`: the job is checked with that strategy, in the place of its own."""

from __future__ import annotations

import parc
from dsl.diagnostics import ParcError
from dsl.source import Source

TEXT = """use std.devices (a100_80)
use std.optimizers (sgd)

model m {
  dim b = 8, d = 4
  input x : f32[b,d]
  weight w[d]
  loss mean(x * w)
}

cluster pod {
  device gpu = a100_80
  level server = 4 gpu over 300 GB/s, 1 us
}

strategy two for m {
  mesh (dp = 2)
  split b on dp
}

strategy four for m {
  mesh (dp = 4)
  split b on dp
}

job fit {
  train m on pod using two
  optimizer sgd(lr = 0.1)
}
"""


def codes(text: str, strategy: str | None = None, job: str | None = None) -> list[str]:
    try:
        found = parc.check(Source("main.par", text), strategy=strategy, job=job)
    except ParcError as error:
        return [d.code for d in error.diagnostics]
    assert not strategy or all(c.job.strategy.name == strategy for c in found.jobs if job in (None, c.job.name))
    return []


def test_only_the_strategy_asked_for_has_to_fit_the_cluster() -> None:
    assert codes(TEXT) == ["E0406"]
    assert codes(TEXT, "four") == []
    assert codes(TEXT, "two") == ["E0406"]
    assert codes(TEXT.replace("using two", "using four")) == []
    assert codes(TEXT.replace("using two", "using four"), "two") == ["E0406"]
    assert codes(TEXT, "five") == ["E0103"]


def test_what_is_wrong_with_other_strategies_is_told_where_none_is_asked_for() -> None:
    text = TEXT.replace("using two", "using four")
    wrong = text.replace("split b on dp", "split q on dp", 1)
    assert codes(wrong) == codes(wrong, "two") == ["E0402"]
    assert codes(wrong, "four") == codes(wrong, "four", "fit") == []
    replaced = wrong.replace("using four", "using two")
    assert codes(replaced) == ["E0402"] and codes(replaced, "four") == []


def test_a_strategy_without_a_job_is_checked_alone() -> None:
    text = TEXT[: TEXT.index("job fit")].replace("(dp = 2)", "(dp = missing)")
    assert codes(text) == codes(text, "two") == ["E0101"] and codes(text, "four") == []


def test_of_several_jobs_the_chosen_one_alone_is_checked_with_it() -> None:
    text = TEXT + "\n" + TEXT[TEXT.index("job fit") :].replace("fit", "tune")
    assert codes(text, "four") == []
    assert codes(text, "four", "fit") == []  # however `tune` fares with `two`
