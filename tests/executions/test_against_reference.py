"""The whole engine, rows and statements, against the plain interpreter."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings

from executions.models import BlockExecution, Execution
from tests.factories.executions import statuses
from tests.graphs import Sample, samples
from tests.reference import fails, interpret

Run = Callable[..., Execution]


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sample=samples())
def test_a_simulated_run_ends_as_the_interpreter_says(run: Run, sample: Sample) -> None:
    execution = run(sample.definition, input=sample.input, simulation=sample.simulation())
    expected = interpret(
        sample.definition, run_input=sample.input, failing=sample.failing, answers=sample.answers
    )
    assert statuses(execution) == {name: expected[name] for name in statuses(execution)}
    assert execution.status == ("failed" if fails(sample.definition, expected) else "completed")
    check_history(execution)


def check_history(execution: Execution) -> None:
    """Each block was called once, and never before what it depends on had settled."""
    from executions.engine.facts import facts_of

    facts = facts_of(execution.pk)
    assert facts is not None
    rows = {row.idx: row for row in BlockExecution.objects.filter(execution=execution)}
    for row in rows.values():
        assert row.started_at is not None
        assert row.completed_at is not None
        assert row.started_at <= row.completed_at
        assert row.attempt == row.attempts.count() <= 1
        for pred in facts.plan[row.idx].preds:
            ended = rows[pred].completed_at
            assert ended is not None
            assert row.started_at >= ended
