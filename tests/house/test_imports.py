"""Arrows between rooms point one way, and starting up stays light."""

import ast
import subprocess
import sys

# room -> the rooms it may import. `anemone` itself (errors, types, config, cache) may be imported by all.
GROUND = {"errors", "cache", "config", "types"}
ARROWS = {
    "errors": set(),
    "cache": set(),
    "config": {"errors"},
    "types": {"errors"},
    "data": GROUND,
    "features": GROUND,
    "nn": GROUND,
    "models": GROUND | {"nn"},
    "losses": GROUND | {"nn", "models"},
    "decoding": GROUND | {"nn", "models"},
    "metrics": GROUND,
    "parallel": GROUND | {"nn", "models"},
    "checkpoint": GROUND,
    "tasks": GROUND | {"data", "features", "nn", "models", "losses", "decoding", "metrics", "checkpoint"},
    "training": GROUND
    | {"data", "features", "nn", "models", "losses", "decoding", "metrics", "tasks", "checkpoint", "parallel"},
    "cli": GROUND
    | {"data", "features", "models", "metrics", "tasks", "training", "checkpoint", "decoding", "parallel"},
}
LIGHTNING_ONLY_IN = "anemone/training/"
HEAVY = {"torch", "lightning", "pytorch_lightning", "hydra", "omegaconf", "pyarrow", "numpy", "soundfile"}


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_rooms_import_only_what_lies_before_them(sources):
    wrong = []
    for s in sources:
        room = s.module.split(".")[1] if "." in s.module else ""
        if room in {"", "testing", "__main__"}:
            continue
        used = {name.split(".")[1] for name in imports(s.tree) if name.startswith("anemone.")}
        wrong += [f"{s.name} imports {other}" for other in used - ARROWS[room] - {room}]
    assert not wrong


def test_lightning_is_imported_by_training_alone(sources):
    users = {
        s.name for s in sources if any(n.split(".")[0] in {"lightning", "pytorch_lightning"} for n in imports(s.tree))
    }
    assert not {name for name in users if not name.startswith(LIGHTNING_ONLY_IN)}


def test_foreign_tensors_come_in_only_through_checkpoint(sources):
    loaders = {s.name for s in sources if "torch.load(" in s.text or "import pickle" in s.text}
    assert not {name for name in loaders if not name.startswith("anemone/checkpoint/")}
    for s in sources:
        for node in ast.walk(s.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("weights_only") == "True", f"{s.name}:{node.lineno}"


def test_ranks_tell_each_other_nothing_that_is_pickled(sources):
    words = ("_object_list(", "gather_object(")
    assert not {s.name for s in sources if any(word in s.text for word in words)}


def test_a_model_file_pulls_in_little(sources):
    """Import closure inside the package: 15 files, 4,000 lines."""
    by_module = {s.module: s for s in sources}

    def closure(module: str, seen: set[str]) -> set[str]:
        if module in seen or module not in by_module:
            return seen
        seen.add(module)
        for name in imports(by_module[module].tree):
            closure(name, seen)
        return seen

    for s in sources:
        if s.name.startswith("anemone/models/"):
            files = closure(s.module, set())
            assert len(files) <= 15, (s.name, files)
            assert sum(by_module[m].text.count("\n") for m in files) <= 4000


def loaded_by(code: str) -> set[str]:
    """Modules that a statement loads beyond Python's own start."""
    script = (
        f"import sys; before = set(sys.modules)\ntry:\n    {code}\nexcept SystemExit: pass\n"
        "print(*(set(sys.modules) - before), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    return set(run.stderr.split())


def test_import_anemone_is_light():
    loaded = loaded_by("import anemone")
    assert not loaded & HEAVY
    assert len(loaded) <= 150


def test_help_is_light():
    loaded = loaded_by("from anemone.cli import main; main(['--help'])")
    assert not loaded & HEAVY
    assert len(loaded) <= 150


def test_core_dependencies_are_few(root):
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    assert len(project["dependencies"]) <= 15


def test_all_outside_imports_are_declared(sources, root):
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [*project["dependencies"], *(d for group in project["optional-dependencies"].values() for d in group)]
    names = {d.split(">")[0].split("[")[0].strip().lower().replace("-", "_") for d in declared}
    distribution = {"yaml": "hydra_core", "hydra": "hydra_core", "omegaconf": "hydra_core", "mlflow": "mlflow_skinny"}
    used = {n.split(".")[0] for s in sources for n in imports(s.tree)} - set(sys.stdlib_module_names) - {"anemone"}
    assert not {u for u in used if distribution.get(u, u) not in names}
