"""Metadata and conditions of all kinds, for hypothesis; few names and values, so that they meet."""

from __future__ import annotations

from hypothesis import strategies as st

from rag_infer.knowledge.conditions import All, AnyOf, Compare, Contains, Equals, Exists, Not

FIELDS = st.sampled_from(["a", "b", "x.y", 'q"[0]', "", "é"])
NUMBERS = st.sampled_from(
    [
        0,
        1,
        -1,
        2020,
        2020.0,
        0.5,
        -0.0,
        1e308,
        5e-324,
        2**53,
        2**53 + 1,
        2.0**53,
        10**30,
        1e30,
        -(10**320),
        10**320,
    ]
) | st.floats(allow_nan=False, allow_infinity=False)
STRINGS = st.sampled_from(
    ["", "a", "B", "b", "é", "z", "e\u0301", "🦆", "\uffff", "1", "true", "a\\", "%s", "a'\"", "\ue000"]
)
SCALARS = st.none() | st.booleans() | NUMBERS | STRINGS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=2),
    max_leaves=4,
)
METADATA = st.dictionaries(FIELDS, VALUES, max_size=3)

# A condition may ask for a NUL, which the metadata in PostgreSQL never has.
ASKED = VALUES | st.sampled_from(["\0", "a\0", ["\0"], {"\0": 1}])
LEAVES = (
    st.builds(Equals, FIELDS | st.just("\0"), ASKED)
    | st.builds(Contains, FIELDS, ASKED)
    | st.builds(
        Compare,
        FIELDS,
        st.sampled_from(["<", "<=", ">", ">="]),
        NUMBERS | STRINGS | st.sampled_from(["a\0", "\0", "b\0c"]),
    )
    | st.builds(Exists, FIELDS)
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(All, st.lists(inner, max_size=3).map(tuple))
        | st.builds(AnyOf, st.lists(inner, max_size=3).map(tuple))
    ),
    max_leaves=5,
)
