"""Configs: Hydra composes plain trees, `decode` makes dataclasses of them and says what is wrong.

A config is a frozen, keyword-only dataclass beside the class it configures. YAML under ``conf/`` holds values only; a
key that could name code (``_target_``, ``hydra``) is refused wherever it stands, and so is ``${...}``, which could read
the environment. Where one of several dataclasses may stand, the field is ``of_kind(TABLE)`` and the tree says which by
``kind: name``; the tables are in the code.
"""

import dataclasses
import difflib
import importlib
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from anemone.errors import ConfigError

CONF = Path(__file__).parent / "conf"
LARGEST = 2**63  # no number is as large as this
MOST_VALUES = 1_000_000  # of a config
EMPTY: Mapping[str, Any] = types.MappingProxyType({})
Tree = dict[str, Any]
C = TypeVar("C")


def nearest(word: str, names: Iterable[str], *, by: Callable[[str], str] = str) -> str:
    """Returns the advice " Did you mean `x`?" for the closest name, or an empty string.

    Args:
        word: what was written.
        names: what could have been.
        by: what of a name is compared: all of it, its `last_part`, or its `stem`.
    """
    full = {by(name): name for name in names}
    close = difflib.get_close_matches(by(word), full, n=1)
    return f" Did you mean `{full[close[0]]}`?" if close else ""


def last_part(name: str) -> str:
    """What follows the last dot in the name of a setting, a module or a class."""
    return name.rpartition(".")[2]


def stem(path: str) -> str:
    """The name of a file without its folder and ending."""
    return Path(path).stem


# --- tables of kinds --------------------------------------------------------------------------------------------------


def of_kind(table: Mapping[str, str], *, optional: bool = False, default: str = "") -> Any:
    """A field that holds one of several dataclasses, picked by ``kind:``.

    Args:
        table: kind -> "module:Class", imported only when picked.
        optional: whether the field may be left out, or null.
        default: the kind that stands, with its defaults, for a field that is left out.
    """
    metadata = {"kinds": table}
    if default:
        return dataclasses.field(default_factory=lambda: load_class(table[default])(), metadata=metadata)
    return dataclasses.field(default=None, metadata=metadata) if optional else dataclasses.field(metadata=metadata)


def list_of_kind(table: Mapping[str, str]) -> Any:
    """A field that holds a tuple of dataclasses, each picked by its name: ``[{name: {setting: value}}, ...]``.

    Args:
        table: name -> "module:Class", imported only when picked.
    """
    return dataclasses.field(default=(), metadata={"listed": table})


def load_class(name: str) -> Any:
    """Imports "module:Class", a name written in one of our own tables."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


# --- composition ------------------------------------------------------------------------------------------------------


def experiments() -> list[str]:
    """Names of the experiments that ship with the package."""
    return sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def compose(experiment: str, overrides: Sequence[str] = ()) -> Tree:
    """Composes an experiment and its overrides into a plain tree.

    ``key=value`` sets a value whether or not the YAML lists it (`decode` refuses keys that are no settings), and picks
    a file where ``key`` is a group: ``model=quartznet_5x5``.

    Args:
        experiment: a name under ``conf/experiment``, or the path of a YAML file of the same shape.
        overrides: in Hydra's grammar, such as ``optim.lr=0.001``, ``data.train=[a.json,b.json]`` or ``~schedule``.

    Raises:
        ConfigError: unknown experiment or group, bad grammar, a missing value, a key that could name code, or a value
            to be taken from elsewhere.
    """
    from hydra import initialize_config_dir
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    folder, name = _find(experiment)
    search = [f"hydra.searchpath=[file://{CONF}]"]
    groups = {path.name for path in [*CONF.iterdir(), *folder.iterdir()] if path.is_dir()}
    asked = [_override(text, groups) for text in overrides]
    try:
        with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
            tree = _composed(name, [*search, *asked])
    except MissingConfigException as error:
        missing = (error.missing_cfg_file or "").removesuffix(".yaml")
        options = [f"{missing.rpartition('/')[0]}/{option}" for option in error.options or []]
        raise ConfigError(
            f"`{experiment}` asks for `{missing}`, which does not exist.{nearest(missing, options, by=stem)}"
            + (f" There are: {', '.join(options)}." if options else "")
        ) from error
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        lines = str(error).strip().splitlines()
        first = " ".join(line.strip() for line in (lines if isinstance(error, YAMLError) else lines[:1])).rstrip(".")
        hint = " Write a list as [a,b]; with --multirun, a,b is a run for each." if "Ambiguous value" in first else ""
        raise ConfigError(f"`{experiment}` with {list(overrides)} cannot be composed: {first}.{hint}") from error
    refuse_code(tree)
    _refuse_interpolation(tree)
    return {str(key): value for key, value in tree.items()}


def _composed(name: str, asked: list[str]) -> Any:
    """Hydra's tree, unresolved. A group that is picked, but stands in no defaults list, is laid over the tree."""
    from hydra import compose as hydra_compose
    from hydra.errors import ConfigCompositionException
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(hydra_compose(name, asked), resolve=False, throw_on_missing=True)
    except ConfigCompositionException as error:
        absent = re.match(r"Could not override '(\w+)'\.\s+No match in the defaults list", str(error))
        added = [f"+{text}" if absent and text.startswith(f"{absent[1]}=") else text for text in asked]
        if added == asked:
            raise
    return _composed(name, added)


