"""One boolean condition of SQL over an index: which rows it holds for.

The condition may come from anybody, so it is parsed first, by DuckDB, and what runs is what the parsed tree says: one
expression of comparisons, arithmetic and the functions listed here, over the columns of the data set. A subquery, a
table, another statement, an aggregate, a variable of the machine has no place in such a tree. It then runs without
files, extensions or settings, in bounded time and memory. Functions whose result can be much longer than what they are
given (``repeat``, ``replace``, ``||``, ``string_split``) are not on the list: DuckDB's limit of memory does not hold
inside a function.
"""

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from anemone.config import nearest
from anemone.data.columns import Columns
from anemone.data.manifest import Index
from anemone.errors import ConfigError

Node = dict[str, Any]

SECONDS = 30.0  # a condition may take
MEMORY_MB = 512  # DuckDB may take, besides the columns
LONGEST = 20_000  # letters of a condition
DEEPEST = 200  # expressions inside each other

WORDS = {  # what may be called, and cast to
    "operators": "+ - * / // % ** ^ @ ~~ !~~ ~~* !~~* like_escape not_like_escape ilike_escape not_ilike_escape",
    "numbers": "abs ceil ceiling floor round sign sqrt ln log log2 log10 exp pow power greatest least isnan isinf "
    "isfinite",
    "texts": "length len strlen lower upper lcase ucase trim ltrim rtrim left right substring substr contains "
    "starts_with ends_with prefix suffix strpos position instr split_part regexp_matches "
    "regexp_full_match regexp_extract unicode ascii strip_accents nfc_normalize ifnull",
    "lists": "list_contains list_has array_contains array_length list_min list_max list_sum list_avg",
    "types": "boolean bool tinyint smallint integer bigint hugeint utinyint usmallint uinteger ubigint int int2 int4 "
    "int8 float double float4 float8 real decimal numeric varchar text string date time timestamp interval",
}
FUNCTIONS = sorted(f"{WORDS['numbers']} {WORDS['texts']} {WORDS['lists']}".split())
SYNTAX = {  # kinds of nodes -> the types of each that are allowed; None for all
    "CONSTANT": None,
    "COLUMN_REF": None,
    "COMPARISON": None,
    "CONJUNCTION": None,
    "BETWEEN": None,
    "CASE": None,
    "CAST": None,
    "TYPE": None,
    "FUNCTION": None,
    "OPERATOR": {
        "OPERATOR_NOT",
        "OPERATOR_IS_NULL",
        "OPERATOR_IS_NOT_NULL",
        "OPERATOR_COALESCE",
        "OPERATOR_NULLIF",
        "OPERATOR_TRY",
        "COMPARE_IN",
        "COMPARE_NOT_IN",
        "ARRAY_EXTRACT",
        "ARRAY_SLICE",
        "STRUCT_EXTRACT",
    },
}
FORBIDDEN = {  # what people may try -> how it is called
    "SUBQUERY": "a subquery",
    "WINDOW": "a window",
    "STAR": "`*` or `COLUMNS`",
    "LAMBDA": "a lambda",
    "PARAMETER": "a parameter",
    "COLLATE": "a collation",
}
TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(\w*)\$.*?\$\1\$|--|/\*|;|\w+", re.DOTALL)
WRITTEN = {"query_location", "query_location_length", "is_operator", "is_legacy_function_call"}
HEAD = "SELECT r FROM rows WHERE "


