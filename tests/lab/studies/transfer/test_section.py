import numpy as np
import pytest

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies._badges import with_badges
from linear_backprop_lab.studies.transfer.section import transfer
from linear_backprop_lab.studies.transfer.table import comparisons, gain, rows

IMAGES = 400


def fooled(share: float, start: int = 0) -> np.ndarray:
    """Of 400 images the first of every hundred, as many as the share says: a part of those of a larger share."""
    return (np.arange(start, IMAGES + start) % 100) < 100 * share


def made_up(
    root, *, source="VGG19", victim="plain", steps=10, momentum=0.0, images=IMAGES, eps=4 / 255, record=None, **shares
):
    """A run whose attacks fool the victim on a share of images; keys are kinds, values shares by position."""
    config = {
        "experiment": "transfer",
        "source": source,
        "victim": victim,
        "images": images,
        "train_images": 50_000,
        "eps": eps,
        "steps": steps,
        "momentum": momentum,
    }
    run = Run(root, config)
    run.start()
    attacks = [
        (kind.replace("_", " "), changed, share)
        for kind, given in {"I-FGSM": [shares.pop("plain_rate")], **shares}.items()
        for changed, share in enumerate(given, start=kind != "I-FGSM")
    ]
    for kind, changed, _ in attacks:
        run.log(kind=kind, changed=changed, fooled=[], seconds=1.0)
    of_attacks = [[[fooled(1.0), fooled(share)]] * 2 for _, _, share in attacks]
    run.save_arrays("fooled", fooled=np.array(of_attacks)[..., :images])
    run.close(status="finished", images=images, seconds=1.0, **(record or {}))
    return run


def test_rates_and_intervals(tmp_path):
    table = rows([made_up(tmp_path, plain_rate=0.5, LinBP=[0.3, 0.6])])
    assert [(row.victim, row.method.kind, row.method.changed, row.rate) for row in table] == [
        ("plain", "I-FGSM", 0, 0.5),
        ("plain", "LinBP", 1, 0.3),
        ("plain", "LinBP", 2, 0.6),
    ]
    # Wilson's interval of 200 in 400, by its formula.
    z = 1.959964
    half = z * np.sqrt(0.25 / IMAGES + z**2 / (4 * IMAGES**2)) / (1 + z**2 / IMAGES)
    assert table[0].interval == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_a_gain_is_paired_by_image(tmp_path):
    plain, _, better = rows([made_up(tmp_path, plain_rate=0.5, LinBP=[0.3, 0.6])])
    found = gain(better, plain)
    error = 1.96 * np.std(fooled(0.6) * 1.0 - fooled(0.5), ddof=1) / 20
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1 - error, 0.1 + error))
    assert found.direction == 1 and gain(plain, better).direction == -1 and gain(plain, plain).direction == 0


def test_the_best_position_is_chosen_and_judged_on_different_images(tmp_path):
    run = made_up(tmp_path, plain_rate=0.5, LinBP=[0.3, 0.6])
    with np.load(run.folder / "fooled.npz") as arrays:
        of_attacks = arrays["fooled"].copy()
    of_attacks[1, :, 1, 0::2], of_attacks[1, :, 1, 1::2] = True, False  # by luck on those that choose alone
    np.savez_compressed(run.folder / "fooled.npz", fooled=of_attacks)
    (found,) = comparisons(rows([run]))
    assert found.best.method.changed == 1
    assert found.gain.value == -0.5 and found.gain.direction == -1


