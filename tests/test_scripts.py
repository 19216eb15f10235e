"""What scripts make of clips, on motions whose numbers are worked out by hand, and what does not fool them."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from backflip.envs import TASKS
from backflip.envs.scripts import Flip, OffFloor, _heights, backflip_score, backflips, one_leg_score, one_leg_share
from backflip.segments import Array

pytest.importorskip("mujoco")

RATE = 125.0
"""The Hopper's own steps a second; in the backflip's task it acts 50 times."""
STANDS = 1.21
"""Height of the torso where the foot touches the floor: the model stands at 1.25, 4 cm above it."""
FLIES = 2.2
"""Height of the torso at which the Hopper can turn without touching anything: it reaches 1.25 m from the torso."""
SLOW = 20.0
"""The Cheetah's steps a second."""


def hopper(*parts: tuple[int, float, float, float]) -> Array:
    """States of a stretched Hopper: for each part, steps, torso height, and the backward turn in radians, from, to."""
    backward = np.concatenate([np.linspace(begin, end, steps) for steps, _, begin, end in parts])
    states = np.zeros((len(backward), 12), np.float32)
    states[:, 1] = np.concatenate([np.full(steps, height) for steps, height, *_ in parts])
    states[:, 2] = -backward
    return states


def rolls(states: Array) -> Array:
    """The same turns on the floor: some part of the Hopper touches it in each step."""
    lowest = _heights("Hopper-v5", states)
    lowered = states.copy()
    lowered[:, 1] -= lowest.min(1)
    return lowered


def stands(steps: int, turn: float = 0) -> tuple[int, float, float, float]:
    """Standing still, `turn` whole turns from the beginning."""
    return steps, STANDS, 2 * np.pi * turn, 2 * np.pi * turn


def flies(steps: int, begin: float, end: float) -> tuple[int, float, float, float]:
    """Turning in the air, in shares of a whole turn."""
    return steps, FLIES, 2 * np.pi * begin, 2 * np.pi * end


def lies(steps: int, begin: float, end: float | None = None) -> tuple[int, float, float, float]:
    """On the floor, at a share of a whole turn or turning to another."""
    return steps, 0.04, 2 * np.pi * begin, 2 * np.pi * (begin if end is None else end)


def remembered(states: Array) -> Array:
    """What the Hopper sees of its flip in each step, of an episode that began with the clip."""
    flip = Flip(RATE)
    return np.array([flip.see(state[:6]) for state in states], np.float32)


def score(states: Array) -> float:
    """What the script makes of a clip with which an episode began."""
    return backflip_score(states, remembered(states), RATE)


FLIP = hopper(stands(40), flies(80, 0, 1), stands(68, 1))
"""One backflip, in a clip of 188 steps."""


def test_a_negative_pitch_leans_the_torso_back() -> None:
    # The Hopper is paid for going to +x, and its foot points there: that is forward.
    import mujoco

    env = TASKS["hopper-backflip"].make()
    bare = env.unwrapped
    model, data = bare.model, bare.data  # type: ignore[attr-defined]  # MuJoCo's
    for pitch, leans in ((-0.5, -1), (0.5, 1)):
        data.qpos[:] = [0, 1.25, pitch, 0, 0, 0]
        mujoco.mj_forward(model, data)
        head_x = data.body("torso").xmat.reshape(3, 3)[0, 2]  # where the torso's upward axis points
        assert np.sign(head_x) == leans
        np.testing.assert_allclose(abs(head_x), np.sin(0.5), rtol=1e-6)
    data.qpos[:] = [0, 1.25, 0, 0, 0, 0]
    mujoco.mj_forward(model, data)
    assert data.body("foot").xpos[0] > 0
    env.close()


def test_a_backflip_is_worth_a_turn_and_its_repetition_as_much_again() -> None:
    assert score(FLIP) == pytest.approx(2 * np.pi, abs=1e-5)
    twice = hopper(stands(30), flies(60, 0, 1), stands(26, 1), flies(60, 1, 2), stands(26, 2))
    assert score(twice) == pytest.approx(4 * np.pi, abs=1e-5)


