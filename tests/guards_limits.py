"""The guards of what a document may ask, and of what asking costs: see tests/guards.py, which takes them away."""

from __future__ import annotations

from tests.guards import Guard

AT = "tests/schema/test_guards.py::test_"
FILE = "schema/guards.py"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "documents: a fragment is measured once",
        FILE,
        [("        if name not in self._measured and name in self._fragments:", "        if name in self._fragments:")],
        [AT + "a_document_is_measured_through_its_fragments"],
    ),
    Guard(
        "documents: what is too long is not read",
        FILE,
        [("    if len(document) > LONGEST:", "    if False:")],
        [AT + "a_document_of_too_many_characters_is_refused"],
    ),
    Guard(
        "documents: one field appears so often at most",
        FILE,
        [("    if size.namesakes > MOST_NAMESAKES:", "    if False:")],
        [AT + "a_field_that_appears_too_often_is_refused"],
    ),
    Guard(
        "documents: so many aliases, directives, root fields and fragments at most",
        FILE,
        [("        if found > most:", "        if False:")],
        [AT + "as_many_as_may_be_are_run_and_one_more_is_not"],
    ),
    Guard(
        "documents: what is remembered is bounded",
        "schema/documents.py",
        [("            if len(self._kept) > self._most:", "            if False:")],
        [AT + "of_documents_remembered_the_one_unused_for_longest_goes_first"],
    ),
)
