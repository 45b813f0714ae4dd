"""Codes E11xx: certificates of plans that do not hold. Examples are parts of a certificate: what it states there."""

from __future__ import annotations

from dsl.codes.code import Code

_ANEW = "`parc plan FILE -o PLANNED --certificate CERTIFICATE` makes one anew."

CODES: tuple[Code, ...] = (
    Code(
        "E1101",
        "this is no certificate",
        "`parc check FILE --certificate` reads what `parc plan --certificate` writes: one JSON object with the fields "
        "that docs/plan.md tells. This is no JSON, of another format, or a field is missing or of another type. "
        f"{_ANEW}",
        '{"proved": "yes"}\n',
        '{"proved": true}\n',
    ),
    Code(
        "E1102",
        "the certificate is of another file",
        "A certificate is of one file, to the letter, and of one of its jobs on its cluster: whoever changes the file, "
        f"its formatting too, has to ask for another. {_ANEW}",
        '{"devices": 3}\n',
        '{"devices": 2}\n',
    ),
    Code(
        "E1103",
        "the certificate's space is not one of this model",
        "What can be split, the loops that stages are cut from, what is computed again and all sizes are read off the "
        "model again. The space that the certificate states has something that the model has not, or other sizes.",
        '{"space": {"batch": {"size": 4}}}\n',
        '{"space": {"batch": {"size": 2}}}\n',
    ),
    Code(
        "E1104",
        "a number that bounds are made of is another",
        "Lower bounds are made of a few numbers: of the whole model (`work`), of the cluster (`cluster`), of the "
        "layers that were looked at (`layers`), and of how long loops last with their messages (`paces`) and what "
        "comes and goes in them (`rooms`). Each is taken from the model and the cluster again, and one differs: "
        "what was left out by such bounds may be better than what was found.",
        '{"cluster": {"memory": 2000000}}\n',
        '{"cluster": {"memory": 16000000}}\n',
    ),
    Code(
        "E1105",
        "a strategy that is said to be tried has another price",
        "Each strategy in `tried` is compiled and priced again. This one is none of the space, stands there twice, or "
        "takes, needs or is refused for something else than the certificate says.",
        '{"tried": [{"code": "E0401"}]}\n',
        '{"tried": [{"code": ""}]}\n',
    ),
    Code(
        "E1106",
        "the best is not the best",
        "The first of `best` has to be the strategy that the file has, with its price, and those in `best` have to be "
        "the best of all that were tried, in their order. What is said of them in words counts, too: the statements "
        "of each (`strategy`) have to be the rules that were priced, and `why` one loses has to follow from the "
        "figures.",
        '{"best": [{"needed_bytes": 1}]}\n',
        '{"best": [{"chunks": 1}]}\n',
    ),
    Code(
        "E1107",
        "the numbers of strategies do not add up",
        "How many strategies the space has, how many of them cannot be, do not fit or were priced follows from what "
        "the certificate states, and is counted again.",
        '{"counts": {"unfit": 1000}}\n',
        '{"counts": {"unfit": 0}}\n',
    ),
    Code(
        "E1108",
        "more is said to be proved than is",
        "A strategy of the space was not tried, and its lower bound does not speak against it as far as the "
        "certificate says: `least`, `gap` or `proved` promise more. A search that is given more time (`--within`) "
        "proves more.",
        '{"gap": 0.5}\n',
        '{"gap": 0.0}\n',
    ),
)
