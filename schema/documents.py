"""Documents, read and judged once. What is remembered is bounded in number and in length: a document in memory takes
some three hundred times its text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    parse,
    specified_rules,
    validate,
)
from strawberry.extensions import SchemaExtension
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule

from schema import guards

#: Documents that are remembered, and the longest of them, in characters.
KEPT: Final = 128
LONGEST_KEPT: Final = 4096
#: The specification's, and the two that Strawberry's inputs rely on.
RULES: Final = (*specified_rules, MaybeNullValidationRule, OneOfInputValidationRule)


@dataclass(slots=True)
class Prepared:
    """A document that may be run, or what is wrong with it."""

    document: DocumentNode | None
    errors: list[GraphQLError]
    operations: list[OperationDefinitionNode] = field(default_factory=list)
    #: What others have worked out about an operation, by its place; as long-lived as the document.
    worked_out: dict[int, Any] = field(default_factory=dict)
    planned: dict[int, Any] = field(default_factory=dict)

    def operation(self, name: str | None) -> OperationDefinitionNode | None:
        """The one that is meant; None when there is none, or when several are and none is named."""
        if name is None:
            return self.operations[0] if len(self.operations) == 1 else None
        return next((one for one in self.operations if one.name is not None and one.name.value == name), None)

    def follows(self, name: str | None) -> bool:
        """Whether it is a subscription that is meant."""
        operation = self.operation(name)
        return operation is not None and operation.operation is OperationType.SUBSCRIPTION


class Documents:
    """The documents of one schema."""

    def __init__(self, schema: GraphQLSchema, *, kept: int = KEPT) -> None:
        self._schema = schema
        self._most = kept
        self._kept: OrderedDict[str, Prepared] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def prepare(self, text: str) -> Prepared:
        """Read, bounded and validated. Never raises: what is wrong is in `errors`."""
        known = self._kept.get(text)
        if known is not None:
            self._kept.move_to_end(text)
            return known
        prepared = self._prepare(text)
        if len(text) <= LONGEST_KEPT:
            self._kept[text] = prepared
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return prepared

    def _prepare(self, text: str) -> Prepared:
        try:
            guards.check_length(text)
            document = parse(text, max_tokens=guards.MOST_TOKENS)
            guards.check(document)
        except GraphQLError as exc:
            return Prepared(None, [exc])
        except guards.QueryTooComplex as exc:
            return Prepared(None, [GraphQLError(exc.message, original_error=exc)])
        except RecursionError:
            refused = guards.QueryTooComplex("The document is nested too deeply.")
            return Prepared(None, [GraphQLError(refused.message, original_error=refused)])
        operations = [part for part in document.definitions if isinstance(part, OperationDefinitionNode)]
        mistakes = validate(self._schema, document, RULES, max_errors=guards.MOST_MISTAKES)
        return Prepared(document, mistakes, operations)


class Reading(SchemaExtension):
    """Has Strawberry take documents from `Schema.documents` wherever it would read one itself."""

    def on_parse(self) -> Iterator[None]:
        """Hand over the document, or raise what is wrong with its form."""
        prepared = self._prepared()
        if prepared.document is None:
            raise prepared.errors[0]
        self.execution_context.graphql_document = prepared.document
        yield

    def on_validate(self) -> Iterator[None]:
        """Hand over what is wrong with its content; nothing is looked at twice."""
        self.execution_context.pre_execution_errors = self._prepared().errors
        yield

    def _prepared(self) -> Prepared:
        documents: Documents = self.execution_context.schema.documents  # type: ignore[attr-defined]
        return documents.prepare(self.execution_context.query or "")
