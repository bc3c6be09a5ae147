"""Each loss by name: scikit-learn's or torch's own numbers, float64 slopes, and a tuning run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from courts import court_for
from graphs import parse
from pipelines import data_of, exported
from skl2onnx import to_onnx
from sklearn import metrics as reference
from sklearn.svm import LinearSVC

from onnxtune.errors import ArgumentError, DataError, UnsupportedError
from onnxtune.export import native
from onnxtune.links import Link, Source
from onnxtune.losses import LOSSES, Loss, Output, choose_loss
from onnxtune.number_losses import SMALLEST_RATE
from onnxtune.row_losses import expected_loss
from onnxtune.runtime import run
from onnxtune.scaling import scaled
from onnxtune.smaller import as_target
from onnxtune.targets import target_for
from onnxtune.tuning import tune

ROWS = 40
generator = torch.Generator().manual_seed(0)


def drawn(columns: int) -> torch.Tensor:
    return torch.randn(ROWS, columns, generator=generator, dtype=torch.float64)


Z, WANTED = drawn(3), drawn(3)
CLASS = torch.randint(0, 3, (ROWS,), generator=generator)
SECOND = (CLASS > 0).long()
COUNTS = torch.poisson(torch.full((ROWS, 3), 2.0, dtype=torch.float64), generator=generator)


def loss_of(name: str, link: Link = "identity", columns: int = 3, labels: int = 0,
            **more: Any) -> Loss:  # fmt: skip
    mirrored = more.pop("of_mirrored", False)
    return choose_loss(name, Output(Source(link, "z", mirrored), columns, labels, **more))


# Numbers


@pytest.mark.parametrize("threshold", [0.3, 1.35])
def test_huber_is_that_of_torch(threshold: float) -> None:
    found = loss_of(f"huber({threshold})").rows(Z, WANTED)
    expected = F.huber_loss(Z, WANTED, reduction="none", delta=threshold).mean(1)
    torch.testing.assert_close(found, expected)
    far = (Z - WANTED).abs()
    by_hand = torch.where(far <= threshold, far**2 / 2, threshold * (far - threshold / 2))
    torch.testing.assert_close(found, by_hand.mean(1))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_pinball_is_that_of_sklearn(quantile: float) -> None:
    found = loss_of(f"pinball({quantile})").rows(Z, WANTED)
    expected = reference.mean_pinball_loss(WANTED, Z, alpha=quantile)
    assert found.mean().item() == pytest.approx(expected)


DEVIANCES = {"poisson": 1.0, "gamma": 2.0, "tweedie": 1.5, "tweedie(1)": 1.0, "tweedie(1.2)": 1.2,
             "tweedie(2)": 2.0, "tweedie(3)": 3.0}  # fmt: skip


def rated(name: str) -> torch.Tensor:
    return COUNTS if DEVIANCES[name] < 2 else COUNTS + 0.5


@pytest.mark.parametrize("name", DEVIANCES)
def test_deviances_are_half_of_sklearns(name: str) -> None:
    rate, target = Z.exp(), rated(name)
    expected: Any = [
        reference.mean_tweedie_deviance(y, f, power=DEVIANCES[name]) / 2
        for y, f in zip(target.numpy(), rate.numpy(), strict=True)
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    behind = loss_of(name, "exp")
    assert behind.of_source and behind.power == DEVIANCES[name]
    torch.testing.assert_close(behind.rows(Z, target), expected)
    plain = loss_of(name)
    assert not plain.of_source
    torch.testing.assert_close(plain.rows(rate, target), expected)


@pytest.mark.parametrize("name", DEVIANCES)
def test_a_rate_of_nothing_has_a_finite_loss_that_leads_up(name: str) -> None:
    loss = loss_of(name, columns=1, size=2.0)
    target = torch.full((3, 1), 4.0, dtype=torch.float64)
    floor = SMALLEST_RATE * 2
    output = torch.tensor([[0.0], [-1.0], [floor]], dtype=torch.float64, requires_grad=True)
    found = loss.rows(output, target)
    found.sum().backward()
    assert output.grad is not None
    assert torch.isfinite(found).all() and (output.grad < 0).all()
    # A straight line with the slope where it begins.
    torch.testing.assert_close(output.grad[:2], output.grad[2:].expand(2, 1))
    torch.testing.assert_close(found[0] - found[2], -floor * output.grad[2, 0])


def test_a_rate_far_out_is_still_a_number() -> None:
    """Where a power overflows and the target is 0."""
    z = torch.full((1, 1), -300.0, requires_grad=True)
    loss_of("tweedie(1.5)", "exp", 1).rows(z, torch.zeros(1, 1)).sum().backward()
    assert z.grad is not None and torch.isfinite(z.grad).all()


# Classes


def margin(scores: torch.Tensor) -> float:
    return float(reference.hinge_loss(CLASS, scores.numpy(), labels=[0, 1, 2]))


def test_hinge_is_that_of_sklearn() -> None:
    behind: list[Link] = ["softmax", "sigmoid", "identity"]
    for link in behind:
        loss = loss_of("hinge", link, labels=3)
        assert loss.of_source == (link != "identity") and loss.target == "classes"
        assert loss.rows(Z, CLASS).mean().item() == pytest.approx(margin(Z))
    votes = torch.softmax(Z, 1)
    found = loss_of("hinge", labels=3, distribution=True, share=True).rows(votes, CLASS)
    assert found.mean().item() == pytest.approx(margin(votes))


def test_hinge_of_two_classes_is_that_of_sklearn() -> None:
    score, sign = Z[:, :1], 2 * SECOND - 1
    expected = float(reference.hinge_loss(sign, score[:, 0]))
    pair = torch.cat([-score, score], 1)
    apart = torch.cat([WANTED[:, :1], score + WANTED[:, :1]], 1)
    as_float = SECOND[:, None].double()
    for loss, value, target in (
        (loss_of("hinge", columns=2, labels=2, mirrored=True), pair, SECOND),
        (loss_of("hinge", "sigmoid", columns=2, labels=2, of_mirrored=True), pair, SECOND),
        (loss_of("hinge", "softmax", columns=2, labels=2), apart, SECOND),
        (loss_of("hinge", columns=2, labels=2), apart, SECOND),
        (loss_of("hinge", "sigmoid", columns=1, labels=2), score, as_float),
        (loss_of("hinge", "sigmoid", columns=1), score, as_float),
        (loss_of("hinge", columns=1, labels=2), score, as_float),
    ):
        assert loss.rows(value, target).mean().item() == pytest.approx(expected)
    share = torch.sigmoid(score)
    found = loss_of("hinge", columns=1, labels=2, share=True).rows(share, as_float)
    by_hand = float(reference.hinge_loss(sign, 2 * share[:, 0] - 1))
    assert found.mean().item() == pytest.approx(by_hand)


def focal_by_hand(z: torch.Tensor, wanted: torch.Tensor, focus: float) -> torch.Tensor:
    """torchvision.ops.sigmoid_focal_loss without alpha."""
    p = torch.sigmoid(z)
    entropy = F.binary_cross_entropy_with_logits(z, wanted, reduction="none")
    right = p * wanted + (1 - p) * (1 - wanted)
    return entropy * (1 - right) ** focus


@pytest.mark.parametrize("focus", [0.5, 1.0, 2.0, 3.7])
def test_focal_is_its_formula(focus: float) -> None:
    name, rows = f"focal({focus})", torch.arange(ROWS)
    right = torch.softmax(Z, 1)[rows, CLASS]
    found = loss_of(name, "softmax", labels=3).rows(Z, CLASS)
    torch.testing.assert_close(found, -((1 - right) ** focus) * right.log())
    lifted = (right + 1e-3) / (1 + 3e-3)
    found = loss_of(name, labels=3, distribution=True).rows(torch.softmax(Z, 1), CLASS)
    torch.testing.assert_close(found, -((1 - lifted) ** focus) * lifted.log())
    one_hot = F.one_hot(CLASS, 3).double()
    found = loss_of(name, "sigmoid", labels=3).rows(Z, CLASS)
    torch.testing.assert_close(found, focal_by_hand(Z, one_hot, focus).sum(1))
    second = SECOND[:, None].double()
    expected = focal_by_hand(Z[:, :1], second, focus)[:, 0]
    for labels in (0, 2):
        found = loss_of(name, "sigmoid", 1, labels).rows(Z[:, :1], second)
        torch.testing.assert_close(found, expected)
    pair = torch.cat([-Z[:, :1], Z[:, :1]], 1)
    found = loss_of(name, "sigmoid", 2, 2, of_mirrored=True).rows(pair, SECOND)
    torch.testing.assert_close(found, expected)
    found = loss_of(name, "sigmoid", 3).rows(Z, one_hot)
    torch.testing.assert_close(found, focal_by_hand(Z, one_hot, focus).mean(1))


def test_focal_without_focus_is_the_log_loss() -> None:
    links: list[Link] = ["softmax", "sigmoid", "identity"]
    for link in links:
        ours, log = (loss_of(name, link, labels=3) for name in ("focal(0)", "log"))
        torch.testing.assert_close(ours.rows(Z, CLASS), log.rows(Z, CLASS))


@pytest.mark.parametrize("focus", [0.5, 2.0])
def test_focal_of_a_certain_row_has_a_slope(focus: float) -> None:
    for sign in (1, -1):
        z = (sign * torch.tensor([[200.0, -200.0]])).requires_grad_()
        loss_of(f"focal({focus})", "softmax", 2, 2).rows(z, torch.tensor([0])).sum().backward()
        assert z.grad is not None and torch.isfinite(z.grad).all()
        assert (z.grad[0, 0] < -0.5) == (sign < 0)


# Slopes

KINDS: dict[str, tuple[Link, int, int, dict[str, Any]]] = {
    "softmax": ("softmax", 3, 3, {}),
    "mirrored": ("sigmoid", 2, 2, {"of_mirrored": True}),
    "a model a class": ("sigmoid", 3, 3, {}),
    "votes": ("identity", 3, 3, {"distribution": True, "share": True}),
    "scores": ("identity", 3, 3, {}),
    "mirrored scores": ("identity", 2, 2, {"mirrored": True}),
    "one logit": ("sigmoid", 1, 2, {}),
    "logits without labels": ("sigmoid", 3, 0, {}),
    "one score": ("identity", 1, 2, {}),
    "one share": ("identity", 1, 2, {"share": True}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["log", "focal", "focal(0.5)", "hinge"])
def test_slopes_of_class_losses(name: str, kind: str) -> None:
    link, columns, labels, more = KINDS[kind]
    loss = loss_of(name, link, columns, labels, **dict(more))
    value = Z[:, :columns]
    if more.get("share"):
        value = torch.softmax(Z, 1)[:, :columns]
    target: torch.Tensor = CLASS if columns == 3 else SECOND
    if loss.target != "classes":
        target = F.one_hot(CLASS, 3)[:, :columns].double()
    assert torch.autograd.gradcheck(
        lambda given: loss.rows(given, target), value.clone().requires_grad_(), eps=1e-7
    )


@pytest.mark.parametrize("link", ["exp", "identity"])
@pytest.mark.parametrize("name", ["squared", "absolute", "huber", "pinball(0.8)", *DEVIANCES])
def test_slopes_of_number_losses(name: str, link: Link) -> None:
    loss = loss_of(name, link, size=0.1)
    target = rated(name) if name in DEVIANCES else WANTED
    value = Z if loss.of_source or name not in DEVIANCES else Z.exp()
    assert torch.autograd.gradcheck(
        lambda given: loss.rows(given, target), value.clone().requires_grad_(), eps=1e-7
    )
    if name in DEVIANCES and link == "identity":
        below = (-Z.exp()).requires_grad_()
        assert torch.autograd.gradcheck(lambda given: loss.rows(given, target), below)


# Names, targets and teachers


def test_defaults_and_spaces() -> None:
    names = ("huber", "pinball", "tweedie", "focal", " huber ( 2 ) ", "gamma", "focal(1e0)")
    found = [loss_of(name, labels=3) for name in names]
    assert [loss.name for loss in found] == [
        "huber(1.35)", "pinball(0.5)", "tweedie(1.5)", "focal(2)", "huber(2)", "gamma", "focal(1)",
    ]  # fmt: skip
    assert [loss.kind for loss in found[3:]] == ["focal", "huber", "gamma", "focal"]
    for loss in found:
        again = loss_of(loss.name, labels=3)
        assert (again.name, again.kind, again.power) == (loss.name, loss.kind, loss.power)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("huber(0)", r"'huber\(0\)': huber takes a number above 0 .* such as 'huber\(1.35\)'"),
        ("huber()", "a number above 0"),
        ("huber(inf)", "a number above 0"),
        ("pinball(1)", "a quantile between 0 and 1"),
        ("pinball(nan)", "a quantile between 0 and 1"),
        ("pinball(0.1, 0.9)", "a quantile between 0 and 1"),
        ("tweedie(0.5)", "a power from 1 on"),
        ("focal(-1)", "a number from 0 on"),
        ("squared(2)", "squared takes no parameter; write 'squared'"),
        ("gamma()", "gamma takes no parameter"),
        ("auto(1)", "none of log, focal, hinge"),
        ("huber(1", "none of log, focal, hinge"),
        ("Huber", "none of log, focal, hinge"),
        ("", "none of log, focal, hinge"),
    ],
)
def test_what_is_no_loss_is_refused(name: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        loss_of(name, labels=3)


@pytest.mark.parametrize("name", ["log", "focal", "hinge"])
def test_losses_of_classes_need_some(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"The {name}.* loss needs class .*no class labels"):
        loss_of(name)


def test_a_callable_is_no_loss_of_that_name() -> None:
    def log(output: Any, target: Any) -> Any:
        return (output - target).square().mean(1)

    loss = choose_loss(log, Output(Source("identity", "z"), 1))
    assert (loss.name, loss.kind, loss.plain) == ("log", None, True)


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("poisson", -1.0, "without negative values, and row 2 .* holds -1"),
        ("tweedie(1.9)", -1.0, "without negative values"),
        ("gamma", 0.0, "a target above 0, and row 2 .* holds 0"),
        ("tweedie(2.5)", 0.0, "a target above 0"),
    ],
)
def test_targets_outside_the_domain(name: str, bad: float, message: str) -> None:
    class Given:
        rows, target = 4, np.array([1.0, 2.0, bad, bad])

    given: Any = Given
    with pytest.raises(DataError, match=message):
        target_for(given, loss_of(name, "exp", 1), None, 1)
    Given.target = np.array([1.0, 2.0, 0.0 if bad else 0.1, 3.0])
    assert target_for(given, loss_of(name, "exp", 1), None, 1).shape == (4, 1)


def test_shares_are_from_nothing_to_one() -> None:
    class Given:
        rows, target = 2, np.array([1.0, 2.0])

    given: Any = Given
    for name in ("log", "focal", "hinge"):
        with pytest.raises(DataError, match=f"{name}.* needs a target of 0 and 1"):
            target_for(given, loss_of(name, "sigmoid", 1), None, 1)


@pytest.mark.parametrize("name", ["focal", "hinge"])
def test_what_a_teacher_says_of_classes_is_drawn(name: str) -> None:
    share = torch.softmax(WANTED, 1)
    loss = loss_of(name, "softmax", labels=3)
    every = torch.stack([loss.rows(Z, torch.full((ROWS,), k)) for k in range(3)], 1)
    torch.testing.assert_close(expected_loss(loss, Z, share), (share * every).sum(1))
    one = loss_of(name, "sigmoid", 1, 2)
    z, said = Z[:, :1], share[:, 0]
    yes, no = (one.rows(z, torch.full((ROWS, 1), value)) for value in (1.0, 0.0))
    expected = said * yes + (1 - said) * no
    torch.testing.assert_close(expected_loss(one, z, said[:, None]), expected)


def test_what_a_teacher_says_of_a_rate_is_above_nothing() -> None:
    scored = Output(Source("identity", "z"), 3, size=2.0)
    teacher = as_target(Z, loss_of("gamma"), scored)
    assert teacher.min() == 2 * SMALLEST_RATE and torch.equal(teacher.clamp(min=1), Z.clamp(min=1))
    assert torch.isfinite(expected_loss(loss_of("gamma", "exp"), Z, teacher)).all()


# Tuning

NUMBERS = ["squared", "absolute", "huber", "huber(3)", "pinball(0.9)"]
TREES = ("forest", "boosting", "regression boosting")
CASES = [
    *(("ridge", name) for name in NUMBERS),
    *(("regression boosting", name) for name in ("pinball(0.2)", "gamma", "tweedie(1.2)")),
    *(("poisson", name) for name in ("poisson", "gamma", "tweedie", "tweedie(3)")),
    *((model, name) for model in ("logistic", "logistic of three", "forest", "boosting")
      for name in ("log", "focal", "hinge")),
]  # fmt: skip


@pytest.mark.parametrize(("model", "name"), CASES)
def test_tuning_lowers_the_loss_on_training_rows(model: str, name: str) -> None:
    (X, y), _, _ = data_of(model)
    if name.startswith(("gamma", "tweedie(3)")):
        y = np.maximum(y, 0.5)
    routing: Any = "leaves" if model in TREES else "auto"
    result = tune(exported(model), X, y, valid=(X, y), loss=name, epochs=4, lr=0.01,
                  routing=routing)  # fmt: skip
    assert result.report["loss"] == loss_of(name, labels=3).name
    (trained,) = (
        one for one in result.report["candidates"] if one["name"] in ("leaves", "trained")
    )
    # Beyond what a factor on the scores gains.
    first = next((one["after"] for one in result.report["candidates"] if one["name"] == "scaled"),
                 trained["before"])  # fmt: skip
    assert trained["after"] < first <= trained["before"]


def test_scores_of_support_vectors_by_their_hinge() -> None:
    (X, y), (V, w), _ = data_of("logistic")
    scale = X.std(axis=0)
    X, V = (X / scale).astype(np.float32), (V / scale).astype(np.float32)
    fitted = LinearSVC(C=1e-4).fit(X, y)
    model = to_onnx(fitted, X[:1], options={"raw_scores": True})
    result = tune(model, X, y, valid=(V, w), loss="hinge", epochs=4)
    expected = reference.hinge_loss(2 * w - 1, fitted.decision_function(V))
    assert result.verdicts["hard"].before == pytest.approx(expected, rel=1e-4)
    assert result.accepted


def test_a_forest_in_logits_is_judged_by_its_focal_loss() -> None:
    """It moves there as under the log loss, and is then judged in front of its link."""
    (X, y), (V, w), _ = data_of("forest of three")
    problem, court = court_for(exported("forest of three"), X, y, (V, w), "focal(1.5)")
    module = scaled(court, problem.original, problem.original.learned)
    assert module is not None and not court.settings.loss.of_source
    loss = court.settings_for(module).loss
    assert loss.of_source and loss.name == "focal(1.5)"
    share = run(native(module.prepared, {}).proto, {"X": V})["probabilities"].astype(np.float64)
    right = share[np.arange(len(w)), w]
    found = court.losses(module, "hard")
    np.testing.assert_allclose(found, -((1 - right) ** 1.5) * np.log(right), rtol=1e-3, atol=1e-6)
    assert found.mean() < court.original.mean()


def test_a_forest_stays_where_logits_have_a_higher_focal_loss() -> None:
    (X, y), valid, _ = data_of("forest")
    problem, court = court_for(exported("forest"), X, y, valid, "focal")
    assert scaled(court, problem.original, problem.original.learned) is None


def test_hinge_leaves_a_forest_with_its_votes() -> None:
    (X, y), valid, _ = data_of("forest of three")
    problem, court = court_for(exported("forest of three"), X, y, valid, "hinge")
    assert scaled(court, problem.original, problem.original.learned) is None


@pytest.mark.parametrize("name", ["gamma", "tweedie", "poisson", "focal", "hinge"])
def test_no_transform_of_rates_and_classes(name: str) -> None:
    link = "Sigmoid" if name in ("focal", "hinge") else "Exp"
    model = parse(
        f"g (float[N, 2] x) => (float[N, 1] y) {{ z = MatMul (x, w) y = {link} (z) }}",
        w=np.ones((2, 1), np.float32),
    )
    X = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    with pytest.raises(ArgumentError, match=f"'y' is tuned with the {name}"):
        tune(model, X, np.arange(100) % 2 + 0.0, loss=name, target_transform="log1p")


@pytest.mark.parametrize(("kind", "name"), [("rates", "gamma"), ("rates", "tweedie"),
                                            ("classes", "focal")])  # fmt: skip
def test_a_companion_learns_by_them(kind: str, name: str) -> None:
    """What is no line in the features: the network sees it, and the gain is that of the loss."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1400, 2)).astype(np.float32)
    hidden = np.sin(3 * X[:, 0]) * X[:, 1]
    if kind == "rates":
        y = np.exp(hidden) * rng.gamma(4, 1 / 4, len(X))
        link = "Exp"
    else:
        y = (hidden + 0.2 * rng.normal(size=len(X)) > 0).astype(float)
        link = "Sigmoid"
    model = parse(
        f"g (float[N, 2] x) => (float[N, 1] y) {{ z = MatMul (x, w) y = {link} (z) }}",
        w=rng.normal(size=(2, 1)).astype(np.float32) / 10,
    )
    result = tune(model, X[:1000], y[:1000], valid=(X[1000:], y[1000:]), loss=name, epochs=2,
                  companion=True)  # fmt: skip
    beside = result.report["candidates"][-1]
    assert beside["name"] == "with companion" and beside["accepted"]
    assert beside["after"] < 0.8 * beside["before"]
    value = loss_of(name, "identity" if kind == "rates" else "sigmoid", 1)
    made = torch.as_tensor(run(result.model(), {"x": X[1000:]})["y"]).double()
    again = value.rows(made if kind == "rates" else made.logit(1e-7),
                       torch.as_tensor(y[1000:, None])).mean().item()  # fmt: skip
    # The file blends the networks of all folds, and each fold was judged by others.
    assert again < 1.05 * beside["after"]


def test_no_companion_learns_margins() -> None:
    (X, y), valid, _ = data_of("logistic")
    with pytest.raises(UnsupportedError, match="the log or focal loss, and 'hinge' is asked for"):
        tune(exported("logistic"), X, y, valid=valid, loss="hinge", companion=True)


def test_every_loss_is_tried_here() -> None:
    assert {name.partition("(")[0] for _, name in CASES} == set(LOSSES)