def _find(experiment: str) -> tuple[Path, str]:
    """The folder Hydra starts from, and the config's name in it."""
    path = Path(experiment)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ConfigError(f"`{experiment}` must be a YAML file that exists.")
        _refuse_hydra_node(path)
        return path.parent.absolute(), path.stem
    if experiment not in experiments():
        raise ConfigError(
            f"`{experiment}` is not an experiment.{nearest(experiment, experiments())}"
            f" There are: {', '.join(experiments())}; or give the path of a YAML file."
        )
    return CONF / "experiment", experiment


def _override(text: str, groups: set[str]) -> str:
    """One override as Hydra wants it: values are set whether listed or not, groups are picked."""
    key, equals, value = text.partition("=")
    bare = key.lstrip("+~")
    if not bare or not (equals or key.startswith("~")):
        raise ConfigError(f"`{text}` must be an override of the form key=value.")
    refuse_code({bare.partition("@")[0]: {}})
    must(bare != "experiment", "experiment", "named before its settings", value=value)
    if key.startswith("~"):
        return text
    if bare in groups and not value.startswith("{"):
        must(
            re.fullmatch(r"[\w.-]+", value) is not None, bare, f"the name of a file in the group `{bare}`", value=value
        )
        return f"{bare}={value}"
    return f"++{bare}={value}"