def test_the_turn_in_the_air_is_counted_in_radians() -> None:
    still, bit, half = (hopper(stands(40), flies(100, 0, turn)) for turn in (0, 0.1, 0.5))
    assert score(bit) - score(still) == pytest.approx(0.2 * np.pi, abs=1e-6)
    assert score(half) - score(still) == pytest.approx(np.pi, abs=1e-6)


def test_to_stand_is_worth_nothing_and_a_second_on_its_back_costs_one() -> None:
    assert score(hopper(stands(250))) == 0
    assert score(hopper((250, FLIES, 0, 0))) == 0
    assert score(hopper(lies(250, 0.25))) == pytest.approx(-2, abs=1e-6)
    # Upside down, whatever of it touches the floor.
    assert score(rolls(hopper(flies(250, 0.5, 0.5)))) == pytest.approx(-2, abs=1e-6)


def test_clips_are_ordered_as_the_question_orders_them() -> None:
    ordered = {
        "two flips": hopper(stands(30), flies(60, 0, 1), stands(26, 1), flies(60, 1, 2), stands(26, 2)),
        "a flip": FLIP,
        "a turn that ends on the back": hopper(stands(40), flies(80, 0, 0.8), lies(68, 0.8)),
        "half a turn, then on its head": hopper(stands(68), flies(60, 0, 0.5), lies(60, 0.5)),
        "a jump with some backward turn": hopper(stands(80), flies(60, 0, 0.15), stands(48, 0.15)),
        "standing": hopper(stands(188)),
        "lying": hopper(lies(188, 0.25)),
    }
    scores = [score(states) for states in ordered.values()]
    assert scores == sorted(scores, reverse=True), dict(zip(ordered, scores, strict=True))
    assert len(set(scores)) == len(scores)


