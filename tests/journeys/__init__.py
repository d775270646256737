import pytest

# What the oracle compared is to be seen when it objects.
pytest.register_assert_rewrite("tests.journeys.oracle")
