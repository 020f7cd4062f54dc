"""What is better than what: rows that cells got right, over seeds, as verdicts."""

import random
from collections import Counter

import pytest

from lorapar.config import load_config
from lorapar.config.study import parse_study
from lorapar.records import write_json
from lorapar.study.cells import cells_of
from lorapar.study.compared import comparisons, not_compared
from lorapar.study.correlation import correlations
from lorapar.study.report import _sentences
from lorapar.study.results import Cost, Result, Step, _as_trained, _each, _sampled, figures, region_means, seconds_spent

STUDY = "name: s\ntitle: t\nseeds: [0, 1]\ngrid: {partition.theta: [0.9, 0.5, 0.1]}\n"
NO_COST = Cost(1.0, None, None, None, None, None)


def results(study, right):
    """`right` by cell name: for each seed, the rows of 40 that it got right after RL."""
    made = []
    for cell in cells_of(study, load_config(preset="tiny"), "/store"):
        if cell.name in right:
            rows = {f"seed {cell.seed} row {n}": n in right[cell.name][cell.seed] for n in range(40)}
            made.append(result(cell, rows, Step("rl", cell.id, 1.0, adapter=cell.id)))
    return made


def result(cell, rows, step, scores=(), again=None):
    return Result(
        cell, {("after_rl", "system2"): rows}, {}, dict(scores), (4, 8, "QKVGUD"), again or {}, NO_COST, {"rl": step}
    )


def test_ranks_are_compared_over_seeds_with_the_reference_and_over_sft():
    study = parse_study(STUDY, "s")
    orders = {("theta 0.9", 0): [1, 2, 3, 4], ("theta 0.9", 1): [1, 2, 3, 4], ("theta 0.5", 0): [4, 3, 2, 1]}
    made = {}
    for cell in cells_of(study, load_config(preset="tiny"), "/store"):
        if (cell.name, cell.seed) in orders:
            scores = dict.fromkeys(("system1", "system2"), orders[cell.name, cell.seed])
            made.setdefault(cell.name, []).append(
                result(cell, {}, None, scores, {"system2": 0.5} if cell.seed else None)
            )
    found = {(one.cell, one.other, one.system): one for one in correlations(study, made)}
    assert found["theta 0.9", "other seeds", "system1"].mean == pytest.approx(1)
    assert found["theta 0.5", "theta 0.9", "system2"].mean == pytest.approx(-1)
    assert found["theta 0.9", "after SFT", "system2"].mean == 0.5
    assert ("theta 0.5", "other seeds", "system1") not in found, "it has one seed"


def test_the_share_that_a_stage_trains_is_of_what_it_trained():
    """Without RL nothing is trained by it, and RL that scored again trains other elements than the partition says."""
    study = parse_study("name: s\ntitle: t\nseeds: [0]\ncells: [{name: a}, {name: b, settings: {phases: [sft]}}]", "s")
    both, alone = cells_of(study, load_config(preset="tiny"), "/store")
    made = {"jaccard": 0.5, "sft_active_fraction": 0.4, "rl_active_fraction": 0.3}
    cost = Cost(1.0, 3, 2, 100, 40, 25)
    assert _as_trained(made, both, cost, None) == made
    assert _as_trained(made, both, cost, 100) == {**made, "rl_active_fraction": 0.25}
    assert _as_trained(made, alone, cost, None) == {"jaccard": 0.5, "sft_active_fraction": 0.4}
    own = [Result(cell, {}, _as_trained(made, cell, cost, None), {}, (), {}, cost, {}) for cell in (both, alone)]
    shown = {(one.cell, one.measure): one.mean for one in region_means(study, own)}
    assert shown["a", "rl_active_fraction"] == 0.3
    assert ("b", "rl_active_fraction") not in shown


def test_a_difference_lies_between_all_wrong_and_all_right():
    found = comparisons(
        parse_study(STUDY, "s"),
        results(parse_study(STUDY, "s"), {"theta 0.9": [[], []], "theta 0.5": [range(40), range(8)]}),
    )
    assert [(one.difference, one.interval) for one in found] == [(0.6, (-1.0, 1.0))]


def verdicts(study, right):
    return {one.cell: one.verdict for one in comparisons(study, results(study, right))}