def test_standing_jumping_and_turning_forward_are_what_people_call_a_tie() -> None:
    task = TASKS["hopper-backflip"]
    assert task.segment_steps is not None
    whole = round(task.segment_steps * RATE / 50)  # it acts 50 times a second
    parts = [stands(whole), flies(whole, 0, 0), flies(whole, 0, -1)]
    assert [score(hopper(part)) for part in parts] == [0, 0, 0]
    half = [stands(whole // 2), lies(whole - whole // 2, 0.25)]
    assert -task.script_margin < score(hopper(*half)) < 0
    assert score(hopper(lies(whole, 0.25))) < -task.script_margin
    assert score(hopper(flies(whole, 0, 0.2))) > task.script_margin


def test_the_score_grows_with_the_turn_and_never_falls() -> None:
    turns = np.linspace(0, 1, 21)
    scores = [score(hopper(stands(40), flies(100, 0, turn))) for turn in turns]
    assert (np.diff(scores) > 0).all()


def test_forward_turns_gain_nothing() -> None:
    forward = hopper(stands(40), flies(80, 0, -1), stands(68, -1))
    assert score(forward) == 0
    back_and_forth = hopper(stands(10), flies(60, 0, 1), stands(30, 1), flies(60, 1, 0), stands(28))
    assert score(back_and_forth) == pytest.approx(2 * np.pi, abs=1e-5)


def test_who_has_not_landed_gains_nothing_by_turning_on() -> None:
    tumble = hopper(stands(40), flies(120, 0, 3), stands(68, 3))
    assert score(tumble) == pytest.approx(score(FLIP), abs=1e-5)
    # Upright for 20 of the 25 steps that a landing takes, 6 of them within the flights.
    bounce = hopper(stands(40), flies(60, 0, 1), stands(14, 1), flies(60, 1, 2), stands(14, 2))
    assert score(bounce) == pytest.approx(2 * np.pi, abs=1e-5)


def test_of_a_turn_with_a_crash_in_it_what_was_in_the_air_is_paid() -> None:
    crash = [stands(40), flies(40, 0, 0.6), lies(10, 0.6, 0.7), flies(40, 0.7, 1), stands(60, 1)]
    assert score(hopper(*crash)) == pytest.approx(2 * np.pi * 0.9 - 10 / RATE, abs=0.05)
    again = score(hopper(*crash, flies(80, 1, 2), stands(60, 2)))
    assert again == pytest.approx(score(hopper(*crash)) + 2 * np.pi, abs=0.05)


def test_leaning_back_again_and_again_is_paid_once() -> None:
    lean = [flies(20, 0, 0.2), flies(20, 0.2, 0)]
    assert score(hopper(*lean * 5)) == pytest.approx(0.4 * np.pi, abs=1e-5)


@pytest.mark.parametrize("turns", [1, 5, 50])
def test_rolling_on_the_floor_is_worth_less_than_standing_however_often(turns: int) -> None:
    # A stretched Hopper as a wheel: standing, on its back, on its head, on its front. It is as high as one that stands.
    rolling = rolls(hopper(flies(188, 0, turns)))
    assert score(rolling) < score(hopper(stands(188)))
    assert backflips(rolls(hopper(flies(1000, 0, turns))), RATE) == 0
    assert score(hopper(lies(188, 0, turns))) < score(hopper(stands(188)))


def test_rocking_to_and_fro_on_the_head_is_worth_less_than_standing() -> None:
    rocking = rolls(hopper(*[flies(20, 0.3, 0.7), flies(20, 0.7, 0.3)] * 5))
    assert score(rocking) < score(hopper(stands(200)))
    assert backflips(rocking, RATE) == 0


def test_a_turn_that_comes_down_on_its_head_is_worth_less_the_longer_it_stays_there() -> None:
    scores = [score(hopper(stands(20), flies(80, 0, 0.7), lies(n, 0.7))) for n in (0, 20, 60, 100)]
    np.testing.assert_allclose(np.diff(scores), -1 * np.array([20, 40, 40]) / RATE, atol=1e-6)


def test_a_roll_over_the_floor_that_ends_upright_is_not_a_backflip() -> None:
    roll = rolls(hopper(flies(40, 0, 0), flies(80, 0, 1), flies(68, 1, 1)))
    assert backflips(roll, RATE) == 0
    assert score(roll) < score(hopper(stands(188)))
    # With a jump from the head to the foot only that half of the turn is in the air.
    kip = np.concatenate([rolls(hopper(flies(40, 0, 0.5))), hopper(flies(80, 0.5, 1), stands(68, 1))])
    assert backflips(kip, RATE) == 0
    assert score(kip) < np.pi + 0.5


def test_what_the_clip_does_not_show_does_not_count() -> None:
    late = hopper(flies(40, 0.5, 1), stands(148, 1))
    assert score(late) == pytest.approx(np.pi, abs=1e-5)


def test_what_touches_the_floor_is_seen() -> None:
    for part, seen in ((stands(5), [1, 0]), (flies(5, 0, 0.1), [0, 0]), (lies(5, 0.25), [1, 1])):
        np.testing.assert_array_equal(remembered(hopper(part))[:, :2], [seen] * 5)
    np.testing.assert_array_equal(remembered(rolls(hopper(flies(5, 0, 0))))[:, :2], [[1, 0]] * 5)


# ---- counting backflips


def test_backflips_of_an_episode_are_counted() -> None:
    assert backflips(hopper(stands(1000)), RATE) == 0
    assert backflips(FLIP, RATE) == 1
    thrice = [part for n in range(3) for part in (flies(80, n, n + 1), stands(40, n + 1))]
    assert backflips(hopper(stands(60), *thrice, stands(100, 3)), RATE) == 3
    assert backflips(hopper(flies(80, 0, 1), stands(40, 1)), RATE) == 1, "it may begin with the jump"


def test_a_double_somersault_is_two() -> None:
    assert backflips(hopper(stands(40), flies(150, 0, 2), stands(60, 2)), RATE) == 2


def test_a_landing_has_to_be_upright_for_a_fifth_of_a_second() -> None:
    # 0.2 s are 25 steps. It is within 0.4 of upright in the last 1 + 79·0.4/2π = 6 steps of the flight already.
    for steps, counted in ((10, 0), (18, 0), (19, 1), (60, 1)):
        landed = hopper(stands(40), flies(80, 0, 1), stands(steps, 1), lies(60, 1.25))
        assert backflips(landed, RATE) == counted
    crooked = hopper(stands(40), flies(80, 0, 0.93), (68, STANDS, 0.93 * 2 * np.pi, 0.93 * 2 * np.pi))
    assert backflips(crooked, RATE) == 0  # 0.07 turns are 0.44
    assert backflips(replace_height(FLIP, 120, 0.65), RATE) == 0


def replace_height(states: Array, first: int, height: float) -> Array:
    """The same with another torso height from a step on."""
    changed = states.copy()
    changed[first:, 1] = height
    return changed


def test_forward_flips_and_turns_with_a_crash_do_not_count() -> None:
    assert backflips(hopper(stands(40), flies(80, 0, -1), stands(68, -1)), RATE) == 0
    crash = hopper(stands(40), flies(40, 0, 0.5), lies(30, 0.5, 0.9), (30, 0.9, 1.8 * np.pi, 2 * np.pi), stands(60, 1))
    assert backflips(crash, RATE) == 0
    # Whoever lay on the floor and stands again may still flip.
    again = hopper(stands(40), lies(30, 0.25), stands(40), flies(80, 0, 1), stands(60, 1))
    assert backflips(again, RATE) == 1
    # After a forward flip, a backward one is one.
    both = hopper(stands(40), flies(80, 0, -1), stands(40, -1), flies(80, -1, 0), stands(60))
    assert backflips(both, RATE) == 1


def test_an_upright_moment_in_the_air_is_no_landing() -> None:
    assert backflips(hopper(stands(40), flies(80, 0, 1), flies(80, 1, 1)), RATE) == 0


# ---- one leg


def cheetah(*parts: tuple[int, float, str]) -> Array:
    """States of a Cheetah: for each part, steps, speed in m/s, and what touches the floor."""
    postures = {
        "both": (-0.13, 0.0),
        "back": (0.05, -0.3),
        "front": (0.05, 0.3),
        "none": (0.3, 0.0),
        "body": (-0.65, 0),
    }
    states = np.zeros((sum(steps for steps, *_ in parts), 18), np.float32)
    at = 0
    for steps, speed, touching in parts:
        states[at : at + steps, 9] = speed
        states[at : at + steps, 1:3] = postures[touching]
        at += steps
    states[1:, 0] = np.cumsum(states[:-1, 9]) / SLOW
    return states


def one_leg(states: Array) -> float:
    """What the script makes of a clip; it does not matter what the Cheetah saw."""
    return one_leg_score(states, np.zeros((len(states), 17), np.float32), SLOW)


def gallop(speed: float) -> Array:
    """A second and a half of a run, six strides: one leg, the air, the other."""
    return cheetah(*([(2, speed, "back"), (1, speed, "none"), (2, speed, "front")] * 6))


def leaps(speed: float) -> Array:
    """Half a second in the air out of 0.6, from both legs."""
    return cheetah(*([(2, speed, "both"), (10, speed, "none")] * 3), (2, speed, "both"))


def test_forward_on_one_leg_is_worth_one_and_the_speed_and_a_fifth() -> None:
    # s = u = 1, and 29 of the 30 steps' ways lie in the clip, over the time of 29.
    for leg in ("back", "front"):
        assert one_leg(cheetah((30, 0, leg))) == pytest.approx(1.2)
        assert one_leg(cheetah((30, 2, leg))) == pytest.approx(3.2, rel=1e-5)
        assert one_leg(cheetah((30, -2, leg))) == pytest.approx(1.0, rel=1e-5)
    # Both legs touch for 5 steps of 30, and are taken for in use 4 steps longer: s = 21/30, u = 25/30, v = 20·2/29.
    begun = cheetah((5, 0, "both"), (25, 2, "back"))
    assert one_leg(begun) == pytest.approx(0.49 * (1 + 40 / 29) + 0.2 * 25 / 30, rel=1e-5)


def test_movements_are_ordered_as_the_question_orders_them() -> None:
    ordered = {
        "fast on one leg": cheetah((30, 4, "front")),
        "on one leg": cheetah((30, 1, "front")),
        "hopping on one leg": cheetah(*([(3, 0.8, "back"), (3, 0.8, "none")] * 5)),
        "standing on one leg": cheetah((30, 0, "back")),
        "standing on one leg, then on two": cheetah((20, 0, "back"), (10, 0, "both")),
        "a gallop": gallop(8),
        "standing on two": cheetah((30, 0, "both")),
        "backward on two": cheetah((30, -2, "both")),
    }
    scores = [one_leg(states) for states in ordered.values()]
    assert scores[:-1] == sorted(scores[:-1], reverse=True), dict(zip(ordered, scores, strict=True))
    assert scores[-1] <= scores[-2] == 0


@pytest.mark.parametrize(
    "states",
    [gallop(10), leaps(4), cheetah((30, 5, "body")), cheetah(*([(6, 3, "back"), (6, 3, "front")] * 3))],
    ids=["gallop", "leaps", "body", "legs in turn"],
)
def test_going_fast_on_more_than_one_leg_is_worth_less_than_standing_on_one(states: Array) -> None:
    assert one_leg(states) < 0.5
    assert one_leg_share(states, SLOW) < 0.2


def test_a_cheetah_sees_how_long_body_and_legs_have_been_off_the_floor() -> None:
    states = cheetah((3, 0, "back"), (2, 0, "none"), (1, 0, "both"), (5, 0, "front"), (1, 0, "body"))
    off = OffFloor(SLOW)
    body, back, front = np.array([off.see(state[:9]) for state in states]).T
    np.testing.assert_allclose(body, [0.25, 0.5, 0.75, *8 * [1], 0])
    np.testing.assert_allclose(back[:11], [0, 0, 0, 0.25, 0.5, 0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(front[:11], [0.25, 0.5, 0.75, 1, 1, *6 * [0]])


def test_the_share_on_one_leg_is_that_of_steps_faster_than_a_metre_a_second() -> None:
    assert one_leg_share(cheetah((100, 2, "back")), SLOW) == 1
    assert one_leg_share(cheetah((100, 1, "back")), SLOW) == 0
    assert one_leg_share(cheetah((60, 2, "back"), (40, 0.5, "back")), SLOW) == pytest.approx(0.6)
    assert one_leg_share(cheetah((100, 2, "both")), SLOW) == 0
    # Always the same leg: 50 steps on each, of which 4 lie near the other's.
    assert one_leg_share(cheetah((50, 2, "back"), (50, 2, "front")), SLOW) == pytest.approx(0.46)


# ---- both


@pytest.mark.parametrize(("name", "rate", "size"), [("hopper-backflip", 50.0, 12), ("cheetah-one-leg", SLOW, 18)])
def test_any_clip_gets_a_number_that_depends_on_nothing_but_the_clip(name: str, rate: float, size: int) -> None:
    task = TASKS[name]
    assert task.script
    assert task.behaviour
    rng = np.random.default_rng(0)
    for steps in (1, 2, 7, 188):
        states = rng.normal(size=(steps, size)).astype(np.float32)
        before = states.copy()
        seen = rng.normal(size=(steps, 16)).astype(np.float32)
        for judge in (partial(task.script, states, seen), partial(task.behaviour.measure, states)):
            first = judge(rate)
            assert np.isfinite(first)
            assert judge(rate) == first
        np.testing.assert_array_equal(states, before)


def test_where_the_robot_is_does_not_matter() -> None:
    moved = FLIP.copy()
    moved[:, 0] += 37
    assert score(moved) == score(FLIP)
    # Three turns on, as in an episode where it flipped before.
    later = FLIP.copy()
    later[:, 2] -= 6 * np.pi
    assert backflip_score(later, remembered(FLIP), RATE) == pytest.approx(score(FLIP), abs=1e-3)


def test_only_tasks_without_a_true_reward_have_scripts() -> None:
    assert {task.name for task in TASKS.values() if task.script} == {"hopper-backflip", "cheetah-one-leg"}
    assert {task.name for task in TASKS.values() if task.behaviour} == {"hopper-backflip", "cheetah-one-leg"}
    assert not any(task.has_true_reward for task in TASKS.values() if task.script)


@pytest.mark.parametrize("name", ["hopper-backflip", "cheetah-one-leg"])
def test_whole_episodes_are_measured_from_recorded_states(name: str) -> None:
    from backflip.envs.episodes import first_behaviours, whole_episodes

    task = TASKS[name]
    still = np.zeros((2, *(task.make().action_space.shape or ())), np.float32)
    (played,) = whole_episodes(task, lambda seen: still, 2, 50, 0)
    assert played.states.shape[:2] == (50, 2)
    assert first_behaviours(task, played) == [0, 0]
    assert first_behaviours(replace(task, behaviour=None), played) == []
