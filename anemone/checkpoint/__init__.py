"""Models at rest: what is written is whole, what is read cannot run.

- `atomic`    files and folders that appear wholly or not at all
- `members`   what lies in an archive, under limits; `safe` and `tensors` read it without running it
- `archive`   our own archives: `Archive`, `read_archive`, `write_archive`; `card` writes their model cards
- `nemo`      reads the peer's archives, by the tables in `names/`
- `huggingface`  reads and writes models in Hugging Face's format, in any layout over ranks
- `sharded`   writes tensors of many ranks into one folder, `shards` reads it on any other mesh, `agree` is how ranks
              decide alike; `dcp` is the same folder for torch's distributed checkpoints
- `fit`       puts tensors into modules, all of them or one part
- `registry`  pretrained models by name: shipped, local, or downloaded and checked
"""