def test_what_is_better_worse_and_noise():
    found = verdicts(
        parse_study(STUDY, "s"),
        {
            "theta 0.9": [range(20), range(20)],
            "theta 0.5": [range(35), range(34)],
            "theta 0.1": [range(21), range(19)],
        },
    )
    assert found == {"theta 0.5": "better", "theta 0.1": "noise"}
    turned = parse_study(STUDY + "reference: theta 0.5\n", "s")
    right = {"theta 0.9": [range(20), range(20)], "theta 0.5": [range(35), range(34)]}
    assert verdicts(turned, right) == {"theta 0.9": "worse"}


def test_rows_that_are_sure_and_seeds_that_disagree():
    right = {"theta 0.9": [range(10), range(12)], "theta 0.5": [range(40), range(10)]}
    assert verdicts(parse_study(STUDY, "s"), right) == {"theta 0.5": "seeds disagree"}


def test_rows_that_are_sure_where_another_seed_may_say_the_opposite():
    """The rows leave no doubt, p < 0.001; over seeds the difference is 31 points, give or take 56."""
    right = {"theta 0.9": [range(10), range(10)], "theta 0.5": [range(22), range(25)]}
    study = parse_study(STUDY, "s")
    (one,) = comparisons(study, results(study, {**right, "theta 0.5": [range(25), range(20)]}))
    assert one.corrected < 0.001
    assert one.interval[0] < 0 < one.interval[1]
    assert one.verdict == "these seeds only"
    assert verdicts(study, {**right, "theta 0.5": [range(22), range(22)]}) == {"theta 0.5": "better"}


def test_one_seed_has_no_interval_and_no_verdict_on_other_seeds():
    study = parse_study(STUDY.replace("[0, 1]", "[0]"), "s")
    (one,) = comparisons(study, results(study, {"theta 0.9": [range(10)], "theta 0.5": [range(40)]}))
    assert (one.interval, one.verdict) == (None, "these seeds only")
    assert "One seed has no interval, and another may say the opposite." in _sentences(study, [one])[0]


def test_a_seed_without_a_difference_does_not_agree():
    study = parse_study(STUDY.replace("[0, 1]", "[0, 1, 2, 3, 4, 5]"), "s")
    right = {"theta 0.9": [range(10)] * 6, "theta 0.5": [range(20)] * 5 + [range(10)]}
    (one,) = comparisons(study, results(study, right))
    assert one.interval[0] > 0
    assert one.verdict == "these seeds only"
    assert verdicts(study, {**right, "theta 0.5": [range(20)] * 5 + [range(18)]}) == {"theta 0.5": "better"}


def test_cells_that_are_equal_are_seldom_better_or_worse():
    """Training again moves the share of right answers by some 8 points; nothing else differs between the two cells."""
    study = parse_study(STUDY.replace("[0, 1]", "[0, 1, 2]").replace(", 0.1", ""), "s")
    cells = cells_of(study, load_config(preset="tiny"), "/store")
    chance = random.Random(7)
    found = Counter()
    for _ in range(400):
        made = []
        for cell in cells:
            share = min(1.0, max(0.0, chance.gauss(0.5, 0.08)))
            rows = {f"seed {cell.seed} row {n}": chance.random() < share for n in range(64)}
            made.append(result(cell, rows, Step("rl", cell.id, 1.0, adapter=cell.id)))
        (one,) = comparisons(study, made)
        found[one.verdict] += 1
    assert found["better"] + found["worse"] <= 0.05 * 400
    assert found["these seeds only"] >= 0.05 * 400, "which the test over rows alone calls better or worse"


def test_equal_answers_are_equal():
    right = {"theta 0.9": [range(9), range(9)], "theta 0.5": [range(9), range(9)]}
    assert verdicts(parse_study(STUDY, "s"), right) == {"theta 0.5": "equal"}