def _refuse_hydra_node(path: Path) -> None:
    import yaml

    try:
        tree = yaml.safe_load(path.read_text("utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"`{path}` is not YAML: {error}") from error
    refuse_code(tree, f"{path}: ")
    _refuse_interpolation(tree, where=f"{path}: ")


def refuse_code(tree: Any, where: str = "") -> None:
    """Raises if any key of a tree could name code to run: ``_target_``, ``_partial_``, ``hydra`` and the like.

    Raises:
        ConfigError: naming the key; or the tree has no end, or too many values, as aliases of YAML make them.
    """
    todo, count = [tree], 0
    while todo:
        part = todo.pop()
        values = [*part.values()] if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
        for key in part if isinstance(part, Mapping) else ():
            if any(word == "hydra" or (word.startswith("_") and word.endswith("_")) for word in str(key).split(".")):
                raise ConfigError(f"`{where}{key}` is refused: a config holds values and never names code to run.")
        count += len(values)
        if count > MOST_VALUES:
            raise ConfigError(f"{where or 'a config '}must hold at most {MOST_VALUES:,} values, with those of aliases.")
        todo += values


def _refuse_interpolation(tree: Any, path: str = "", where: str = "") -> None:
    """Raises if a value would be taken from elsewhere: ``${...}`` can read the environment, and runs show settings."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            _refuse_interpolation(value, f"{path}.{key}".removeprefix("."), where)
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            _refuse_interpolation(value, f"{path}[{i}]", where)
    elif isinstance(tree, str) and "${" in tree:
        must(False, where + path, "written out, as interpolations are refused", value=tree)


# --- decoding ---------------------------------------------------------------------------------------------------------


def must(ok: bool, path: str, rule: str, *, value: object, hint: str = "") -> None:
    """Raises ConfigError "`path` must be rule, but is value instead." unless ``ok``.

    Raises:
        ConfigError: if not ``ok``.
    """
    if not ok:
        raise ConfigError(f"`{path}` must be {rule}, but is {value!r} instead.{hint and ' ' + hint}", path=path)


def decode(cls: type[C], tree: Any, path: str = "") -> C:
    """Makes a config dataclass of a plain tree, strictly.

    A single value may stand for a list of one, a whole float for an int, and a number for a string.

    Args:
        cls: the dataclass.
        tree: what `compose` gives.
        path: where the tree hangs, for messages.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, an impossible value; names the setting and the nearest.
    """
    must(isinstance(tree, Mapping), path or cls.__name__, f"a group of settings ({cls.__name__})", value=tree)
    at = f"{path}." if path else ""
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in tree:
        if key not in fields:
            advice = nearest(str(key), [f"{at}{name}" for name in fields], by=last_part) or _deeper(cls, tree, key, at)
            raise ConfigError(f"`{at}{key}` is not a setting of {cls.__name__}.{advice}", path=f"{at}{key}")
    values = {}
    for name, field in fields.items():
        if name in tree:
            kinds = field.metadata.get("kinds")
            value = tree[name]
            if "listed" in field.metadata:
                values[name] = decode_list(field.metadata["listed"], value, at + name)
            elif kinds is None:
                values[name] = _value(hints[name], value, at + name)
            elif value is not None or field.default is dataclasses.MISSING:
                values[name] = _of_kind(kinds, value, at + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"`{at}{name}` must be set: {cls.__name__} has no default for it.", path=at + name)
    try:
        return cls(**values)
    except ConfigError as error:
        full = (at + error.path).rstrip(".")
        raise ConfigError(str(error).replace(f"`{error.path}`", f"`{full}`", 1), path=full) from None


def _deeper(cls: type, tree: Mapping[Any, Any], key: object, at: str) -> str:
    """Advice for a name that stands, itself or nearly, further down in a config: all of it, for up to three places."""
    names = _settings(cls, tree, at)
    close = difflib.get_close_matches(last_part(str(key)), {last_part(name) for name in names}, n=1)
    found = [f"`{name}`" for name in names if last_part(name) in close][:3]
    return f" Did you mean {' or '.join(found)}?" if found else ""


def _settings(cls: Any, tree: Any, at: str) -> list[str]:
    """Names of the settings of a config dataclass and of those within it, in which kinds are picked as a tree says."""
    names, hints, tree = [], get_type_hints(cls), tree if isinstance(tree, Mapping) else {}
    for field in dataclasses.fields(cls):
        kinds, value = field.metadata.get("kinds", {}), tree.get(field.name)
        kind = value.get("kind") if isinstance(value, Mapping) else value
        inner = load_class(kinds[kind]) if isinstance(kind, str) and kind in kinds else hints[field.name]
        below = _settings(inner, value, f"{at}{field.name}.") if dataclasses.is_dataclass(inner) else []
        names += [f"{at}{field.name}", *below]
    return names


def _of_kind(kinds: Mapping[str, str], tree: Any, path: str) -> Any:
    """Decodes the dataclass that ``kind`` names; a kind alone stands for its defaults."""
    tree = {"kind": tree} if isinstance(tree, str) else tree
    must(isinstance(tree, Mapping), path, f"a group of settings with a `kind` out of {sorted(kinds)}", value=tree)
    if "kind" not in tree:
        raise ConfigError(f"`{path}.kind` must be set, to one of {sorted(kinds)}.", path=f"{path}.kind")
    kind = tree["kind"]
    must(
        isinstance(kind, str) and kind in kinds,
        f"{path}.kind",
        f"one of {sorted(kinds)}",
        value=kind,
        hint=nearest(str(kind), kinds).strip(),
    )
    return decode(load_class(kinds[kind]), {k: v for k, v in tree.items() if k != "kind"}, path)


def decode_list(table: Mapping[str, str], tree: Any, path: str) -> tuple[Any, ...]:
    """Makes config dataclasses of a list of ``name: {setting: value}``; a name alone stands for its defaults.

    A mapping may stand for the list where no name comes twice: it is taken in its order, without those that are null.

    Args:
        table: name -> "module:Class".
        tree: the list.
        path: where it hangs, for messages.

    Raises:
        ConfigError: not such a list, or an unknown name or setting; names the nearest.
    """
    if isinstance(tree, Mapping):
        tree = [{name: settings} for name, settings in tree.items() if settings is not None]
    must(isinstance(tree, list | tuple), path, "a list of steps, such as [{name: {setting: value}}]", value=tree)
    decoded = []
    for i, item in enumerate(tree):
        at = f"{path}[{i}]"
        item = {item: None} if isinstance(item, str) else item
        if not isinstance(item, Mapping):
            must(dataclasses.is_dataclass(item), at, "one name with its settings, {name: {...}}", value=item)
            decoded.append(item)
            continue
        must(len(item) == 1, at, "one name with its settings, {name: {...}}", value=dict(item))
        ((name, settings),) = item.items()
        known = isinstance(name, str) and name in table
        must(known, at, f"one of {sorted(table)}", value=name, hint=nearest(str(name), table).strip())
        decoded.append(decode(load_class(table[name]), {} if settings is None else settings, f"{at}.{name}"))
    return tuple(decoded)


def _value(hint: Any, value: Any, path: str) -> Any:
    """Decodes one value to its annotated type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(args, value, path)
    if origin is Literal:
        same = [choice for choice in args if choice == value or (isinstance(choice, str) and choice == str(value))]
        close = nearest(str(value), [str(choice) for choice in args]).strip()
        must(bool(same), path, f"one of {list(args)}", value=value, hint=close)
        return same[0]
    if origin is tuple:
        return _tuple(args, value, path)
    if origin is dict:
        must(isinstance(value, Mapping), path, "a mapping", value=value)
        return {str(key): _value(args[1], item, f"{path}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else decode(hint, value, path)  # type: ignore[arg-type]
    if hint is type(None):
        must(value is None, path, "null", value=value)
        return None
    return _scalar(hint, value, path)


def _scalar(hint: Any, value: Any, path: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    small = hint not in (int, float) or not number or abs(value) < LARGEST
    must(small, path, "a finite number below 2**63", value=value)
    accepted, rule, convert = {
        bool: (isinstance(value, bool), "true or false", bool),
        int: (number and float(value).is_integer(), "a whole number", int),
        float: (number, "a number", float),
        str: (isinstance(value, str) or number, "a string", str),
    }[hint]
    must(accepted, path, rule, value=value)
    return convert(value)


def _tuple(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if args[-1] is Ellipsis:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(args[0], item, f"{path}[{i}]") for i, item in enumerate(items))
    must(isinstance(value, list | tuple) and len(value) == len(args), path, f"a list of {len(args)}", value=value)
    return tuple(_value(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(args, value, strict=True)))


def _union(args: tuple[Any, ...], value: Any, path: str) -> Any:
    """The first alternative that takes the value; the last one's complaint if none does."""
    if value is None and type(None) in args:
        return None
    alternatives = [hint for hint in args if hint is not type(None)]
    for hint in alternatives[:-1]:
        try:
            return _value(hint, value, path)
        except ConfigError:
            continue
    return _value(alternatives[-1], value, path)


def encode(config: Any) -> Any:
    """Makes the plain tree `decode` reads back: tuples become lists, ``of_kind`` fields say their kind.

    Raises:
        ConfigError: an ``of_kind`` field holds an instance of a class that its table does not name.
    """
    if dataclasses.is_dataclass(config):
        return {field.name: _encode_field(field, getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: encode(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [encode(value) for value in config]
    return config


def _encode_field(field: "dataclasses.Field[Any]", value: Any) -> Any:
    if "listed" in field.metadata:
        return [{kind_of(field.metadata["listed"], item, field.name): encode(item)} for item in value]
    kinds = field.metadata.get("kinds")
    if kinds is None or value is None:
        return encode(value)
    return {"kind": kind_of(kinds, value, field.name), **encode(value)}


def kind_of(table: Mapping[str, str], value: Any, path: str = "") -> str:
    """The name a table of kinds has for the class of a config.

    Raises:
        ConfigError: none.
    """
    name = f"{type(value).__module__}:{type(value).__qualname__}"
    names = {target: kind for kind, target in table.items()}
    rule = f"of a class that stands in its table ({', '.join(table)}), or it cannot be written down and read back"
    must(name in names, path, rule, value=name)
    return names[name]
