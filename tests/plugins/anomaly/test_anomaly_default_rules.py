"""The default preset: what each rule says of a series, and what it leaves alone."""

import math
import random

import pytest

from tests.plugins.anomaly.feeding import SECOND, configured, evals, only, raised, said, states, steps
from trainbus.bus.events import Checkpoint, Eval, Heartbeat, Phase, RunStarted, Sample, Step

DEFAULT = configured()


def noisy(level, count, *, relative=0.02, seed=1):
    noise = random.Random(seed)
    return [level * (1 + noise.gauss(0, relative)) for _ in range(count)]


def falling(count, *, seed=1, relative=0.02):
    noise = random.Random(seed)
    return [(3 + 8 * math.exp(-step / 30)) * (1 + noise.gauss(0, relative)) for step in range(count)]


def test_a_healthy_run_says_nothing_but_its_bests():
    """Falling loss, noise, warm-up and cosine, a decaying gradient norm, improving evaluations, growing accuracy."""
    total, noise = 2_000, random.Random(4)
    rate = [1e-3 * min(1, (n + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * n / total)) for n in range(total)]
    norms = [(0.5 + 20 * math.exp(-n / 20)) * math.exp(noise.gauss(0, 0.2)) for n in range(total)]
    feed = steps(falling(total), learning_rate=rate, grad_norm=norms)
    assert raised(DEFAULT, feed) == []
    assert {rule for rule, _, _ in raised(DEFAULT, evals([4 - n / 40 for n in range(20)]))} == {"new_best"}
    assert raised(DEFAULT, evals([0.3 + 0.02 * n + noise.gauss(0, 0.03) for n in range(20)], metric="accuracy")) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_critical_at_its_own_step(value):
    """And it spoils no baseline: the next values are judged as if it had not been."""
    alerts = said(only("non_finite"), steps([1.0] * 5 + [value] + [1.0] * 20))
    assert states(alerts) == [("raised", "critical", 6), ("cleared", "critical", 6)]
    assert raised(only("loss_spike"), steps([*noisy(1.0, 40), value, *noisy(1.0, 40, seed=2)])) == []


@pytest.mark.parametrize(("rise", "length", "severity"), [(1.5, 1, "info"), (2.5, 1, "warning"), (1.5, 3, "warning"), (1.1, 10, None)])
def test_in_a_log_of_every_step_a_short_small_spike_is_a_note_and_a_lasting_or_high_one_a_warning(rise, length, severity):
    """One odd batch is no instability."""
    values = noisy(3.0, 60)
    values[40 : 40 + length] = [value * rise for value in values[40 : 40 + length]]
    alerts = said(only("loss_spike"), steps(values))
    assert [alert.severity for alert in alerts if alert.state != "cleared"][-1:] == ([severity] if severity else [])


def test_where_several_steps_lie_between_two_values_a_single_high_one_is_a_warning():
    """It stands for all of them."""
    values = noisy(3.0, 60)
    values[40] *= 1.5
    assert raised(only("loss_spike"), steps(values, stride=10)) == [("loss_spike", "warning", 401)]


def test_the_noise_of_a_series_raises_the_bar():
    """30 % above is nothing where values scatter by 20 %."""
    values = noisy(3.0, 400, relative=0.2)
    assert [severity for _, severity, _ in raised(only("loss_spike"), steps(values)) if severity != "info"] == []


def test_a_series_that_swings_down_as_far_as_up_does_not_spike():
    """Two kinds of batches make a band, and its upper edge is as normal as the lower one."""
    noise = random.Random(5)
    values, level = [], 1.0
    for _ in range(10_000):
        if noise.random() < 0.01:
            level = 1.3 if level == 1.0 else 1.0
        values.append(level * (1 + noise.gauss(0, 0.01)))
    found = [step for _, severity, step in raised(only("loss_spike"), steps(values)) if severity != "info"]
    assert len(found) <= 3


def test_signed_losses_are_left_alone():
    """Policy-gradient losses swing around 0."""
    noise = random.Random(6)
    values = [noise.gauss(0, 0.05) for _ in range(500)]
    config = configured()
    assert [rule for rule, severity, _ in raised(config, steps(values)) if severity != "info"] == []


def test_a_loss_that_leaves_its_level_for_good_is_a_divergence():
    """Critical, told with the level that it left."""
    alerts = said(only("divergence"), steps(noisy(3.0, 100) + noisy(3.6, 100)))
    assert [(alert.state, alert.severity) for alert in alerts] == [("raised", "critical")]
    assert alerts[0].evidence["baseline"] == pytest.approx(3.0, rel=0.02)