def test_more_comparisons_make_each_less_sure():
    """Eight rows won by one cell: p is 0.0078 alone, and three times as much among three."""
    right = {"theta 0.9": [range(20), range(20)], "theta 0.5": [range(24), range(24)], "theta 0.1": [range(20)] * 2}
    alone = comparisons(parse_study(STUDY, "s"), results(parse_study(STUDY, "s"), dict(list(right.items())[:2])))
    pairs = parse_study(STUDY + "compare: pairs\n", "s")
    every = {(one.cell, one.other): one for one in comparisons(pairs, results(pairs, right))}
    one = every["theta 0.5", "theta 0.9"]
    assert alone[0].p_value == alone[0].corrected == one.p_value == pytest.approx(2 / 2**8)
    assert one.corrected == pytest.approx(3 * one.p_value)
    assert len(every) == 3


def test_only_seeds_that_both_have_are_compared():
    study = parse_study(STUDY, "s")
    made = results(study, {"theta 0.9": [range(20), range(20)], "theta 0.5": [range(25), range(40)]})
    (one,) = comparisons(study, [result for result in made if result.cell.id != "theta-0.5-seed1"])
    assert (one.seeds, one.rows, one.difference, one.interval) == (1, 40, pytest.approx(5 / 40), None)


def test_cells_that_share_an_adapter_are_compared_once_whatever_seeds_are_missing():
    study = parse_study(STUDY + "compare: pairs\n", "s")
    made = results(study, {"theta 0.9": [range(20)] * 2, "theta 0.5": [range(30)] * 2, "theta 0.1": [range(30)] * 2})
    for one in made:
        if one.cell.name == "theta 0.1":  # the same adapters as theta 0.5
            one.steps["rl"] = Step("rl", one.cell.id, 1.0, adapter=one.cell.id.replace("0.1", "0.5"))
    pairs = [("theta 0.5", "theta 0.9")]
    assert [(one.cell, one.other) for one in comparisons(study, made)] == pairs
    without = [one for one in made if one.cell.id != "theta-0.1-seed1"]
    found = [(one.cell, one.other, one.seeds) for one in comparisons(study, without)]
    assert ("theta 0.1", "theta 0.5", 1) not in found, "they are one adapter with the seed that both have"


def test_what_is_not_compared_is_said():
    study = parse_study(STUDY, "s")
    made = results(study, {"theta 0.9": [range(20)] * 2, "theta 0.5": [range(30)] * 2, "theta 0.1": [range(30)] * 2})
    assert not_compared(study, made) == []
    assert not_compared(study, [one for one in made if one.cell.name != "theta 0.9"]) == [
        "Nothing is compared yet: theta 0.9, which cells are compared with, has not finished with any seed."
    ]
    apart = [one for one in made if one.cell.id in ("theta-0.9-seed0", "theta-0.5-seed1", "theta-0.1-seed0")]
    assert not_compared(study, apart) == [
        "theta 0.5 and theta 0.9 are not compared yet: no seed has finished with both."
    ]
    strange = next(one for one in made if one.cell.id == "theta-0.5-seed1")
    strange.rows["after_rl", "system2"]["one more row"] = True
    assert not_compared(study, made) == [
        "theta 0.5 and theta 0.9 were asked other rows of System 2 with 1 of 2 seeds, which are not compared."
    ]


def test_cells_without_a_row_that_can_be_judged_are_not_compared_and_that_is_said():
    study = parse_study(STUDY, "s")
    made = results(study, {"theta 0.9": [range(20)] * 2, "theta 0.5": [range(30)] * 2})
    for one in made:
        one.rows.clear()
    assert comparisons(study, made) == []
    assert not_compared(study, made) == [
        "theta 0.5 and theta 0.9 are not compared: no held-out row has a reference answer."
    ]


def test_a_mean_has_an_interval_over_seeds_and_the_paper_beside_it():
    text = "paper:\n  source: table 3\n  measure: m\n  figures: [{cell: theta 0.9, model: after_rl, value: 0.3}]\n"
    study = parse_study(STUDY + text, "s")
    made = results(study, {"theta 0.9": [range(20), range(24)], "theta 0.5": [range(20), range(20)]})
    first, second = figures(study, made)
    assert (first.mean, first.paper, first.seeds, first.rows) == (pytest.approx(0.55), 0.3, 2, 80)
    assert first.interval == (0.0, 1.0), "two seeds that are 0.1 apart say little: 0.55 ± 0.64"
    assert (second.paper, second.interval) == (None, pytest.approx((0.5, 0.5)))
    (alone,) = figures(study, made[:1])
    assert alone.interval == pytest.approx((0.352, 0.648), abs=1e-3), "of one seed it is over rows"


