"""A configuration becomes a job: its family describes the model, a strategy is chosen, the text is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dsl.data import dataclass
from dsl.diagnostics import ParcError, did_you_mean, fail
from dsl.source import Source
from parc.importing.config import Config, read_config
from parc.importing.described import Described
from parc.importing.families.known import KNOWN, family_of
from parc.importing.strategy import chosen
from parc.importing.writer import Degrees, job_text
from runtime.checkpoint_names import StoredTensor

if TYPE_CHECKING:
    from compiler.model import Model
    from runtime.checkpoints.public import PublicNames


@dataclass(frozen=True, slots=True)
class ImportedJob:
    """A job that was written. family: the `model_type`; parameters: numbers that are trained; devices: of the cluster,
    or 1; fits: whether they have the memory (None without a cluster). table: what checkpoints call the weights."""

    text: str
    family: str
    parameters: int
    devices: int
    fits: bool | None
    table: tuple[StoredTensor, ...]


def import_config(
    source: Source, cluster: tuple[int, str] | None = None, ignored: Sequence[str] = (), precision: str | None = None
) -> ImportedJob:
    """Writes the job of a configuration. cluster: number and device. ignored: keys that change nothing, says the user.
    precision: None: bf16 of what trains, f32 of what infers.

    Raises ParcError (E1001 to E1005).
    """
    config = read_config(source)
    kind, trained, described = _described(config, ignored)
    name, precision = kind, precision or ("bf16" if described.trains else "f32")
    model = _model(job_text(name, described, [], Degrees(), None, precision), config)
    parameters = sum(w.value.type.elements for w in model.weights)
    title = [
        f"{trained}: {parameters:,} parameters. Written by `parc init` from a config.json of Hugging Face.",
        *described.notes,
    ]

    def text(degrees: Degrees) -> str:
        return job_text(name, described, title, degrees, cluster, precision)

    degrees, fits = chosen(text, described, cluster)
    return ImportedJob(text(degrees), kind, parameters, cluster[0] if cluster else 1, fits, described.table)


def public_names(source: Source) -> PublicNames:
    """What checkpoints call the weights of a configuration's model, as its job names them.

    Keys that are not understood are no matter: the job that was made of them says what is computed. Raises ParcError
    (E1001 to E1005).
    """
    from compiler.stored import products_of
    from runtime.checkpoints.public import PublicMatrix, PublicNames

    config = read_config(source)
    kind, _, described = _described(config)
    model = _model(job_text(kind, described, [], Degrees(), None, "f32"), config)
    values = [*(w.value for w in model.weights), *(s.value for s in model.states)]
    dims = {v.name: tuple((d.name, d.size) for d in v.type.dims) for v in values}
    taken, loops = products_of(model.graph), {w.value: len(w.loops) for w in model.weights}
    matrices = {v.name: PublicMatrix(inputs, loops[v]) for v, inputs in taken.items() if v in loops}
    return PublicNames(kind, described.table, dims, matrices)


def _described(config: Config, ignored: Sequence[str] | None = None) -> tuple[str, str, Described]:
    """The family, what trains it, and the model. ignored: keys that change nothing; None: what was not read may."""
    kind = config.text("model_type", "")
    if not kind:
        help = "it says which family of models it is, such as `llama`"
        raise fail("E1005", "`model_type` is missing", config.span(), help=help)
    if kind not in KNOWN:
        help = did_you_mean(kind, KNOWN) or f"there are {', '.join(sorted(KNOWN))}"
        if "text_config" in config:
            help = "what lies under `text_config` is a model of its own: save that as a file"
        raise fail("E1002", f"`{kind[:60]}` is no family of models that is known", config.span("model_type"), help=help)
    family = family_of(kind)
    named = config.texts("architectures") or [family.trained]
    for name in named:
        if name not in family.classes or name != named[0]:
            config.refuse("architectures", f"`{name[:60]}`", f"of {kind} there is {' or '.join(family.classes)}")
    described = family.classes[named[0]](config)
    if ignored is not None:
        config.unread(ignored)
    return kind, named[0], described


def _model(text: str, config: Config) -> Model:
    """The model of a job as it is written. What is wrong with it is so with the configuration (E1005)."""
    from compiler.evaluate import evaluate_file

    try:
        return evaluate_file(Source("job.par", text)).job.model
    except ParcError as error:
        found = error.diagnostics[0]
        numbers = [note for note, _ in found.notes if " = " in note]
        message = f"this configuration describes no model: {found.message}"
        raise fail("E1005", message, config.span(), help=", ".join(numbers) or found.help) from None
