"""Nouns and verbs of the business. Nothing here commits, sends or knows HTTP."""

# A table that refers to another one works only once both are known, so knowing one means knowing all.
from app.domain import models as models
