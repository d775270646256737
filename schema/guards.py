"""What a document may ask of us before it is even validated.

The check is linear in the length of the document. Strawberry's own limiters follow every spread of a fragment again,
so that twenty short fragments keep them busy for seconds; here a fragment is measured once. The bounds are chosen so
that validation, which compares namesakes and fragments pair by pair, has little left to compare.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

from app.errors import AppError

#: Characters in a document. What is longer belongs into variables.
LONGEST: Final = 65_536
#: Tokens in a document.
MOST_TOKENS: Final = 2_000
#: Fields inside one another. A page of a page takes eight.
DEEPEST: Final = 20
#: Fields that answer under one name, anywhere in the document: validation compares each with all others.
MOST_NAMESAKES: Final = 100
MOST_ALIASES: Final = 100
MOST_DIRECTIVES: Final = 50
#: Fields at the top of one operation.
MOST_ROOT_FIELDS: Final = 50
MOST_FRAGMENTS: Final = 100
MOST_OPERATIONS: Final = 50
#: Mistakes that are reported: each comes with suggestions, which take time to find.
MOST_MISTAKES: Final = 10


class QueryTooComplex(AppError):
    """The document asks for more than we run."""

    code, status = "query_too_complex", 400


@dataclass(frozen=True, slots=True)
class Measure:
    """How big a document is."""

    depth: int = 0
    namesakes: int = 0
    aliases: int = 0
    directives: int = 0
    root_fields: int = 0
    fragments: int = 0
    operations: int = 0


def check_length(document: str) -> None:
    """Raise QueryTooComplex for what is too long to be read."""
    if len(document) > LONGEST:
        raise QueryTooComplex(
            f"The document has {len(document)} characters; {LONGEST} is the most. Move values into variables."
        )


def check(document: DocumentNode) -> None:
    """Raise QueryTooComplex for what is too deep or too repetitive."""
    try:
        size = measure(document)
    except RecursionError:
        raise QueryTooComplex("Fragments are nested too deeply.") from None
    if size.depth > DEEPEST:
        raise QueryTooComplex(f"Fields are nested {size.depth} deep; {DEEPEST} is the most.")
    if size.namesakes > MOST_NAMESAKES:
        raise QueryTooComplex(f"One field appears {size.namesakes} times; {MOST_NAMESAKES} is the most.")
    for name, found, most in (
        ("aliases", size.aliases, MOST_ALIASES),
        ("directives", size.directives, MOST_DIRECTIVES),
        ("fields at the top of an operation", size.root_fields, MOST_ROOT_FIELDS),
        ("fragments", size.fragments, MOST_FRAGMENTS),
        ("operations", size.operations, MOST_OPERATIONS),
    ):
        if found > most:
            raise QueryTooComplex(f"The document has more than {most} {name}.")


@dataclass(frozen=True, slots=True)
class _Below:
    """What a selection comes to: how deep it goes, and how many fields stand at its top."""

    depth: int
    fields: int


class _Walk:
    """One visit to each selection of a document; what a fragment comes to is remembered."""

    def __init__(self, document: DocumentNode) -> None:
        self.names: Counter[str] = Counter()
        self.aliases = 0
        self.directives = 0
        self._fragments = {
            part.name.value: part for part in document.definitions if isinstance(part, FragmentDefinitionNode)
        }
        self._measured: dict[str, _Below] = {}

    def below(self, selections: SelectionSetNode | None) -> _Below:
        """A selection set, through its fragments."""
        depth = fields = 0
        for selection in selections.selections if selections else ():
            self.directives += len(selection.directives or ())
            if isinstance(selection, FieldNode):
                self.names[(selection.alias or selection.name).value] += 1
                self.aliases += selection.alias is not None
                fields += 1
                depth = max(depth, 1 + self.below(selection.selection_set).depth)
                continue
            if isinstance(selection, FragmentSpreadNode):
                part = self.fragment(selection.name.value)
            elif isinstance(selection, InlineFragmentNode):
                part = self.below(selection.selection_set)
            else:
                continue
            depth, fields = max(depth, part.depth), fields + part.fields
        return _Below(depth, fields)

    def fragment(self, name: str) -> _Below:
        """A fragment by its name. Inside itself it comes to nothing; refusing it is validation's matter."""
        if name not in self._measured and name in self._fragments:
            self._measured[name] = _Below(0, 0)
            self._measured[name] = self.below(self._fragments[name].selection_set)
        return self._measured.get(name, _Below(0, 0))


def measure(document: DocumentNode) -> Measure:
    """The size of all its operations and fragments, used or not: validation looks at all of them."""
    walk = _Walk(document)
    depth = root_fields = fragments = operations = 0
    for part in document.definitions:
        walk.directives += len(getattr(part, "directives", None) or ())
        if isinstance(part, OperationDefinitionNode):
            operations += 1
            found = walk.below(part.selection_set)
            depth, root_fields = max(depth, found.depth), max(root_fields, found.fields)
        elif isinstance(part, FragmentDefinitionNode):
            fragments += 1
            depth = max(depth, walk.fragment(part.name.value).depth)
    return Measure(
        depth=depth,
        namesakes=max(walk.names.values(), default=0),
        aliases=walk.aliases,
        directives=walk.directives,
        root_fields=root_fields,
        fragments=fragments,
        operations=operations,
    )
