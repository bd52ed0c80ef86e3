"""Models that travel to XGBoost and back."""

import json

import jax
import numpy as np
import pytest

import gradkit as gk
from gradkit.boosting import bin, descent, importances, predict
from gradkit.interop.xgboost_models import from_json, to_json

xgboost = pytest.importorskip("xgboost", reason="the peer is not installed")
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(500, 4)).astype(np.float32)
FEATURES[RNG.random(FEATURES.shape) < 0.1] = np.nan
FEATURES[:, 3] = RNG.integers(0, 30, 500)
SIGNAL = np.nan_to_num(FEATURES[:, 0] * FEATURES[:, 1]) + (FEATURES[:, 3] * 7 % 5 < 2)
TARGETS = {
    "reg:squarederror": (gk.losses.absolute, SIGNAL, None),
    "binary:logistic": (gk.losses.logistic, (SIGNAL > 0.5).astype(np.float32), None),
    "multi:softprob": (gk.losses.softmax, np.digitize(SIGNAL, [-0.2, 0.8]), 3),
    "count:poisson": (gk.losses.poisson, np.floor(np.exp(SIGNAL.clip(-2, 2))), None),
}


def fitted(objective, categorical=()):
    loss, targets, num_outputs = TARGETS[objective]
    binned = bin(FEATURES, bins=64, categorical=categorical)
    booster = descent(loss, learning_rate=0.3, depth=4, num_outputs=num_outputs, subsample=0.8)
    return gk.fit(booster, (binned, np.asarray(targets)), steps=12, progress=False).params, binned


def loaded(text):
    booster = xgboost.Booster()
    booster.load_model(bytearray(text, "utf-8"))
    return booster


NEW = np.concatenate([FEATURES + np.float32(0.01) * (np.arange(4) < 3), FEATURES]).astype(np.float32)