@pytest.mark.parametrize(
    ("linear", "verdict"),
    [
        ([[0.8], [0.9]], "holds"),
        ([[0.8], [0.2]], "partly"),
        ([[0.5], [0.5]], "no difference seen"),
        ([[0.2], [0.5]], "does not hold"),
    ],
)
def test_a_linear_backward_pass_transfers_better_where_every_gain_is_above_0(tmp_path, linear, verdict):
    first, second = linear
    runs = [
        made_up(tmp_path, plain_rate=0.5, LinBP=first, SiLU=[0.5]),
        made_up(tmp_path, source="bottleneck", plain_rate=0.5, first_two_runs=second, BPA=[0.9]),
    ]
    section = transfer(runs)
    assert [claim.verdict for claim in section.claims] == [verdict, "partly"]
    gains = [100 * (share - 0.5) for (share,) in linear]
    counts = ["ahead in 1" if g > 0 else "ahead in 0 and behind in 1" if g < 0 else "ahead in 0" for g in gains]
    of_sources = [
        f"{gain:+.1f} points from {source} ({count} of 1)"
        for gain, count, source in zip(gains, counts, ("VGG19", "bottleneck"), strict=True)
    ]
    assert section.claims[0].key == ", ".join(of_sources)
    assert f"by {section.claims[0].key} with a linear backward pass; by +0.0 points from VGG19" in section.finding
    assert section.claims[1].measured == (
        "400 images: SiLU: +0.0 points from VGG19 (ahead in 0 of 1); "
        "BPA: +40.0 points from bottleneck (ahead in 1 of 1)"
    )


def test_one_pair_of_networks_decides_nothing(tmp_path):
    section = transfer([made_up(tmp_path, plain_rate=0.5, LinBP=[0.9], SiLU=[0.5])])
    assert {claim.verdict for claim in section.claims} == {"not decided"}
    assert "by +40.0 points from VGG19 (ahead in 1 of 1) with a linear backward pass" in section.finding


def test_every_setting_has_its_line_and_those_of_the_fewest_steps_their_figure(tmp_path):
    runs = [
        made_up(tmp_path, victim=victim, plain_rate=0.5, steps=steps, momentum=m, LinBP=[0.6])
        for victim in ("plain", "MobileNet-like")
        for steps in (10, 100)
        for m in (0.0, 1.0)
    ]
    section = transfer(runs)
    assert [figure.title for figure in section.figures] == [
        "Success by position: 10 steps, momentum 0",
        "Success by position: 10 steps, momentum 1",
    ]
    assert section.table is not None and len(section.table.rows) == 8
    assert "10 with momentum 0, 10 with momentum 1, 100 with momentum 0, 100 with momentum 1" in section.asked


def test_a_smaller_set_of_images_is_told_beside_the_larger(tmp_path):
    whole = made_up(tmp_path, plain_rate=0.5, LinBP=[0.6])
    other = made_up(tmp_path, source="bottleneck", plain_rate=0.5, LinBP=[0.6])
    small = made_up(tmp_path, images=100, plain_rate=0.6, LinBP=[0.3])
    alone, both = transfer([whole, other]), transfer([small, other, whole])
    assert both.finding == alone.finding and both.figures == alone.figures
    assert [claim.verdict for claim in alone.claims] == ["holds", "not decided"]
    assert [claim.verdict for claim in both.claims] == ["partly", "not decided"]
    assert both.claims[0].key == alone.claims[0].key
    assert both.claims[0].measured == f"{alone.claims[0].measured}; 100 images: LinBP: -30.0 points from VGG19 " + (
        "(ahead in 0 and behind in 1 of 1)"
    )
    assert both.table is not None and [cells[0] for cells in both.table.rows] == ["400", "400", "100"]


def test_each_pair_s_own_change_is_told(tmp_path):
    config = {"eps": [1 / 255, 2 / 255, 3 / 255]}
    first = made_up(tmp_path, plain_rate=0.5, LinBP=[0.6], record={"eps": 2 / 255}, **config)
    other = made_up(tmp_path, victim="MobileNet-like", plain_rate=0.5, LinBP=[0.6], record={"eps": 3 / 255}, **config)
    section = transfer([first, other])
    assert "fools the victim on 40% of them" in section.asked
    assert "(VGG19 to MobileNet-like 3/255, VGG19 to plain 2/255)" in section.asked
    assert section.table is not None and [cells[5] for cells in section.table.rows] == ["3/255", "2/255"]
    assert section.rerun.endswith("--scale paper") and section.badges == ()


def test_the_smallest_scale_decides_nothing(tmp_path):
    run = made_up(tmp_path, plain_rate=0.5, LinBP=[0.9])
    run.config["train_images"] = 512
    section = with_badges(transfer([run]), [run])
    assert {claim.verdict for claim in section.claims} == {"not decided"} and section.finding == ""