def test_a_spike_that_comes_back_and_a_falling_loss_are_no_divergence():
    """Nor is the bounce after a steep fall."""
    assert raised(only("divergence"), steps(noisy(3.0, 100) + [6.0] * 10 + noisy(3.0, 200))) == []
    assert raised(only("divergence"), steps(falling(500))) == []


def test_the_slow_rise_inside_an_epoch_is_no_divergence():
    """After the fall at an epoch border the level before it is the yardstick."""
    noise = random.Random(7)
    first = [1.1 * (1 + noise.gauss(0, 0.03)) for _ in range(300)]
    staircase = first + [level * (1 + 0.25 * n / 300 + noise.gauss(0, 0.03)) for level in (0.73, 0.4) for n in range(300)]
    assert raised(only("divergence"), steps(staircase)) == []
    assert raised(only("divergence"), steps(first + [1.1 * (1 + 0.12 * n / 300 + noise.gauss(0, 0.03)) for n in range(300)])) != []


def test_a_gradient_norm_far_above_its_median_is_a_spike_and_the_first_steps_are_not():
    """The first values are wild in every run."""
    norms = [5.0, 40.0, 3.0, 20.0, 2.0] + [1.0] * 40
    assert raised(only("grad_spike"), steps([*norms, 6.0], metric="grad_norm")) == [("grad_spike", "warning", 46)]
    assert raised(only("grad_spike"), steps([*norms, 4.0], metric="grad_norm")) == []


def test_a_gradient_that_is_gone_for_three_steps_is_said():
    """Two are not enough."""
    assert raised(only("grad_vanishing"), steps([1.0] * 10 + [1e-9] * 2 + [1.0], metric="grad_norm")) == []
    assert raised(only("grad_vanishing"), steps([1.0] * 10 + [1e-9] * 3, metric="grad_norm")) == [("grad_vanishing", "warning", 13)]


def test_a_clip_that_works_at_every_step_is_a_note():
    """All norms equal the limit."""
    assert raised(only("clipping_saturated"), steps([1.0] * 80, metric="grad_norm")) == [("clipping_saturated", "info", 65)]
    assert raised(only("clipping_saturated"), steps(noisy(1.0, 80), metric="grad_norm")) == []


def schedule(total=200, warm_up=10, peak=1e-3):
    return [peak * min(1, (n + 1) / warm_up) * (0.5 + 0.5 * math.cos(math.pi * n / total)) for n in range(total)]


@pytest.mark.parametrize("factor", [0.1, 10, 100])
@pytest.mark.parametrize("place", [60, 185])
def test_a_jump_off_the_schedule_is_a_glitch(factor, place):
    """Up or down; late in the schedule upwards only, where down is next to nothing."""
    rates = schedule()
    rates[place] *= factor
    found = raised(only("lr_glitch"), steps(rates, metric="learning_rate"))
    assert found == ([("lr_glitch", "warning", place + 1)] if factor > 1 or place == 60 else found)


def test_schedules_are_no_glitch():
    """Warm-up in four steps, cosine, linear, constant, decay to zero that stays there, and values rounded in the log."""
    for rates in (
        schedule(), schedule(warm_up=4), [1e-3 * (1 - n / 200) for n in range(200)] + [0.0] * 50, [5e-6] * 100,
        [round(rate, 5) for rate in schedule(peak=6e-4)],
    ):  # fmt: skip
        assert raised(only("lr_glitch"), steps(rates, metric="learning_rate")) == []


def test_warm_restarts_are_known_when_they_are_configured_or_come_in_a_rhythm():
    """The first one of a schedule that nobody announced is told."""
    cycles = [rate for _ in range(4) for rate in schedule(100, warm_up=1)]
    assert raised(only("lr_glitch", restarts=True), steps(cycles, metric="learning_rate")) == []
    assert raised(only("lr_glitch"), steps(cycles, metric="learning_rate")) == [("lr_glitch", "warning", 101)]


def test_a_learning_rate_of_exactly_zero_is_a_glitch_and_a_plateau_unless_the_loss_falls():
    """In a log that rounds it to 0 the loss falls."""
    zeros = [0.0] * 100
    found = raised(configured(), steps(noisy(1.5, 100, relative=0.05), stride=5, learning_rate=zeros))
    assert [rule for rule, _, _ in found] == ["lr_glitch", "plateau"]
    assert raised(only("lr_glitch"), steps(falling(100), learning_rate=zeros)) == []