@pytest.mark.few(1)
@pytest.mark.parametrize("objective", TARGETS)
@pytest.mark.parametrize("categorical", [(), pytest.param((3,), marks=pytest.mark.long)])
def test_xgboost_predicts_what_we_predict(objective, categorical):
    ensemble, binned = fitted(objective, categorical)
    booster = loaded(to_json(ensemble, binned, objective=objective))
    matrix = xgboost.DMatrix(NEW, feature_types=["c" if f in categorical else "q" for f in range(4)], enable_categorical=True)
    ours = predict(ensemble, binned.like(NEW))
    np.testing.assert_allclose(booster.predict(matrix, output_margin=True), ours, atol=1e-6 * max(1, np.abs(ours).max()))
    links = {"binary:logistic": jax.nn.sigmoid, "multi:softprob": jax.nn.softmax, "count:poisson": np.exp}
    np.testing.assert_allclose(booster.predict(matrix), links.get(objective, np.asarray)(ours), rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_a_category_that_was_never_seen_goes_where_the_missing_go():
    ensemble, binned = fitted("binary:logistic", (3,))
    strange = NEW.copy()
    strange[:, 3] = 77
    missing = NEW.copy()
    missing[:, 3] = np.nan
    np.testing.assert_array_equal(predict(ensemble, binned.like(strange)), predict(ensemble, binned.like(missing)))


@pytest.mark.long
def test_xgboosts_shap_values_add_up_to_our_scores():
    ensemble, binned = fitted("binary:logistic")
    shares = loaded(to_json(ensemble, binned, objective="binary:logistic")).predict(xgboost.DMatrix(FEATURES), pred_contribs=True)
    np.testing.assert_allclose(shares.sum(1), predict(ensemble, binned), atol=1e-4)


@pytest.mark.parametrize("objective", ["reg:squarederror", "binary:logistic", "multi:softprob", "count:poisson"])
def test_a_model_comes_back_as_it_went(objective):
    ensemble, binned = fitted(objective)
    back, cuts = from_json(to_json(ensemble, binned, objective=objective))
    np.testing.assert_allclose(predict(back, cuts.like(NEW)), predict(ensemble, binned.like(NEW)), atol=2e-6)


@pytest.mark.parametrize("objective", ["reg:squarederror", "binary:logistic", "multi:softprob"])
def test_a_model_of_xgboost_predicts_here_what_it_predicts_there(objective):
    _, targets, num_outputs = TARGETS[objective]
    settings = {"objective": objective, "max_depth": 5, "tree_method": "hist"} | ({"num_class": 3} if num_outputs else {})
    booster = xgboost.train(settings, xgboost.DMatrix(FEATURES, targets), 10)
    ensemble, cuts = from_json(booster.save_raw("json").decode())
    margin = booster.predict(xgboost.DMatrix(NEW), output_margin=True)
    np.testing.assert_allclose(predict(ensemble, cuts.like(NEW)), margin, atol=1e-5)
    told = booster.get_score(importance_type="total_gain")
    ours = np.asarray(importances(ensemble, 4).gain)
    np.testing.assert_allclose(ours, [told.get(f"f{f}", 0) for f in range(4)], rtol=1e-3)


OBJECTIVES = [
    "reg:logistic", "reg:gamma", "reg:tweedie", "survival:aft", "survival:cox", "count:poisson", "binary:logistic",
    "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror", "reg:quantileerror", "binary:logitraw", "binary:hinge",
    "multi:softmax", "rank:ndcg", "rank:map", "rank:pairwise",
]  # fmt: skip


@pytest.mark.few(6)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_base_scores_come_through_the_link_of_the_objective(objective):
    targets = (SIGNAL > 0.5).astype(np.float32) if objective[:3] in ("bin", "ran", "mul") else SIGNAL.clip(0.1, 0.9)
    matrix = xgboost.DMatrix(FEATURES, targets)
    if objective == "survival:aft":
        matrix.set_float_info("label_lower_bound", targets)
        matrix.set_float_info("label_upper_bound", targets)
    if objective.startswith("rank"):
        matrix.set_group([250, 250])
    own = {"multi:softmax": {"num_class": 2}, "reg:quantileerror": {"quantile_alpha": 0.5}}.get(objective, {})
    booster = xgboost.train({"objective": objective, "max_depth": 2, "base_score": 0.3, **own}, matrix, 2)
    ensemble, cuts = from_json(booster.save_raw("json").decode())
    margin = booster.predict(xgboost.DMatrix(NEW), output_margin=True)
    ours = np.asarray(predict(ensemble, cuts.like(NEW)))
    if objective != "multi:softmax":  # of which XGBoost tells the class at best
        np.testing.assert_allclose(ours, margin, atol=1e-5)
    else:
        np.testing.assert_array_equal(ours.argmax(1), booster.predict(xgboost.DMatrix(NEW)))


def of_xgboost(targets, **settings):
    return xgboost.train({"max_depth": 2, **settings}, xgboost.DMatrix(FEATURES, targets), 2).save_raw("json").decode()


TWO = np.stack([SIGNAL, -SIGNAL], 1)


@pytest.mark.parametrize(("text", "message"), [
    (lambda: of_xgboost(TWO), "be a model of one target, got 2"),
    (lambda: of_xgboost(TWO, multi_strategy="multi_output_tree"), "be a model of one target, got 2"),
    (lambda: of_xgboost(SIGNAL, objective="reg:quantileerror", quantile_alpha=[0.1, 0.9]), "be a model of one target, got 2"),
    (lambda: of_xgboost(TARGETS["multi:softprob"][1], objective="multi:softprob", num_class=3,
                        multi_strategy="multi_output_tree"), "hold trees of numbers with scalar leaves"),
    (lambda: of_xgboost(SIGNAL, booster="gblinear"), "be a model of the booster gbtree, got 'gblinear'"),
    (lambda: of_xgboost(SIGNAL, booster="dart"), "be a model of the booster gbtree, got 'dart'"),
    (lambda: of_xgboost(SIGNAL).replace("reg:squarederror", "reg:new"), "have one of the objectives .*, got 'reg:new'"),
], ids=["targets", "vectors", "levels", "classes", "linear", "dart", "objective"])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_model_of_another_kind_is_refused(text, message):
    with pytest.raises(ValueError, match=f"`text` must {message}"):
        from_json(text())


@pytest.mark.long
def test_what_cannot_travel_is_refused():
    ensemble, binned = fitted("reg:squarederror")
    with pytest.raises(ValueError, match=r"`objective` must be one of .*, got 'rank:ndcg'"):
        to_json(ensemble, binned, objective="rank:ndcg")
    told = json.loads(to_json(*fitted("binary:logistic", (3,)), objective="binary:logistic"))
    with pytest.raises(ValueError, match="`text` must hold trees of numbers with scalar leaves"):
        from_json(json.dumps(told))
