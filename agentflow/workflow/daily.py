"""The budget of a day, of a workspace or of an agent; a day begins at 00:00 UTC.

    {"tokens": 2000000, "cost": 50, "currency": "EUR", "softShare": 0.8, "whenSpent": "ask"}

No budget is an empty object.  A template's budgets are in its definition.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints
from pydantic.functional_validators import model_validator
from pydantic_core import PydanticCustomError

from ..types import JSONObject, JSONValue
from .definition import Budget
from .parts import Part, read


class DayBudget(Part):
    """What may be used up in a day; from `soft_share` of it on there is one warning.

    `when_spent`: a person is asked, or what would spend more waits until the next day.
    """

    tokens: int | None = Field(default=None, ge=1, le=10**15)
    cost: float | None = Field(default=None, gt=0, le=1e12)
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] = "USD"
    soft_share: float = Field(default=0.8, gt=0, le=1)
    when_spent: Literal["ask", "wait"] = "ask"

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.model_fields_set and self.tokens is None and self.cost is None:
            raise PydanticCustomError("empty_budget", "The budget limits nothing: give tokens or cost")
        return self

    @property
    def limits(self) -> Budget:
        return Budget(tokens=self.tokens, cost=self.cost, currency=self.currency, soft_share=self.soft_share)


def of_day(value: JSONValue) -> DayBudget | None:
    """As it is stored; None: there is no budget."""
    return DayBudget.model_validate(value) if value else None


def issues(value: JSONValue, at: str = "/budget") -> list[JSONObject]:
    """Everything wrong with a budget that somebody wrote."""
    return read(DayBudget, value, at)[1]