def test_a_run_that_is_flat_for_most_of_its_life_far_above_zero_is_a_plateau():
    """A finished run has fallen far first; a slowly falling one is not flat; inside the first two epochs nothing is said."""
    flat = [4.2, 3.9, 3.6, 3.4, *noisy(3.3, 600, relative=0.01)]
    assert [rule for rule, _, _ in raised(only("plateau"), steps(flat))] == ["plateau"]
    assert raised(only("plateau"), steps([10.9, 8.0, *noisy(3.3, 600, relative=0.01)])) == []
    assert raised(only("plateau"), steps([4.2 - n / 1_000 for n in range(600)])) == []
    assert raised(only("plateau"), steps(flat, epoch=1.5)) == []
    assert [rule for rule, _, _ in raised(only("plateau"), steps(flat, epoch=2.5))] == ["plateau"]


def test_a_loss_that_has_not_begun_to_fall_has_more_time_than_one_that_got_stuck():
    """Small models often learn late. A spike in between hides no fall."""
    late = [*noisy(6.9, 800, relative=0.005), *[6.9 - n / 200 for n in range(600)]]
    assert raised(only("plateau"), steps(late)) == []
    assert raised(only("plateau"), steps(noisy(6.9, 1200, relative=0.005))) != []
    fallen = [5.0 - n / 1_000 for n in range(1_200)]
    assert raised(only("plateau"), steps([*fallen[:560], *[12.0] * 8, *fallen[568:]])) == []


def test_a_loss_that_repeats_to_the_last_digit_is_stuck():
    """A solved task rounds to the same digits and is left alone; an exact zero after a real loss is told at once."""
    assert [rule for rule, _, _ in raised(only("stuck_loss"), steps([1.2345] * 40))] == ["stuck_loss"]
    assert raised(only("stuck_loss"), steps([0.0001] * 40)) == []
    assert raised(only("stuck_loss"), steps([*noisy(2.0, 20), 0.0, 0.0, 0.0])) == [("stuck_loss", "warning", 23)]
    rounded = [round(value, 1) for value in noisy(2.3, 300, relative=0.01)]
    assert raised(only("stuck_loss"), steps([*noisy(2.0, 100), *[2.3] * 30])) != []
    assert raised(only("stuck_loss"), steps([*([2.2, 2.3] * 20), *[2.3] * 30, *rounded])) == []


def test_tiny_and_rounded_losses_do_not_spike():
    """0.01 after 0.00 is the last digit, and 0.002 after 0.0002 is nothing in a run that began at 2."""
    noise = random.Random(2)
    falling_fast = [2 * math.exp(-n / 40) * math.exp(noise.gauss(0, 0.3)) for n in range(600)]
    assert raised(only("loss_spike"), steps([round(value, 2) for value in falling_fast], stride=10)) == []
    assert raised(only("loss_spike"), steps([*falling_fast, 0.01], stride=10)) == []
    assert raised(only("loss_spike"), steps([*falling_fast, 0.5], stride=10)) != []


def test_noisy_evaluations_are_neither_overfitting_nor_a_drop():
    """Their noise is known from themselves."""
    noise = random.Random(3)
    train = [3 - n / 500 for n in range(1_000)]
    losses = [1.2 * (1 + noise.gauss(0, 0.05)) for _ in range(50)]
    assert raised(only("overfit"), both(train, losses, every=20)) == []
    smooth = [1.2 + 0.02 * max(n - 15, 0) for n in range(50)]
    assert raised(only("overfit"), both(train, smooth, every=20)) != []
    accuracies = [sum(noise.random() < 0.2 for _ in range(50)) / 50 for _ in range(100)]
    assert raised(only("accuracy_drop"), evals(accuracies, metric="accuracy")) == []


def test_an_evaluation_and_a_checkpoint_are_no_stall_however_long_they_take():
    """Also where no phase tells of them: a log of another program."""
    feed = steps([1.0] * 20)
    later = steps([1.0] * 20, first=1_000)
    took = Eval(run="r", step=20, time=990 * SECOND, metrics={"loss": 1.0})
    assert raised(only("stalled_run"), feed, later) != []
    assert raised(only("stalled_run"), feed, [took], later) == []
    assert raised(only("stalled_run"), feed, [Checkpoint(run="r", id="c", step=20, time=990 * SECOND)], later) == []


def test_a_schedule_of_steps_is_a_note_and_any_other_fall_a_warning():
    """A tenth or a half out of a long constant stretch."""
    assert [severity for _, severity, _ in raised(only("lr_glitch"), steps([1e-3] * 50 + [1e-4] * 50, metric="learning_rate"))] == ["info"]
    assert [severity for _, severity, _ in raised(only("lr_glitch"), steps([1e-3] * 50 + [6e-5] * 50, metric="learning_rate"))] == [
        "warning"
    ]


