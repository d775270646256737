"""What a document may ask of us before it is even validated, and which documents are remembered.

The check is linear in the length of the document. Strawberry's own limiters follow every spread of a fragment again,
so that twenty short fragments keep them busy for seconds; here a fragment is measured once. What is remembered is
bounded in number and in length, since a document in memory takes some three hundred times its text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
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
from strawberry.extensions import ParserCache, SchemaExtension, ValidationCache

from app.errors import AppError

#: Tokens in a document.
MOST_TOKENS: Final = 5_000
#: Fields inside one another. A page of a page takes eight.
DEEPEST: Final = 20
#: Fields that answer under one name, anywhere in the document: validation compares each with all others.
MOST_NAMESAKES: Final = 200


#: Documents whose parsing and validation are remembered, and the longest of them, in characters.
DOCUMENTS_KEPT: Final = 128
LONGEST_KEPT: Final = 4096


class QueryTooComplex(AppError):
    """The document asks for more than we run."""

    code, status = "query_too_complex", 400


@dataclass(frozen=True, slots=True)
class Measure:
    """How big a document is."""

    depth: int
    namesakes: int


class Guards(SchemaExtension):
    """Sets the parser's bound and checks what it has read."""

    def on_operation(self) -> Iterator[None]:
        self.execution_context.parse_options["max_tokens"] = MOST_TOKENS
        yield

    def on_validate(self) -> Iterator[None]:
        if self.execution_context.graphql_document is not None:
            check(self.execution_context.graphql_document)
        yield


class Parsing(ParserCache):
    """Parses a short document once."""

    def __init__(self) -> None:
        super().__init__(DOCUMENTS_KEPT)

    def on_parse(self) -> Iterator[None]:
        if is_short(self.execution_context.query):
            yield from super().on_parse()
        else:
            yield


class Validation(ValidationCache):
    """Validates a short document once."""

    def __init__(self) -> None:
        super().__init__(DOCUMENTS_KEPT)

    def on_validate(self) -> Iterator[None]:
        if is_short(self.execution_context.query):
            yield from super().on_validate()
        else:
            yield


def is_short(document: str | None) -> bool:
    """Whether it may be remembered."""
    return document is not None and len(document) <= LONGEST_KEPT


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


def measure(document: DocumentNode) -> Measure:
    """The size, through fragments. A fragment inside itself counts once; refusing it is validation's matter."""
    fragments = {part.name.value: part for part in document.definitions if isinstance(part, FragmentDefinitionNode)}
    depths: dict[str, int] = {}
    names: Counter[str] = Counter()

    def below(selections: SelectionSetNode | None) -> int:
        deepest = 0
        for selection in selections.selections if selections else ():
            if isinstance(selection, FieldNode):
                names[(selection.alias or selection.name).value] += 1
                deepest = max(deepest, 1 + below(selection.selection_set))
            elif isinstance(selection, FragmentSpreadNode):
                deepest = max(deepest, of_fragment(selection.name.value))
            elif isinstance(selection, InlineFragmentNode):
                deepest = max(deepest, below(selection.selection_set))
        return deepest

    def of_fragment(name: str) -> int:
        if name not in depths and name in fragments:
            depths[name] = 0
            depths[name] = below(fragments[name].selection_set)
        return depths.get(name, 0)

    operations = [part for part in document.definitions if isinstance(part, OperationDefinitionNode)]
    deepest = max((below(operation.selection_set) for operation in operations), default=0)
    return Measure(deepest, max(names.values(), default=0))
