"""`parc plan`: the best strategy of a job, and why it is the best."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from parc import api
from parc.cli.common import Command, Output, choice, color, file_argument, job_options, output_option, read_source
from parc.cli.plan_options import DeviceNumbers, TimeLimit
from parc.cli.tables import amount, seconds, table
from parc.cli.writing import check_apart, check_output, out_of_reach, write_output

if TYPE_CHECKING:
    from parc.planning.answer import FoundPlan, OwnPlan
    from parc.planning.compared import ComparedPlans
    from parc.planning.found import Counts, PricedPlan
    from parc.planning.refining import RefinedPlan
    from parc.planning.space import PlanChoice
    from parc.price import Price

DAY = 86400.0


@click.command("plan", cls=Command)
@file_argument
@click.option(
    "--devices",
    type=DeviceNumbers(),
    default=(),
    help="Of the cluster, in the place of as many as it has: 64, or 64,128,256, to be compared.",
)
@click.option(
    "--minimise",
    type=click.Choice(["step", "memory", "days", "device-time"]),
    default="step",
    show_default=True,
    help="What is to be least: the time of a step, the memory of the fullest device, the days until --tokens, the "
    "time of all devices together.",
)
@click.option("--tokens", type=float, metavar="N", help="That are to be trained: how many days they take is told.")
@click.option("--within", type=TimeLimit(), default="10s", show_default=True, help="The time that the search may take.")
@click.option(
    "--jobs",
    "processes",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that share the search, each on a core of its own.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="LIST",
    help="What no strategy is to have: zero_bubble,zero=3,cp,'tp>8'. (docs/plan.md has all names.)",
)
@click.option("--best", "keep", type=click.IntRange(1, 1000), default=5, show_default=True, help="So many are listed.")
@click.option("--certificate", metavar="OUT", help="Write the certificate to this file, as JSON.")
@click.option("--report", "page", metavar="OUT", help="Write what was found to this file, as a page for a browser.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the best as comma-separated values.")
@output_option
@job_options
def command(
    out: Output,
    file: str,
    devices: tuple[int, ...],
    minimise: api.Minimised,
    tokens: float | None,
    within: float,
    processes: int,
    without: tuple[str, ...],
    keep: int,
    certificate: str | None,
    page: str | None,
    as_csv: bool,
    output: str | None,
    params: tuple[tuple[str, str], ...],
    job: str | None,
    strategy: str | None,
) -> None:
    """Search the strategies of FILE's job for the best, and say why it is: print FILE with it, or write it with -o.

    What was searched, what was left out by which bounds, and whether the best is proved is the certificate. The
    search begins at what is most like the file's own strategy. Ctrl-C ends the search with the best so far.

    Of several numbers of devices, or values of a parameter (-D batch=256,512, -D layers=1..5), each is a search of its
    own, in its share of the time; they are compared by what a token takes.

    \b
    parc plan job.par --within 1m -o planned.par --certificate planned.json
    parc check planned.par --certificate planned.json
    parc plan job.par --devices 64,128,256 -D batch=512,1024 --minimise days --tokens 1e12
    parc plan job.par --without gpipe,zero_bubble,zero=2..4,cp
    """
    if as_csv and out.json:
        raise click.UsageError("`--csv` and `--json` are two forms: one can be printed")
    if minimise == "days" and tokens is None:
        raise click.UsageError("`--minimise days` needs `--tokens`: how many are to be trained")
    if tokens is not None and not 0 < tokens < 1e30:
        raise click.BadParameter("so many tokens are none", param_hint="'--tokens'")
    source = read_source(out, file)
    if without:
        from parc.planning.left_out import asked_source, left_out

        out.sources.add(asked_source(without))
        left_out(without)  # what is wrong with it is told first
    check_apart(output=output, certificate=certificate, report=page)
    for written in (output, certificate, page):
        check_output(written, source, [value for _, value in params])

    def told(plan: PricedPlan, counts: Counts) -> None:
        if sys.stderr.isatty():
            step, size = seconds(plan.price.seconds), amount(plan.price.needed)
            out.say(f"{counts.priced:,} priced: a step of {step}, {size}")

    from parc.cli import planned_cases
    from parc.planning.cases import free_values, listed
    from parc.planning.filled_answer import FilledPlan
    from parc.planning.holes import has_holes

    try:
        lists = listed(source, dict(params))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'-D'") from None
    single = {name: value for name, value in params if name not in lists}
    free = free_values(source, single, job, strategy, devices, lists)
    if certificate is not None and not free.open and has_holes(source, job, strategy, {**single, **lists}):
        raise click.UsageError("a certificate is of a search for strategies, not of numbers that are left open")
    options = choice(out, tuple(single.items()), job, strategy)
    how: Any = {"minimise": minimise, "within": within, "keep": keep, "told": told, "processes": processes}
    how["without"] = without
    cases: ComparedPlans | None = None
    if free.free:
        cases = api.plan_cases(source, devices=devices, free=lists, **how, **options)
        found, proof = cases.found, cases.certificate
    else:
        only = next(iter(devices), None)
        found = api.plan(source, devices=only, **how, **options)
        proof = None if isinstance(found, FilledPlan) else found.certificate
    if output is not None:
        write_output(output, found.text)
        if (name := out_of_reach(output, source)) is not None:
            out.say(f"`{output}` is read from its own folder, where there is no `{name}`: write it beside `{file}`\n")
    if isinstance(found, FilledPlan):
        from parc.cli import filled

        out.result, rows, told_of = (
            filled.as_json(found, tokens, output),
            filled.as_csv(found, tokens),
            filled.shown(found, tokens),
        )
    else:
        out.result, rows, told_of = _json(found, tokens, output), _csv(found, tokens), _shown(found, tokens)
    if certificate is not None:
        import json

        write_output(certificate, json.dumps(proof, indent=1) + "\n")
    if cases is not None:
        out.result |= planned_cases.as_json(cases, tokens)
        rows, told_of = planned_cases.as_csv(cases, tokens), f"{told_of}\n\n{planned_cases.shown(cases, tokens)}"
    out.result["report"] = page
    if page is not None:
        numbers = ",".join(map(str, devices)) or None
        given = {"job": job, "strategy": strategy, "devices": numbers, "minimise": minimise, "best": keep}
        limits = {"tokens": tokens and f"{tokens:g}", "within": f"{within:g}s"}
        line = _line(file, params, {**given, **limits, "without": ",".join(without) or None})
        write_output(page, api.plan_report(cases or found, tokens=tokens, command=line))
    if as_csv:
        out.data(rows, newline=False)
    elif output is None:
        out.data(found.text, newline=False)
    out.say(told_of)


def _line(file: str, params: tuple[tuple[str, str], ...], options: dict[str, object]) -> str:
    """The command, but for where it writes."""
    from shlex import join

    given = [x for name, value in options.items() if value is not None for x in (f"--{name}", f"{value}")]
    return join(["parc", "plan", file, *(x for n, v in params for x in ("-D", f"{n}={v}")), *given])


def _json(found: FoundPlan, tokens: float | None, output: str | None) -> dict[str, Any]:
    from parc.planning.certificate import plan_json
    from parc.planning.reasons import differs, why

    first, space = found.best[0], found.planned.space
    rows = []
    for plan in found.best:
        more = {"differs": differs(space, first.candidate, plan.candidate), "why": why(first, plan)}
        rows.append({**plan_json(found.planned, plan), "days": _days(plan.price, tokens), **more})
    return {
        "output": output,
        "strategy": found.strategy,
        "text": found.text,
        "best": rows,
        "front": [
            {**plan_json(found.planned, p), "differs": differs(space, first.candidate, p.candidate)}
            for p in found.front
        ],
        "own": _own_json(found.own),
        "refined": _refined_json(found.refined),
        "without": list(space.without.names),
        "certificate": found.certificate,
    }


def _refined_json(refined: RefinedPlan | None) -> dict[str, Any] | None:
    """What the text has, if it is better than the best of the space."""
    if refined is None or refined.price is None:
        return None
    from parc.planning.certificate import change_json

    price = refined.price
    return {**change_json(refined.by), "step_seconds": price.seconds, "needed_bytes": price.needed}


def _own_json(own: OwnPlan | None) -> dict[str, Any] | None:
    """The strategy that the file had."""
    if own is None:
        return None
    return {
        "strategy": own.name,
        "step_seconds": own.price.seconds,
        "needed_bytes": own.price.needed,
        "fits": own.price.fits,
    }


def _days(price: Price, tokens: float | None) -> float | None:
    """Until so many tokens are trained, without failures."""
    return tokens / price.tokens * price.seconds / DAY if tokens is not None and price.tokens else None


def _csv(found: FoundPlan, tokens: float | None) -> str:
    import csv
    import io

    from parc.planning.certificate import candidate_json
    from parc.planning.recomputes import rule_text
    from parc.planning.refining import plain_lines
    from parc.planning.written import lines_of

    space, better = found.planned.space, found.refined
    made = io.StringIO()
    rows = csv.writer(made, lineterminator="\n")
    names = [role.name for role in space.roles]
    keys = ("microbatches", "zero", "schedule", "chunks", "along", "heads", "rows", "by")
    figures = ("step_seconds", "needed_bytes", "days", "bound", "strategy")
    rows.writerow([*names, "order", *keys, "recompute", "offload", *figures])

    def row(of: PlanChoice, price: Price, bound: float | None, lines: list[str]) -> None:
        stated = candidate_json(space, of)
        sizes = dict(stated["mesh"])
        values = [_cell(stated[k]) for k in keys]
        again = "; ".join(map(rule_text, space.again(of.rules)))
        told = [price.seconds, price.needed, *("" if v is None else v for v in (_days(price, tokens), bound))]
        mesh = [*(sizes.get(n, 1) for n in names), _cell(list(sizes))]
        rows.writerow([*mesh, *values, again, _cell(list(of.rules.offload)), *told, "; ".join(lines)])

    if better is not None and better.price is not None:
        row(better.base.candidate, better.price, None, plain_lines(found.planned, better))
    for plan in found.best:
        row(plan.candidate, plan.price, plan.bound, lines_of(space, plan.candidate))
    return made.getvalue()


def _cell(value: object) -> object:
    """A list by its words, truth as true and false."""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _shown(found: FoundPlan, tokens: float | None) -> str:
    """The best, the front and the certificate, for people."""
    from parc.planning.reasons import differs, why

    first, space = found.best[0], found.planned.space
    head = ["", "step", "memory", *(["days"] if tokens else []), "what differs", "why it loses"]
    rows = []
    for number, plan in enumerate(found.best, 1):
        price = [seconds(plan.price.seconds), amount(plan.price.needed)]
        price += [f"{_days(plan.price, tokens) or 0:,.1f}"] if tokens else []
        other = differs(space, first.candidate, plan.candidate) if number > 1 else _named(found, plan)
        rows.append([str(number), *price, other, why(first, plan) if number > 1 else "the best"])
    style = color(sys.stderr)
    last = len(head) - 1
    parts = [table(head, rows, style, words={last - 1, last})]
    if len(found.front) > 1:
        points = [
            [
                seconds(p.price.seconds),
                amount(p.price.needed),
                differs(space, first.candidate, p.candidate) or "the best",
            ]
            for p in found.front
        ]
        parts.append(
            "time against memory, of what was priced:\n" + table(["step", "memory", ""], points, style, 0, {2})
        )
    if found.own is not None:
        parts.append(_compared(first if found.refined is None else found.refined, found.own))
    if found.certificate["around"]:
        from parc.planning.refining import told_around

        parts.append(told_around(found.planned, found.refined, len(found.certificate["around"])))
    return "\n\n".join([*parts, _certified(found)])


def _compared(best: PricedPlan | RefinedPlan, own: OwnPlan) -> str:
    """The strategy that the file had, against the best."""
    price, found = own.price, best.price
    assert found is not None
    head = f"the file's own strategy `{own.name}`: {seconds(price.seconds)}, {amount(price.needed)}"
    if not price.fits:
        return f"{head}, which does not fit"
    if price.seconds == found.seconds:
        return f"{head}: as fast as the best"
    times = f"{max(price.seconds, found.seconds) / min(price.seconds, found.seconds):.3f} times"
    if price.seconds > found.seconds:
        return f"{head}: the best is {times} as fast"
    return f"{head}: {times} as fast as what was found"


def _named(found: FoundPlan, plan: PricedPlan) -> str:
    from parc.planning.written import lines_of

    return "; ".join(lines_of(found.planned.space, plan.candidate))


def _certified(found: FoundPlan) -> str:
    """What was searched and what that proves."""
    from parc.planning.certificate import unsearched

    space, of = found.planned.space, found.planned.found
    counts = of.counts
    axes = ", ".join(f"{r.name} ({r.kind}{f' {r.dim}' if r.dim else ''})" for r in space.roles)
    refused = sum(counts.refused.values())
    names = space.without.names
    without = f", without {', '.join(names)}" if names else ""
    lines = [
        f"space: {counts.total:,} strategies of {space.devices:,} devices{without}: axes {axes}",
        f"  {counts.numbers:,} cannot be, by number (a dim, the batch, the layers), or are the same to the cluster",
        *(["  none has micro-batches: something in the model needs the whole batch"] if space.whole else []),
        f"  {counts.too_large:,} do not fit and {counts.not_better:,} are no better, by lower bounds alone",
        f"  {counts.priced:,} priced exactly: {counts.fitting:,} fit, {counts.unfit:,} do not"
        + (f"; {refused:,} refused: {', '.join(sorted(counts.refused))}" if refused else ""),
    ]
    name = "memory" if found.planned.minimise == "memory" else "step"
    if of.least is None:
        better = "takes less" if name == "step" else "needs less"
        lines.append(f"proved: no strategy of the space {better}")
    else:
        least = seconds(of.least) if name == "step" else amount(of.least)
        lines.append(
            f"not proved: {counts.left:,} were not looked at in time; none of them is below {least}: "
            f"at most {of.gap:.1%} better"
        )
    if (here := found.planned.here) is not None:
        lines.append(f"all on the devices: {here.words}")
    return "\n".join([*lines, f"not searched: {', '.join(unsearched(space))}"])
