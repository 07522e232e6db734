"""Ids: as they were where they differ, different where they do not, and harmless as names of files."""

import re

from hypothesis import given
from hypothesis import strategies as st

from anemone.data.ids import different, file_stem

NAMES = st.lists(st.sampled_from(["a", "b", "a-2", "a-3", "a-2-2", "/", "..", ""]) | st.text(), max_size=30)


@given(NAMES)
def test_ids_become_different_and_the_first_of_each_stays(ids):
    names, changed = different(ids)
    assert len(set(names)) == len(names) == len(ids)
    assert [i for i, name in enumerate(ids) if name in ids[:i]] == changed
    assert all(names[i] == ids[i] for i in range(len(ids)) if i not in changed)


@given(NAMES)
def test_a_name_of_a_file_is_short_plain_and_of_one_id(ids):
    stems = [file_stem(name) for name in set(ids)]
    assert len(set(stems)) == len(stems)
    assert all(re.fullmatch(r"[A-Za-z0-9_@-]{1,77}", stem) for stem in stems)