def select(
    index: Index, condition: str, *, seconds: float = SECONDS, memory_mb: int = MEMORY_MB, threads: int = 2
) -> npt.NDArray[np.int64]:
    """Returns the numbers of the rows that a condition holds for, ascending.

    Example:
        ``select(index, "duration < 2 and text like '%hello%'")``

    Args:
        index: the data set.
        condition: one boolean expression of SQL, in DuckDB's dialect. Names are those of `columns.Columns`; a field of
            an object is ``key.field``; a name that is no word of letters, digits and _ stands in double quotes.
        seconds: after which it is broken off.
        memory_mb: MiB that DuckDB may take.
        threads: that DuckDB may use.

    Raises:
        ConfigError: no such expression, something in it that is not allowed, an unknown name, too long or large, or
            DuckDB is not installed.
    """
    duckdb = _duckdb()
    with duckdb.connect(":memory:", config={"threads": threads, "memory_limit": f"{memory_mb}MB"}) as db:
        _lock(db)
        tree, names = _checked(db, condition, Columns(index))
        columns = {name: column() for name, column in names.items()}
        db.register("rows", pa.table({"r": np.arange(len(index)), **columns}))
        watch = threading.Timer(seconds, db.interrupt)
        watch.start()
        try:
            expression = _said(db, tree)
            kind = db.execute(f"SELECT typeof({expression}) FROM rows LIMIT 1").fetchall()[0][0]
            if kind != "BOOLEAN":
                raise _refused(condition, f"must be true or false of each row, but is {kind}")
            found: npt.NDArray[np.int64] = db.execute(HEAD + expression).fetchnumpy()["r"]
        except duckdb.InterruptException as error:
            raise _refused(condition, f"takes more than {seconds:g} s, so it was broken off") from error
        except (duckdb.Error, MemoryError) as error:
            raise _refused(condition, _first_line(error)) from error
        finally:
            watch.cancel()
    return np.sort(np.asarray(found, np.int64))


def _duckdb() -> Any:
    """The module, where it is installed."""
    try:
        import duckdb
    except ImportError as error:
        raise ConfigError("conditions need DuckDB: `pip install anemone[query]`.") from error
    return duckdb


def _lock(db: Any) -> None:
    """Takes from a database files, extensions, Python's variables and the right to change settings."""
    for setting in (
        "temp_directory = ''",
        "enable_external_access = false",
        "python_enable_replacements = false",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        f"max_expression_depth = {DEEPEST}",
        "lock_configuration = true",
    ):
        db.execute(f"SET {setting}").fetchall()


def _checked(db: Any, condition: str, columns: Columns) -> tuple[Node, dict[str, Callable[[], pa.ChunkedArray]]]:
    """The tree of a condition, with the names c0, c1, ... for columns; and what these are."""
    if len(condition) > LONGEST:
        raise _refused(condition[:60] + "...", f"must have {LONGEST:,} letters at most, but has {len(condition):,}")
    for token in TOKEN.finditer(condition):
        if token[0] in ("--", "/*", ";"):
            raise _refused(condition, f"must hold no comment and no semicolon, but has `{token[0]}`")
    statement, plain = (_parsed(db, text, condition) for text in (TOKEN.sub(_quoted, condition), "true"))
    where = statement["node"].get("where_clause")
    if where is None or {**statement["node"], "where_clause": None} != {**plain["node"], "where_clause": None}:
        raise _refused(condition, "must be one expression, but goes on after it")
    names: dict[str, str] = {}
    _check(where, condition, columns, names)
    return statement, {short: lambda name=name: columns[name] for name, short in names.items()}  # type: ignore[misc]


def _quoted(token: re.Match[str]) -> str:
    """``offset`` is a word of SQL and a key of manifests; it can only be meant as a key here."""
    return f'"{token[0]}"' if token[0].lower() == "offset" else token[0]


def _parsed(db: Any, text: str, condition: str) -> Node:
    """The one statement that the text is a condition of."""
    try:
        answer = json.loads(db.execute("SELECT json_serialize_sql(?)", [HEAD + text]).fetchall()[0][0])
    except Exception as error:
        raise _refused(condition, _first_line(error)) from error
    if answer["error"]:
        at = max(0, int(answer.get("position", len(HEAD))) - len(HEAD))
        after = text.encode()[at:].decode("utf-8", "replace")[:30]
        hint = f", at `{after}`" if after and "position" in answer else ""
        hint += ". A key that is a word of SQL stands in double quotes" if hint else ""
        message = answer["error_message"].split(" at or near")[0].split(". Use")[0].replace("!", "")
        raise _refused(condition, f"cannot be read: {message}{hint}")
    if len(answer["statements"]) != 1:
        raise _refused(condition, f"must be one expression, but is {len(answer['statements'])} statements")
    statement: Node = answer["statements"][0]
    return statement


