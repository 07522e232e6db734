"""Everything public is annotated and documented; forwards have ports; settings have docstrings."""

import ast
import re


def public(name: str) -> bool:
    return not name.startswith("_")


def test_every_parameter_is_annotated(sources):
    bare = []
    for s in sources:
        for name, node in s.functions():
            a = node.args
            everything = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
            bare += [f"{name}({p.arg})" for p in everything if p.annotation is None and p.arg not in {"self", "cls"}]
            bare += [f"{name} -> ?"] if node.returns is None else []
    assert not bare


def test_every_public_definition_is_documented(sources):
    """Modules, classes, functions and methods; overriding a documented hook of a library counts as documented there."""
    silent = [s.name for s in sources if not ast.get_docstring(s.tree) and s.text.strip()]
    for s in sources:
        holders = [s.tree, *(c for _, c in s.classes() if public(c.name))]
        for holder in holders:
            for node in holder.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and public(node.name):
                    if ast.get_docstring(node) or one_line_kind(node):
                        continue
                    silent.append(f"{s.name}:{node.lineno} {node.name}")
    assert not silent


def one_line_kind(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and ast.get_docstring(node) is not None


def test_every_forward_in_models_and_nn_has_ports(sources):
    """Of all that holds tensors: ports, sequences or NamedTuples of ports; switches hold none."""
    port = re.compile(r"\w+\[Tensor, ")
    fields = {c.name: [a for a in c.body if isinstance(a, ast.AnnAssign)] for s in sources for _, c in s.classes()}
    tuples = {name for name, own in fields.items() if own and all(port.search(ast.unparse(a)) for a in own)}

    def fits(hint: ast.expr | None) -> bool:
        text = ast.unparse(hint) if hint else ""
        return bool(port.search(text)) or text == "bool" or text.removesuffix(" | None") in tuples

    without = []
    for s in sources:
        if s.name.startswith(("anemone/models/", "anemone/nn/", "anemone/features/")):
            for name, node in s.functions():
                if node.name == "forward":
                    a = node.args
                    hints = [p.annotation for p in [*a.args[1:], *a.kwonlyargs]]
                    if node.returns is None or not all(map(fits, hints)):
                        without.append(name)
    assert not without


def test_every_setting_is_documented(sources):
    """Below each field of a config dataclass stands its docstring."""
    silent = []
    for s in sources:
        for _, cls in s.classes():
            if not (cls.name.endswith("Config") and cls.decorator_list):
                continue
            for node, after in zip(cls.body, [*cls.body[1:], None], strict=True):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if isinstance(node, ast.AnnAssign) and not documented:
                    silent.append(f"{s.name}:{node.lineno} {cls.name}.{node.target.id}")
    assert not silent


def test_no_pass_through_keywords_or_feature_tests(sources):
    wrong = []
    for s in sources:
        for node in ast.walk(s.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
                wrong.append(f"{s.name}:{node.lineno} hasattr")
        for name, node in s.functions():
            if node.args.kwarg and ast.unparse(node.args.kwarg.annotation) == "Any" and node.name != "hook":
                wrong.append(f"{name} takes **{node.args.kwarg.arg}: Any")
    assert not wrong


def test_inheritance_is_shallow(sources):
    """At most two steps between a class of the package and a class from outside."""
    parents = {c.name: [ast.unparse(b).split(".")[-1] for b in c.bases] for s in sources for _, c in s.classes()}
    parents = {name: bases for name, bases in parents.items() if name not in {"Kind"}}

    def steps(name: str) -> int:
        return max((1 + steps(b) for b in parents.get(name, []) if b in parents and b != name), default=0)

    assert not {name: steps(name) for name in parents if steps(name) > 2}


def test_no_traces_of_where_the_work_was_done(root):
    banned = re.compile(r"/work/|/root/|\.\./shared|pypi\.org|files\.pythonhosted|registry\.npmjs|deb\.debian\.org")
    import subprocess

    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True).stdout.split("\n")
    wrong = []
    for name in filter(None, tracked):
        path = root / name
        if path == root / "tests/house/test_words.py" or not path.is_file():
            continue
        text = path.read_bytes()
        if b"\0" not in text[:1000] and (found := banned.search(text.decode("utf-8", "replace"))):
            wrong.append(f"{name}: {found[0]}")
    assert not wrong
