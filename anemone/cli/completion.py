"""Print a script that makes a shell complete verbs, options, experiments, their settings, models and files.

bash:  eval "$(anemone completion bash)"            in ~/.bashrc
zsh:   eval "$(anemone completion zsh)"             in ~/.zshrc
fish:  anemone completion fish | source             in ~/.config/fish/config.fish
"""

import argparse
import dataclasses
import json
import re
import types
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from anemone.cli import VERBS, parser_of, within
from anemone.config import CONF, experiments, kind_of

Settings = dict[str, list[str]]
"""A setting's dotted name -> the values it may have, where they can be listed."""

SCRIPTS = {
    "bash": """\
_anemone() {
    local line="${COMP_LINE:0:COMP_POINT}" words found
    read -ra words <<< "$line"
    [[ "$line" == *" " ]] && words+=("")
    local word="${words[${#words[@]}-1]}" IFS=$'\\n'
    found=($("${words[0]}" complete "${words[@]:1}" 2>/dev/null))
    [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]] && found=("${found[@]#"${word%%=*}="}")
    COMPREPLY=("${found[@]}")
    [[ ${#found[@]} -gt 0 && "${found[0]}" == *[=.] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -o bashdefault -F _anemone anemone
""",
    "zsh": """\
_anemone() {
    local -a found
    found=("${(@f)$("${words[1]}" complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})
    if (( ${#found} == 0 )); then
        compset -P '*='
        _files
    else
        compadd -S '' -- ${(M)found:#*[=.]}
        compadd -- ${found:#*[=.]}
    fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _anemone anemone
""",
    "fish": """\
function __anemone_complete
    set -l words (commandline -opc)
    set -l found ($words[1] complete $words[2..] (commandline -ct) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c anemone -f -a '(__anemone_complete)'
""",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the verb takes."""
    parser.add_argument("shell", choices=list(SCRIPTS), metavar="SHELL", help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    print(SCRIPTS[args.shell], end="")
    return 0


def complete(words: Sequence[str]) -> int:
    """Prints what the last word can become, one candidate a line; nothing where a shell should offer files.

    Args:
        words: those after ``anemone``, up to the cursor.
    """
    for found in candidates(words or [""]):
        print(found)
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """Returns what the last of some words can become.

    Example:
        >>> candidates(["tra"]), candidates(["models", "--j"]), candidates(["completion", ""])
        (['train', 'transcribe'], ['--json'], ['bash', 'zsh', 'fish'])
    """
    *before, word = words
    if not before:
        return _beginning(word, [*VERBS, "--help", "--version"])
    if before[0] not in VERBS:
        return []
    verb, rest = within(before[0], before[1:])
    parser, _ = parser_of(verb)
    options = {option: action for action in parser._actions for option in action.option_strings}
    if word.startswith("-"):
        return _beginning(word, [option for option in options if option.startswith("--")])
    if (option := options.get(before[-1])) and option.nargs != 0:
        return _beginning(word, [str(choice) for choice in option.choices or ()])
    placed = _positionals(rest, options)
    actions = [action for action in parser._actions if not action.option_strings]
    if not actions or (len(placed) >= len(actions) and actions[-1].nargs not in ("*", "+")):
        return []
    action = actions[min(len(placed), len(actions) - 1)]
    if action.dest == "overrides":
        return _settings_beginning(word, settings(placed[0], [text for text in placed[1:] if PICK.match(text)]))
    names = [str(choice) for choice in action.choices] if action.choices else NAMES.get(action.dest, list)()
    return _beginning(word, names)


def _pretrained() -> list[str]:
    from anemone.checkpoint.registry import pretrained

    return [entry.name for entry in pretrained()]


PICK = re.compile(r"[+~]*(\w+|\w[\w.]*\.kind)=")
"""An override that changes which settings there are."""

NAMES: dict[str, Callable[[], list[str]]] = {
    "experiment": experiments,
    "model": _pretrained,
    "subject": lambda: [*experiments(), *_pretrained()],
}
"""What can stand in the place of an argument, beside files."""


def _beginning(word: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(word)]


def _positionals(words: Sequence[str], options: dict[str, argparse.Action]) -> list[str]:
    """The words that are neither options nor values of options."""
    placed, skip = [], False
    for word in words:
        if skip or word.startswith("-"):
            skip = not skip and word in options and options[word].nargs != 0
        else:
            placed.append(word)
    return placed


# --- settings of an experiment ----------------------------------------------------------------------------------------


def settings(experiment: str, overrides: Sequence[str] = ()) -> Settings:
    """Returns all settings of an experiment, and the groups of which it can pick a file.

    They are read from the code, which takes seconds, so they are kept in the cache until code or YAML change.
    """
    from anemone.cache import cache_folder

    package = Path(__file__).parents[1]
    sources = [
        *package.rglob("*.py"),
        *CONF.rglob("*.yaml"),
        *([Path(experiment)] if Path(experiment).is_file() else []),
    ]
    state = [experiment, *overrides, *sorted(f"{path} {path.stat().st_mtime_ns}" for path in sources)]
    kept = cache_folder() / "completion" / f"{sha256(chr(0).join(state).encode()).hexdigest()[:16]}.json"
    if not kept.exists():
        from anemone.training.settings import experiment as decoded

        config = decoded(experiment, overrides)
        groups = {
            path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in CONF.iterdir() if path.is_dir()
        }
        groups.pop("experiment", None)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(_settings_of(type(config), config, "") | groups), "utf-8")
    found: Settings = json.loads(kept.read_text("utf-8"))
    return found


def _settings_of(cls: type, config: Any, path: str) -> Settings:
    """Settings of a config dataclass; ``config`` says which kinds are picked, None for none."""
    hints = get_type_hints(cls)
    found: Settings = {}
    for field in dataclasses.fields(cls):
        value = getattr(config, field.name, None)
        name = f"{path}{field.name}"
        inner = [hint for hint in _alternatives(hints[field.name]) if dataclasses.is_dataclass(hint)]
        if kinds := field.metadata.get("kinds"):
            found[f"{name}.kind"] = list(kinds)
            found |= _settings_of(type(value), value, f"{name}.") if value is not None else {}
        elif steps := field.metadata.get("listed"):
            found[name] = []
            for i, step in enumerate(value or ()):
                found |= _settings_of(type(step), step, f"{name}.{i}.{kind_of(steps, step)}.")
        elif inner:
            found |= _settings_of(inner[0], value, f"{name}.")  # type: ignore[arg-type]
        else:
            found[name] = _choices(hints[field.name])
    return found


def _alternatives(hint: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    return list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]


def _choices(hint: Any) -> list[str]:
    listed: list[str] = []
    for part in _alternatives(hint):
        if get_origin(part) is Literal:
            listed += [str(choice) for choice in get_args(part)]
        elif part is bool:
            listed += ["true", "false"]
    return listed


def _settings_beginning(word: str, known: Settings) -> list[str]:
    """Candidates up to the next dot, so that a tree of settings is walked level by level; after ``=``, values.

    Example:
        >>> known = {"optim": ["lion"], "optim.lr": [], "optim.kind": ["lion", "muon"], "run.seed": []}
        >>> [_settings_beginning(word, known) for word in ("", "optim.", "optim.kind=m")]
        [['optim=', 'optim.', 'run.'], ['optim.lr=', 'optim.kind='], ['optim.kind=muon']]
    """
    name, equals, value = word.partition("=")
    if equals:
        return [f"{name}={choice}" for choice in known.get(name, []) if choice.startswith(value)]
    start = len(word.rpartition(".")[0]) + 1 if "." in word else 0
    ends = []
    for key in known:
        if key.startswith(word):
            segment, dot, _ = key[start:].partition(".")
            ends.append(key[:start] + segment + (dot or "="))
    return list(dict.fromkeys(ends))
