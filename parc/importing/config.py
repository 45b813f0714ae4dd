"""A `config.json` as Hugging Face writes it, read key by key: what nobody has read in the end is not understood."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from compiler.graph import BEYOND_F32
from dsl.diagnostics import Diagnostic, ParcError, did_you_mean, fail
from dsl.source import Source, Span

_MISSING = object()

CHANGE_NOTHING = {
    "where it comes from, and how a checkpoint stores its numbers": (
        *("_name_or_path", "_commit_hash", "transformers_version", "auto_map", "tokenizer_class", "model_max_length"),
        *("torch_dtype", "dtype", "use_bfloat16", "torchscript", "quantization_config"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id"),
        *("mask_token_id", "decoder_start_token_id"),
    ),
    "how it is run": (
        *("use_cache", "cache_implementation", "output_attentions", "output_hidden_states", "output_scores"),
        *("output_past", "return_dict", "return_dict_in_generate", "attn_implementation", "_attn_implementation"),
        *("_attn_implementation_autoset", "chunk_size_feed_forward", "gradient_checkpointing", "pretraining_tp"),
        *("remove_invalid_values",),
    ),
    "what it generates": (
        *("task_specific_params", "prefix", "max_length", "min_length", "do_sample", "early_stopping", "num_beams"),
        *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p"),
        *("repetition_penalty", "length_penalty", "exponential_decay_length_penalty", "no_repeat_ngram_size"),
        *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id"),
        *("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"),
    ),
    "heads that other tasks put on top": (
        *("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "finetuning_task"),
        *("classifier_dropout", "summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout"),
        *("summary_proj_to_labels",),
    ),
}
"""Keys that change nothing of what a step of training computes, whatever the family, by what they are about."""

HARMLESS = frozenset(key for keys in CHANGE_NOTHING.values() for key in keys)
"""All of these."""

NOT = frozenset({"is_encoder_decoder", "is_decoder", "add_cross_attention", "tie_encoder_decoder"})
"""Keys that change nothing where they are false: transformers writes them where it writes all that a configuration
has."""

LAYERS = 1000
"""That a model has at most: published ones have some 130."""

_DEEPEST = 40
_LONGEST = 4096


class Config:
    """An object of a configuration: values by key, each of which is marked when it is read.

    within: the keys of the objects around it. Raises ParcError (E1003 to E1005) where a value is not what is read.
    """

    def __init__(self, values: Mapping[str, Any], source: Source, within: tuple[str, ...] = ()) -> None:
        self.values, self.source, self.within = values, source, within
        self.seen: set[str] = set()
        self.parts: list[Config] = []

    def __contains__(self, key: str) -> bool:
        """Whether it says anything: null says nothing."""
        return self.values.get(key) is not None

    def value(self, key: str, default: Any = _MISSING) -> Any:
        """What stands there; null is as if it were not there. Raises E1005 without a default."""
        self.seen.add(key)
        found = self.values.get(key)
        if found is not None:
            return found
        if default is _MISSING:
            raise fail("E1005", f"`{self._path(key)}` is missing", self.span(), help="it has no default")
        return default

    def integer(self, key: str, default: Any = _MISSING, low: int = 1) -> int:
        """A whole number of at least `low`, below 2**31: sizes of more have no numbers in int32."""
        found = self.value(key, default)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, bool) or not isinstance(found, int) or not low <= found < 2**31:
            self._wrong(key, f"a whole number of at least {low}, below 2^31")
        return found

    def layers(self, key: str, default: Any = _MISSING) -> int:
        """How many layers there are; E1005 where they are more than any model has: they are looked at one by one."""
        found = self.integer(key, default)
        if found > LAYERS:
            self.wrong(key, f"is {found:,}; there can be {LAYERS:,} at most")
        return found

    def active(self, key: str, default: int, of: str, whole: int) -> int:
        """How many experts a position goes to, of those that stand at the key `of` (E1005 where they are fewer)."""
        found, experts = self.integer(key, default), self.integer(of, whole)
        if found > experts:
            self.wrong(key, f"is {found}; there {'is' if experts == 1 else 'are'} {experts}")
        return found

    def divides(self, key: str, size: int, whole: int, what: str) -> None:
        """The size that stands at the key divides another, `what` (E1005)."""
        if whole % size:
            self.wrong(key, f"is {size}, which does not divide {what}")

    def number(self, key: str, default: Any = _MISSING) -> float:
        """A number that float32 has."""
        found = self.value(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float):
            self._wrong(key, "a number")
        if abs(found) >= BEYOND_F32:
            self._wrong(key, f"a number below {BEYOND_F32:.4g}")
        return float(found)

    def positive(self, key: str, default: Any = _MISSING) -> float:
        """A number above 0, such as the base of rotary positions."""
        found = self.number(key, default)
        if found <= 0:
            self._wrong(key, "a number above 0")
        return found

    def weight(self, key: str, default: Any = _MISSING) -> float:
        """A number of at least 0, such as what a norm adds, or how wide weights begin."""
        found = self.number(key, default)
        if found < 0:
            self._wrong(key, "a number of at least 0")
        return found

    def optional(self, key: str, default: float | None) -> float | None:
        """A number above 0 where null means none of it, and None is given; left out, it is the default."""
        if key in self.values and self.values[key] is None:
            self.seen.add(key)
            return None
        return None if default is None and key not in self else self.positive(key, default)

    def size(self, key: str, default: int | None) -> int:
        """A whole number where null, as 0, means none of it, and 0 is given; left out, it is the default."""
        if key in self.values and self.values[key] is None:
            self.seen.add(key)
            return 0
        return self.integer(key, default or 0, 0)

    def share(self, key: str, default: float = 0.0) -> float:
        """A number from 0 on and below 1, such as the rate of dropout."""
        found = self.number(key, default)
        if not 0 <= found < 1:
            self._wrong(key, "a number from 0 on and below 1")
        return found

    def flag(self, key: str, default: Any = _MISSING) -> bool:
        """true or false."""
        found = self.value(key, default)
        if not isinstance(found, bool):
            self._wrong(key, "true or false")
        return found

    def text(self, key: str, default: Any = _MISSING) -> str:
        """A string."""
        found = self.value(key, default)
        if not isinstance(found, str):
            self._wrong(key, "a string")
        return found

    def numbers(self, key: str) -> list[float]:
        """A list of numbers."""
        found = self.value(key)
        if not isinstance(found, list) or len(found) > _LONGEST:
            self._wrong(key, f"a list of at most {_LONGEST} numbers")
        if any(isinstance(n, bool) or not isinstance(n, int | float) for n in found):
            self._wrong(key, "a list of numbers")
        return [float(n) for n in found]

    def texts(self, key: str, default: Sequence[str] = ()) -> list[str]:
        """A list of strings."""
        found = self.value(key, list(default))
        if not isinstance(found, list) or len(found) > _LONGEST or not all(isinstance(t, str) for t in found):
            self._wrong(key, "a list of strings")
        return found

    def part(self, key: str) -> Config | None:
        """The object that stands there, if there is one."""
        found = self.value(key, None)
        if found is None:
            return None
        if not isinstance(found, dict):
            self._wrong(key, "an object")
        made = Config(found, self.source, (*self.within, key))
        self.parts.append(made)
        return made

    def choice(self, key: str, known: Mapping[str, Any], default: str) -> Any:
        """What one of the known words means."""
        found = self.text(key, default)
        if found not in known:
            self.refuse(key, f"`{_shown(found)}`", f"known are {', '.join(known)}")
        return known[found]

    def only(self, key: str, value: object, why: str = "") -> None:
        """What stands there is this, if anything: other values are not supported (E1004)."""
        found = self.value(key, value)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            self.refuse(key, f"`{_shown(found)}`", why or f"only `{_shown(value)}` is")

    def ignore(self, *keys: str) -> None:
        """Marks keys that change nothing in this family."""
        self.seen.update(keys)

    def refuse(self, key: str, what: str, help: str) -> NoReturn:
        """Raises E1004: what stands there is understood and not supported."""
        raise fail("E1004", f"`{self._path(key)}`: {what} is not supported", self.span(key), help=help)

    def wrong(self, key: str, message: str) -> NoReturn:
        """Raises E1005: what stands there goes together with nothing else."""
        raise fail("E1005", f"`{self._path(key)}` {message}", self.span(key))

    def unread(self, ignored: Sequence[str] = ()) -> None:
        """Raises E1003 for all keys that were not read, here and in its parts, and are not known to be harmless.

        ignored: keys that the user says to be.
        """
        errors: list[Diagnostic] = []
        for at in self._all():
            for key in at.values:
                path = at._path(key)
                if key in at.seen or key in HARMLESS or path in ignored or key not in at:
                    continue
                if key in NOT and at.values[key] is False:
                    continue
                near = did_you_mean(key, at.seen)
                help = near or f"if it changes nothing, `--ignore {path}`"
                message = f"`{_shown(path)}` is not understood: nobody knows whether it matters"
                errors += fail("E1003", message, at.span(key), help=help).diagnostics
        if errors:
            raise ParcError(*errors[:20])

    def span(self, key: str = "") -> Span:
        """Where the key stands in the file; without one, where the file begins."""
        at = 0
        for name in (*self.within, key):
            found = re.compile(re.escape(json.dumps(name)) + r"\s*:").search(self.source.text, at) if name else None
            at = found.start() if found else at
        end = at + len(json.dumps(key)) if key else at
        return Span(self.source.name, at, min(end, len(self.source.text)))

    def _all(self) -> list[Config]:
        return [self, *(p for part in self.parts for p in part._all())]

    def _path(self, key: str) -> str:
        return ".".join((*self.within, key))

    def _wrong(self, key: str, wanted: str) -> NoReturn:
        found = _shown(self.values.get(key))
        raise fail("E1005", f"`{self._path(key)}` must be {wanted}, got `{found}`", self.span(key))


def read_config(source: Source) -> Config:
    """The configuration in a file. Raises ParcError: E1001 where it is none."""

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    try:
        found = json.loads(source.text, parse_constant=constant)
    except json.JSONDecodeError as error:
        at = Span(source.name, error.pos, min(error.pos + 1, len(source.text)))
        raise fail("E1001", f"this is not JSON: {error.msg}", at, help=_HELP) from None
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        raise fail("E1001", f"this is not JSON: {what}", Span(source.name, 0, 0), help=_HELP) from None
    if not isinstance(found, dict) or _deep(found) > _DEEPEST:
        raise fail("E1001", "this is no object of keys and values", Span(source.name, 0, 0), help=_HELP)
    return Config(found, source)


_HELP = "it is the `config.json` beside a model's weights that is read"


def _deep(value: object) -> int:
    """How many objects and lists stand in one another."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_deep, inner), default=0)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
