"""The steps that a device runs once at load leave nothing behind."""

from typing import TYPE_CHECKING

from windlass.executor.warm_up import WARM_UP_TOKENS, warm_up_plans
from windlass.request import SamplingParams

if TYPE_CHECKING:
    from conftest import Driver

PROMPT = [5, 17, 99, 3, 42]


def test_they_cover_prompts_decodes_and_both_together() -> None:
    kinds = {
        (sum(row.is_decode for row in plan.rows), sum(not row.is_decode for row in plan.rows))
        for plan in warm_up_plans(8)
    }
    assert kinds == {(0, 1), (1, 1), (2, 0)}
    lengths = [row.start + row.num_tokens for plan in warm_up_plans(8) for row in plan.rows]
    assert max(lengths) == WARM_UP_TOKENS
    assert all(len(plan.rows) == 1 for plan in warm_up_plans(1))


def test_a_request_after_them_gets_the_tokens_it_would_get_before(driver: "Driver") -> None:
    greedy = SamplingParams(temperature=0.0)
    before = driver.generate("before", PROMPT, greedy, 6)
    driver.runner.reset()
    for plan in warm_up_plans(8):
        result = driver.runner.launch(plan).collect()
        assert len(result.tokens) == len(plan.rows)
    driver.runner.reset()
    assert driver.generate("after", PROMPT, greedy, 6) == before