def test_warm_restarts_are_known_when_the_run_says_so():
    """transformers' name for it, wherever it stands in the run's configuration."""
    rates = steps([1e-3 * (0.5 + 0.5 * math.cos(math.pi * (n % 100) / 100)) for n in range(300)], metric="learning_rate")
    told = RunStarted(run="r", config={"trainer": {"lr_scheduler_type": "cosine_with_restarts"}})
    assert raised(only("lr_glitch"), rates) != []
    assert raised(only("lr_glitch"), [told], rates) == []


def both(train, evaluations, every=10):
    feed = []
    for number, step in enumerate(steps(train)):
        feed.append(step)
        if number % every == every - 1 and number // every < len(evaluations):
            feed += evals([evaluations[number // every]], first=step.step)
    return feed


def test_an_evaluation_loss_that_rises_while_the_train_loss_falls_is_overfitting():
    """While both rise, it is not; one bad evaluation isn't either."""
    train, evaluations = [3 * math.exp(-n / 100) for n in range(200)], [2.0, 1.8, 1.6, *[1.6 + 0.05 * n for n in range(17)]]
    (found,) = [alert for alert in said(only("overfit"), both(train, evaluations)) if alert.state == "raised"]
    assert found.evidence["baseline_step"] == 30
    assert raised(only("overfit"), both([2.0 + n / 100 for n in range(200)], evaluations)) == []
    assert raised(only("overfit"), both(train, [2.0, 1.8, 1.6, 2.5, 1.5, 1.4, 1.3, 1.2])) == []


def test_an_accuracy_that_falls_by_a_third_for_three_evaluations_is_a_drop():
    """Two are a bad draw of questions."""
    level = [0.5, 0.55, 0.6, 0.58, 0.62, 0.6]
    assert raised(only("accuracy_drop"), evals([*level, 0.3, 0.3, 0.6], metric="accuracy")) == []
    assert raised(only("accuracy_drop"), evals([*level, 0.3, 0.35, 0.3], metric="accuracy")) == [("accuracy_drop", "warning", 90)]
    assert raised(only("accuracy_drop"), evals([*level, 0.5, 0.48, 0.52], metric="accuracy")) == []


def test_any_metric_can_be_watched_for_outliers_and_only_that_one():
    """By name or pattern."""
    feed = steps([*noisy(5.0, 60), 9.0], metric="reward/mean", loss=[*noisy(5.0, 60), 9.0])
    assert [alert.evidence["metric"] for alert in said(only("outlier", metrics=["reward/*"]), feed)] == ["reward/mean"]
    assert raised(only("outlier"), feed) == []


def test_a_level_that_moves_up_is_a_note_and_a_single_outlier_is_not():
    """A cumulative sum of cut values."""
    assert [severity for _, severity, _ in raised(only("level_shift"), steps(noisy(3.0, 200) + noisy(3.2, 100)))] == ["info"]
    assert raised(only("level_shift"), steps([*noisy(3.0, 200), 9.0, *noisy(3.0, 100, seed=2)])) == []
    assert raised(only("level_shift"), steps(falling(500))) == []


def test_lost_throughput_is_said_once_and_the_warm_up_is_no_baseline():
    """100 a second, then 50: once, after the moving average has crossed."""
    speeds = [10.0] * 10 + [100.0] * 50 + [50.0] * 40
    assert [rule for rule, _, _ in raised(only("throughput_loss"), steps(speeds, metric="tokens_per_second"))] == ["throughput_loss"]
    assert raised(only("throughput_loss"), steps([10.0] * 10 + [100.0] * 80, metric="tokens_per_second")) == []


def test_a_rank_that_is_slower_than_the_others_is_a_straggler():
    """Told with its own name."""
    feed = [
        Step(run="r", step=step, rank=rank, time=step * SECOND, metrics={"step_time": 2.0 if rank == 2 and step > 5 else 1.0})
        for step in range(1, 20)
        for rank in range(4)
    ]
    (found,) = [alert for alert in said(only("straggler"), feed) if alert.state == "raised"]
    assert found.evidence["metric"] == "rank2/step_time"


def test_a_run_that_takes_no_step_stands_still_and_an_evaluation_is_a_known_cause():
    """By the stamps of events: heartbeats while it is silent; the id follows from the last step."""
    feed = steps([1.0] * 30)
    silent = [Heartbeat(run="r", time=(30 + wait) * SECOND) for wait in (30, 59, 61)]
    assert raised(only("stalled_run"), feed, silent[:2]) == []
    assert raised(only("stalled_run"), feed, silent) == [("stalled_run", "critical", 30)]
    known = Phase(run="r", name="evaluate", state="started", time=31 * SECOND)
    assert raised(only("stalled_run"), feed, [known], silent) == []
    later = steps([1.0] * 5, first=200)
    assert [(a.id, a.state) for a in said(only("stalled_run"), feed, silent, later)] == [
        ("stalled_run:run/silence:r:30", "raised"),
        ("stalled_run:run/silence:r:30", "updated"),
        ("stalled_run:run/silence:r:30", "cleared"),
    ]


def test_samples_are_judged_by_their_own_loss_and_correctness():
    """The example is named."""
    lucky = Sample(run="r", step=1, example="e7", correct=True, loss=1.6)
    sure = Sample(run="r", step=2, example="e8", correct=False, loss=0.2)
    fine = [Sample(run="r", step=3, correct=True, loss=0.2), Sample(run="r", step=4, correct=False, loss=2.0)]
    found = [alert for alert in said(configured(), [lucky, sure, *fine]) if alert.state == "raised"]
    assert [(alert.rule, alert.evidence["example"]) for alert in found] == [("correct_but_unsure", "e7"), ("wrong_but_sure", "e8")]


def test_correct_answers_that_cost_more_than_wrong_ones_need_ten_samples():
    """Nine are too few to say it."""
    inverted = [Sample(run="r", step=n, correct=n % 2 == 0, loss=1.6 if n % 2 == 0 else 1.0) for n in range(10)]
    assert raised(only("inverted_loss"), inverted[:9]) == []
    assert raised(only("inverted_loss"), inverted) == [("inverted_loss", "warning", 9)]


def test_the_calibration_error_is_that_of_the_reference():
    """Twenty bins' worth of samples with known confidences; 0.31 alarms, 0.29 does not."""
    from trainbus.judging.statistics import calibration_error

    confidences = [0.95] * 50 + [0.55] * 50
    correct = [number < 32 for number in range(50)] + [number < 27 for number in range(50)]
    reference = 0.5 * abs(32 / 50 - 0.95) + 0.5 * abs(27 / 50 - 0.55)
    assert calibration_error(zip(confidences, correct, strict=True)) == pytest.approx(reference, abs=1e-6)
    for right, expected in ((59, ["calibration"]), (61, [])):
        feed = [Sample(run="r", step=n, correct=n % 100 < right, loss=-math.log(0.9)) for n in range(100)]
        assert [rule for rule, _, step in raised(only("calibration", min_samples=100), feed)] == expected


@pytest.mark.parametrize("stride", [1, 10])
def test_rises_that_come_often_or_evenly_are_a_habit(stride):
    """Every tenth batch from a harder source, or a saw-tooth of batches grouped by length: told a few times, then notes."""
    noise = random.Random(8)
    mixed = [(1.6 if noise.random() < 0.1 else 1.0) * (1 + noise.gauss(0, 0.05)) for _ in range(2_000)]
    saw = [1.3 - 0.6 * (n % 50) / 50 + noise.gauss(0, 0.01) for n in range(2_000)]
    for values in (mixed, saw):
        warnings = [severity for _, severity, _ in raised(only("loss_spike"), steps(values, stride=stride)) if severity != "info"]
        assert len(warnings) <= 8


def test_losses_that_scatter_by_factors_do_not_spike():
    """Log-normal noise of 40 %: twice the level is within it."""
    noise = random.Random(9)
    values = [0.7 * math.exp(noise.gauss(0, 0.4)) for _ in range(3_000)]
    assert [severity for _, severity, _ in raised(only("loss_spike"), steps(values, stride=10)) if severity != "info"] == []


def test_a_jump_in_the_first_steps_that_comes_back_is_normal():
    """Some runs first jump to several times their first loss."""
    values = [10.9, 12.0, 25.0, 40.0, 30.0, 22.0, 17.0, 14.0, 12.0, *[11.0 - n / 20 for n in range(100)]]
    assert [rule for rule, severity, _ in raised(DEFAULT, steps(values)) if severity != "info"] == []


def test_a_jump_far_off_the_pace_of_a_warm_up_is_a_glitch():
    """A warm-up is even, in four steps or in four hundred."""
    rates = [1e-6 * (n + 1) for n in range(400)]
    assert raised(only("lr_glitch"), steps(rates, metric="learning_rate")) == []
    rates[150:170] = [100 * rate for rate in rates[150:170]]
    assert raised(only("lr_glitch"), steps(rates, metric="learning_rate")) == [("lr_glitch", "warning", 151)]
