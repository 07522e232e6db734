"""Files, functions, classes and folders stay small enough to read."""

import ast
import statistics

ROOM_EXEMPT = {"conf", "assets"}


def code_lines(node: ast.AST, text: str) -> int:
    """Lines of a function that hold code: no blank lines, comments or docstring."""
    lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
    body = node.body[0]
    doc = isinstance(body, ast.Expr) and isinstance(body.value, ast.Constant) and isinstance(body.value.value, str)
    skip = range(body.lineno - node.lineno, body.end_lineno - node.lineno + 1) if doc else range(0)
    return sum(1 for i, line in enumerate(lines) if i not in skip and line.strip() and not line.strip().startswith("#"))


def test_files_have_at_most_600_lines_and_nearly_all_300(sources):
    lengths = {s.name: s.text.count("\n") for s in sources}
    assert not {n: k for n, k in lengths.items() if k > 600}
    long = {n: k for n, k in lengths.items() if k > 300}
    assert len(long) <= 0.1 * len(lengths), long


def test_functions_have_at_most_80_code_lines_and_nine_in_ten_40(sources):
    lengths = {name: code_lines(node, s.text) for s in sources for name, node in s.functions()}
    assert not {n: k for n, k in lengths.items() if k > 80}
    assert statistics.quantiles(lengths.values(), n=10)[8] <= 40


def test_classes_have_at_most_400_lines(sources):
    assert not [n for s in sources for n, c in s.classes() if c.end_lineno - c.lineno >= 400]


def test_folders_are_few_and_flat(root, sources):
    package = root / "anemone"
    folders = {s.path.parent.relative_to(package) for s in sources} - {(package / ".").relative_to(package)}
    folders = {f for f in folders if f.parts and f.parts[0] not in ROOM_EXEMPT}
    assert len(folders) <= 35
    assert not [f for f in folders if len(f.parts) > 2]


def test_functions_take_few_parameters(sources):
    """12 in all, 20 for constructors in features/ and nn/; 3 positional beside self and tensors."""
    wrong = []
    for s in sources:
        for name, node in s.functions():
            a = node.args
            everything = [*a.posonlyargs, *a.args, *a.kwonlyargs]
            constructor = node.name == "__init__" and s.name.startswith(("anemone/features/", "anemone/nn/"))
            if len(everything) > (20 if constructor else 12):
                wrong.append(f"{name}: {len(everything)} parameters")
            required = [*a.posonlyargs, *a.args][: len(a.posonlyargs) + len(a.args) - len(a.defaults)]
            plain = [p for p in required if p.arg not in {"self", "cls"} and not is_tensor(p.annotation)]
            if len(plain) > 3 and not node.name.startswith("_"):
                wrong.append(f"{name}: {[p.arg for p in plain]} are positional")
    assert not wrong


def is_tensor(annotation: ast.expr | None) -> bool:
    return annotation is not None and "Tensor" in ast.unparse(annotation)


def test_no_drawer_for_odds_and_ends(sources):
    banned = {"utils", "common", "helpers", "misc", "base", "core", "manager", "mixin", "util", "helper"}
    words = {s.name: set(s.name.removesuffix(".py").replace("/", "_").split("_")) for s in sources}
    assert not {name: w & banned for name, w in words.items() if w & banned}


def test_no_function_is_written_twice(sources):
    seen: dict[str, str] = {}
    twice = []
    for s in sources:
        for name, node in s.functions():
            if node.end_lineno - node.lineno + 1 < 10:
                continue
            body = ast.dump(
                ast.Module([n for n in node.body if not isinstance(getattr(n, "value", None), ast.Constant)], [])
            )
            if body in seen:
                twice.append((seen[body], name))
            seen[body] = name
    assert not twice