def _check(tree: Any, condition: str, columns: Columns, names: dict[str, str]) -> None:
    """Refuses what is not allowed anywhere in a tree, and puts short names in the place of columns'."""
    if isinstance(tree, list):
        for item in tree:
            _check(item, condition, columns, names)
    if not isinstance(tree, dict):
        return
    kind = tree.get("class")
    if kind is not None or "node" in tree or "from_table" in tree:
        allowed = SYNTAX.get(str(kind), set())
        if allowed is not None and tree.get("type") not in allowed:
            raise _refused(condition, f"must not hold {FORBIDDEN.get(str(kind), str(tree.get('type', kind)))}")
    if kind == "COLUMN_REF":
        tree["column_names"] = _resolved(tree["column_names"], condition, columns, names)
        return
    if kind == "FUNCTION":
        _check_function(tree, condition)
    if kind == "TYPE" and (
        tree["type_name"].lower() not in WORDS["types"].split() or tree["schema"] or tree["catalog"]
    ):
        raise _refused(condition, f"must cast to numbers, texts or dates, not to `{tree['type_name']}`")
    for value in tree.values():
        _check(value, condition, columns, names)


def _check_function(node: Node, condition: str) -> None:
    name, known = node["function_name"].lower(), [*WORDS["operators"].split(), *FUNCTIONS]
    if node["schema"] or node["catalog"] or name not in known:
        raise _refused(condition, f"must not call `{name}`.{nearest(name, known)} There are: {', '.join(FUNCTIONS)}")
    if node["filter"] is not None or node["distinct"] or node["order_bys"]["orders"] or node["export_state"]:
        raise _refused(condition, f"must call `{name}` plainly")


def _resolved(parts: list[str], condition: str, columns: Columns, names: dict[str, str]) -> list[str]:
    """A column's short name and the fields after it."""
    for number in range(len(parts), 0, -1):  # a key may have a dot in it
        name = ".".join(parts[:number])
        alike = [other for other in columns if other.lower() == name.lower()]
        if name in columns or len(alike) == 1:
            short = names.setdefault(name if name in columns else alike[0], f"c{len(names)}")
            return [short, *parts[number:]]
    hint = nearest(parts[0], list(columns))
    raise _refused(condition, f"has no column `{'.'.join(parts)}`.{hint} There are: {', '.join(columns)}")


def _said(db: Any, statement: Node) -> str:
    """The expression of a checked tree, as text that is read as the same tree again."""
    text: str = db.execute(
        "SELECT json_deserialize_sql(?::JSON)", [json.dumps({"error": False, "statements": [statement]})]
    ).fetchall()[0][0]
    expression = text.partition(" WHERE ")[2]
    again = json.loads(db.execute("SELECT json_serialize_sql(?)", [HEAD + expression]).fetchall()[0][0])
    if again["error"] or _bare(again["statements"]) != _bare([statement]):
        raise _refused(expression, "cannot be said in another way that is read alike")
    return expression


def _bare(tree: Any) -> Any:
    """A tree without the places of its parts in the text, and without how they were written there."""
    if isinstance(tree, list):
        return [_bare(item) for item in tree]
    if isinstance(tree, dict):
        return {key: _bare(value) for key, value in tree.items() if key not in WRITTEN}
    return tree


def _refused(condition: str, cause: str) -> ConfigError:
    """The error about a condition; it names it in short."""
    short = condition if len(condition) <= 200 else condition[:200] + "..."
    return ConfigError(f"the condition `{short}` {cause.rstrip('.')}.")


def _first_line(error: BaseException) -> str:
    """What the database says, without the place in a text nobody wrote."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    hint = "; `try_cast(KEY as int)` is null of values that cannot be" if said.startswith("Conversion Error") else ""
    return f"cannot be used: {said.rstrip('.')}{hint}"
