"""How a verb meets a terminal: help with examples, options into a dataclass, and faults as one line.

Knows no verb. Nothing heavy is imported before the verb that was asked for; the list of verbs
needs not even tyro.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import itertools
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from flowlab.core.choices import lookup

__all__ = ["Group", "Verb", "dispatch", "fault_of", "guarded"]

HELP = ("-h", "--help")


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One command: what it does, how it is called, what it takes."""

    run: Callable[..., None]
    """Called with the subject (if it has one), the configuration (if it has one), and the options."""
    options: type
    """A frozen dataclass whose fields are the options."""
    summary: str
    """One line."""
    examples: tuple[str, ...]
    """Whole command lines."""
    subject: str = ""
    """What the first argument is called, such as PRESET; "" = there is none."""
    several: bool = False
    """Whether the subject may be repeated; `run` then gets a tuple, each once. Not together with `config`."""
    optional: bool = False
    """Whether a verb may go without its subject: `run` then gets None, or of several an empty tuple."""
    names: Callable[[], Mapping[str, str]] | None = None
    """Known values of the subject with a line on each; None = any value (a path)."""
    config: Callable[[str, bool], Any] | None = None
    """(subject, debug) => the configuration each field of which becomes an option."""
    registry: Callable[[], Any] | None = None
    """tyro's rules for types of the configuration that have a written form of their own."""
    if_stopped: str = "the same command starts again"
    """What Ctrl-C leaves, and how to go on."""


@dataclass(frozen=True)
class Group:
    """Verbs under a common word."""

    summary: str
    verbs: Mapping[str, Verb]


# ---- from arguments to a call ------------------------------------------------------------------------------


def dispatch(
    verbs: Mapping[str, Verb | Group], args: Sequence[str], about: str, path: str = "flowlab"
) -> None:
    """Run the verb that `args` names, or print what there is to choose from."""
    if not args or args[0] in HELP:
        print(_group_help(verbs, about, path))
        return
    found = lookup(verbs, args[0], f"verb of `{path}`")
    if isinstance(found, Group):
        dispatch(found.verbs, args[1:], found.summary, f"{path} {args[0]}")
    else:
        _invoke(found, f"{path} {args[0]}", list(args[1:]))


def _invoke(verb: Verb, path: str, args: list[str]) -> None:
    given: list[Any] = []
    if verb.subject:
        if args and args[0] in HELP:
            _help(verb, f"{path} {verb.subject}{' ...' if verb.several else ''}")
        subjects = _subjects(verb, path, args)
        given.append(tuple(dict.fromkeys(subjects)) if verb.several else next(iter(subjects), None))
        path, args = " ".join([path, *subjects]), args[len(subjects) :]
    if verb.config is not None:
        config = verb.config(given[0], "--debug" in args)
        options = _parse(_with_fields(verb.options, config), args, path, verb)
        given.append(options.config)
    else:
        options = _parse(verb.options, args, path, verb)
    try:
        verb.run(*given, options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(verb.if_stopped) from None


def _subjects(verb: Verb, path: str, args: Sequence[str]) -> tuple[str, ...]:
    """The first argument; of a verb that takes several, all before the first option."""
    words = tuple(itertools.takewhile(lambda word: not word.startswith("-"), args))
    if not words and not verb.optional:
        choice = f"; choose from: {', '.join(verb.names())}" if verb.names else ""
        raise ValueError(f"`{path}` needs {verb.subject} as its first argument{choice}")
    return words if verb.several else words[:1]


def _with_fields(options: type, config: Any) -> type:
    """The options and, beside them, every field of `config` with its value as the default."""
    import tyro

    field = ("config", Annotated[type(config), tyro.conf.arg(name="")], dataclasses.field(default=config))
    return dataclasses.make_dataclass(options.__name__, [field], bases=(options,), frozen=True, kw_only=True)


def _parse(kind: type, args: list[str], path: str, verb: Verb, more: Sequence[str] = ()) -> Any:
    import tyro

    description = "\n".join([verb.summary, *more, "", "examples:", *(f"  {line}" for line in verb.examples)])
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                _spelled(kind),
                args=args,
                prog=path,
                description=description,
                config=(tyro.conf.FlagCreatePairsOff,),
                registry=verb.registry() if verb.registry else None,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_unboxed(complaint.getvalue())}; `{path} --help` lists every option") from None