@pytest.mark.parametrize(
    ("sft", "rl", "steps"),
    [
        ({"steps": 3}, {"steps": 2}, (3, 2)),
        ({"steps": 0}, {"steps": 2, "sft_steps": 3}, (3, 2)),
        ({"steps": 2, "1_a_sft_steps": 1, "2_b_sft_steps": 2}, {"steps": 4}, (3, 4)),
        ({"steps": 2}, {"steps": 4, "1_b_rl_steps": 4, "2_a_sft_steps": 5}, (7, 4)),
        ({"steps": 1}, {}, (1, None)),
    ],
)
def test_steps_are_those_of_every_phase_by_a_method(sft, rl, steps):
    found = _each("sft", "steps", (sft, rl)), _each("rl", "steps", (rl, sft))
    assert tuple(sum(each) if each else None for each in found) == steps


def test_tokens_are_counted_where_rl_has_trained(tmp_path):
    write_json(tmp_path / "summary.json", {"steps": 0})
    assert _sampled(tmp_path) is None, "no history: the adapter was passed on"
    (tmp_path / "history.jsonl").write_text('{"completion_length": 7.0}\n{"completion_length": 9.0}\n')
    write_json(tmp_path / "summary.json", {"completions": 16})
    assert _sampled(tmp_path) == 128
    write_json(tmp_path / "summary.json", {"completions": 16, "phases": [{"method": "rl"}, {"method": "rl"}]})
    assert _sampled(tmp_path) is None, "the history is that of the last phase"


def test_rows_of_a_seed_that_are_not_the_same_are_not_compared():
    """Where labels decide which rows a system is asked, two cells may have been asked others."""
    study = parse_study(STUDY, "s")
    made = results(study, {"theta 0.9": [range(20), range(20)], "theta 0.5": [range(25), range(25)]})
    strange = next(one for one in made if one.cell.id == "theta-0.5-seed1")
    strange.rows["after_rl", "system2"]["one more row"] = True
    (one,) = comparisons(study, made)
    assert (one.seeds, one.rows) == (1, 40)


def evaluated(study, **settings):
    """Results of all three models, the base with the same rows in every cell."""
    base = load_config(preset="tiny", overrides=[f"{key}={value}" for key, value in settings.items()])
    for cell in cells_of(study, base, "/store"):
        own = len(cell.id) % 3
        rows = {model: {f"r{n}": n < right for n in range(4)} for model, right in (("base", 1), ("after_rl", own))}
        rows["after_sft"] = {f"r{n}": n == 3 for n in range(4)}
        yield Result(cell, {(model, "system2"): of for model, of in rows.items()}, {}, {}, (), {}, NO_COST, {})


def test_the_base_is_shown_once_and_every_trained_model_of_every_cell():
    study = parse_study(STUDY, "s")
    found = [(one.cell, one.model) for one in figures(study, list(evaluated(study)))]
    cells = ("theta 0.9", "theta 0.5", "theta 0.1")
    trained = [(cell, model) for cell in cells for model in ("after_sft", "after_rl")]
    assert sorted(found) == sorted([("theta 0.9", "base"), *trained])


def test_after_sft_is_nothing_where_training_begins_with_rl():
    study = parse_study(STUDY, "s")
    models = {one.model for one in figures(study, list(evaluated(study, phases="[rl, sft]")))}
    assert models == {"base", "after_rl"}


def test_seconds_of_a_stage_that_cells_share_count_once():
    """A stage that is never shared, such as the report, counts for every cell."""
    study = parse_study(STUDY, "s")
    made = []
    for cell, key in zip(cells_of(study, load_config(preset="tiny"), "/store"), ("k", "k", "l"), strict=False):
        steps = {"sft": Step("sft", key, 10.0), "report": Step("report", key, 1.0)}
        made.append(Result(cell, {}, {}, {}, (), {}, NO_COST, steps))
    assert seconds_spent(made) == 2 * 10.0 + 3 * 1.0