def _spelled(options: type) -> type:
    """The options under the names that their metadata say: "option" (such as a Python keyword), "aliases"."""
    import tyro

    hints = typing.get_type_hints(options)
    own = [
        (one.name, Annotated[hints[one.name], tyro.conf.arg(**_spelling(one.metadata))], _default(one))
        for one in dataclasses.fields(options)
        if one.metadata.keys() & {"option", "aliases"}
    ]
    if not own:
        return options
    return dataclasses.make_dataclass(options.__name__, own, bases=(options,), frozen=True, kw_only=True)


def _spelling(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": metadata.get("option"), "aliases": metadata.get("aliases")}


def _default(one: dataclasses.Field[Any]) -> Any:
    return dataclasses.field(default=one.default)


# ---- help --------------------------------------------------------------------------------------------------


def _group_help(verbs: Mapping[str, Verb | Group], about: str, path: str) -> str:
    lines = [f"usage: {path} VERB ...", "", about, "", "verbs:"]
    lines += [f"  {name:<12} {verb.summary}" for name, verb in verbs.items()]
    examples = [verb.examples[0] for verb in verbs.values() if isinstance(verb, Verb)]
    lines += ["", "examples:", *(f"  {line}" for line in examples), "", f"`{path} VERB --help` says more."]
    return "\n".join(lines)


def _help(verb: Verb, path: str) -> None:
    """The help of a verb without its subject; where the configuration depends on that, without its fields."""
    lines = []
    if verb.names:
        names = verb.names()
        width = max(map(len, names)) + 2
        lines += [
            "",
            f"{verb.subject} is one of:",
            *(f"  {name:<{width}}{about}" for name, about in names.items()),
        ]
    if verb.config and verb.names:
        lines += [
            "",
            f"Each field of its configuration is an option too: `{path} --help` with a name lists them.",
        ]
    fixed = verb.config("", False) if verb.config and not verb.names else None
    _parse(_with_fields(verb.options, fixed) if fixed else verb.options, ["--help"], path, verb, lines)


# ---- faults ------------------------------------------------------------------------------------------------


def guarded(action: Callable[[], None]) -> int:
    """Run `action`; the exit code: 0, 2 for a user's fault (one line on stderr), 130 for Ctrl-C."""
    try:
        action()
        return 0
    except KeyboardInterrupt as stop:
        print(f"\nstopped; {stop or 'the same command starts again'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as problem:
        fault = fault_of(problem)
        if fault is None or os.environ.get("FLOWLAB_TRACEBACK") == "1":
            raise
        print(f"error: {fault}", file=sys.stderr)
        return 2


def fault_of(problem: Exception) -> str | None:
    """One line for what a user can cause; None for what is a mistake of flowlab."""
    text = " ".join(str(problem).split())
    if isinstance(problem, ModuleNotFoundError):
        from flowlab.verbs.doctor import remedy

        return remedy(str(problem.name).split(".")[0])
    if "No space left on device" in text or getattr(problem, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({text}); free some space and run the same command again"
    if isinstance(problem, OSError):
        place = problem.filename or "a file"
        return f"{place}: {problem.strerror or text}; check the path and its permissions"
    if isinstance(problem, (ValueError, MemoryError)):
        return text or type(problem).__name__
    return None


def _unboxed(complaint: str) -> str:
    """tyro's framed message (title, message, suggestions) as one line: message and first suggestion."""
    framed = complaint.startswith("╭")  # without Unicode the title is a section of its own
    lines = [line.strip(" │").replace("─", "-") for line in complaint.splitlines() if line[:1] not in "╭╰"]
    sections = [" ".join(section.split()) for section in re.split(r"-{5,}", "\n".join(lines))]
    message, *others = sections if framed else sections[1:]
    suggestion = re.search(r"Perhaps you meant: (--\S+)", " ".join(others))
    return f"{message}; perhaps {suggestion.group(1)}" if suggestion else message
