"""Two-covariance PLDA against densities by scipy, moments by plain loops, and simulated people of known covariances."""

import inspect

import numpy as np
import pytest
from people import people_pairs
from scipy.linalg import eigh, sqrtm
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from facegm.errors import FacegmError
from facegm.eval.plda import Plda, fit_plda


def naive_moments(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, covariance within and between people, by loops over images and people; B as it comes."""
    images, dim = embeddings.shape
    people = sorted(set(labels.tolist()))
    mean = sum(embeddings) / images
    within, among, squares = np.zeros((dim, dim)), np.zeros((dim, dim)), 0
    for person in people:
        own = embeddings[labels == person]
        center = sum(own) / len(own)
        for x in own:
            within += np.outer(x - center, x - center)
        among += len(own) * np.outer(center - mean, center - mean)
        squares += len(own) ** 2
    within /= images - len(people)
    effective = (images - squares / images) / (len(people) - 1)
    return mean, within, (among / (len(people) - 1) - within) / effective


def naive_ratio(a: np.ndarray, b: np.ndarray, mean: np.ndarray, within: np.ndarray, between: np.ndarray) -> list[float]:
    """Of each pair, by the joint density of both embeddings."""
    total, nothing = within + between, np.zeros_like(between)
    means = np.concatenate([mean, mean])
    one = multivariate_normal(means, np.block([[total, between], [between, total]]))
    two = multivariate_normal(means, np.block([[total, nothing], [nothing, total]]))
    return [
        float(one.logpdf(np.concatenate(pair)) - two.logpdf(np.concatenate(pair))) for pair in zip(a, b, strict=True)
    ]


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_ratio_is_that_of_the_joint_densities_with_moments_by_loops(dim: int, ridge: float) -> None:
    set_ = people_pairs(dim=dim)
    mean, within, between = naive_moments(set_.embeddings, set_.person)
    assert eigh(between, eigvals_only=True)[0] > 0  # no clipping in this case
    within += ridge * np.trace(within) / dim * np.eye(dim)
    plda = fit_plda(set_.embeddings, set_.person, ridge=ridge)
    expected = naive_ratio(set_.a, set_.b, mean, within, between)
    np.testing.assert_allclose(plda.log_likelihood_ratio(set_.a, set_.b), expected, rtol=1e-9, atol=1e-9)
    assert (plda.images, plda.people, plda.ridge) == (len(set_.person), 48, ridge)


def test_axes_in_which_people_do_not_differ_say_nothing() -> None:
    """Protects B's positive semi-definiteness: the estimate is negative in an axis without differences."""
    rng = np.random.default_rng(3)
    person = np.repeat(np.arange(15), 3)
    embeddings = rng.normal(size=(45, 3)) + rng.normal(size=(15, 3))[person] * [2, 1, 0]
    embeddings[:, 2] -= 0.9 * np.array([embeddings[person == p, 2].mean() for p in person])
    mean, within, between = naive_moments(embeddings, person)
    root = np.real(sqrtm(within))
    variance, axes = np.linalg.eigh(np.linalg.solve(root, np.linalg.solve(root, between).T))
    assert (variance < 0).sum() == 1
    between = root @ (axes * np.maximum(variance, 0)) @ axes.T @ root
    a, b = rng.normal(size=(2, 20, 3)) * 2
    plda = fit_plda(embeddings, person)
    assert plda.axes.shape == (3, 2)
    np.testing.assert_allclose(plda.log_likelihood_ratio(a, b), naive_ratio(a, b, mean, within, between), rtol=1e-9)


def test_covariances_are_unbiased_when_some_people_have_many_images() -> None:
    """Protects the effective number of images a person, which the mean number would overstate."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(20), [1] * 10 + [2] * 5 + [20] * 5)
    estimates = []
    for _ in range(400):
        x = rng.normal(size=20)[person] * 2 + rng.normal(size=len(person))
        plda = fit_plda(x[:, None], person)
        estimates.append((plda.axes[0, 0] ** -2, plda.between[0] * plda.axes[0, 0] ** -2))
    (within, between), error = np.mean(estimates, axis=0), np.std(estimates, axis=0) / 20
    assert within == pytest.approx(1, abs=4 * error[0])
    assert between == pytest.approx(4, abs=4 * error[1])


def test_units_and_axes_of_the_embeddings_do_not_matter() -> None:
    set_ = people_pairs(dim=4)
    mixing, shift = np.random.default_rng(1).normal(size=(4, 4)), np.array([50.0, 0, -3, 1])
    plain = fit_plda(set_.embeddings, set_.person).log_likelihood_ratio(set_.a, set_.b)
    mixed = fit_plda(set_.embeddings @ mixing + shift, set_.person)
    np.testing.assert_allclose(mixed.log_likelihood_ratio(set_.a @ mixing + shift, set_.b @ mixing + shift), plain)


def test_names_and_order_of_people_do_not_matter() -> None:
    set_ = people_pairs(dim=3)
    order = np.random.default_rng(0).permutation(len(set_.person))
    named = fit_plda(set_.embeddings[order], np.array([f"person {n}" for n in set_.person])[order])
    expected = fit_plda(set_.embeddings, set_.person).log_likelihood_ratio(set_.a, set_.b)
    np.testing.assert_allclose(named.log_likelihood_ratio(set_.a, set_.b), expected)


def test_components_are_scikit_learns_pca_of_the_images() -> None:
    set_ = people_pairs(dim=8)
    pca = PCA(3, svd_solver="full").fit(set_.embeddings)
    reduced = fit_plda(pca.transform(set_.embeddings), set_.person)
    expected = reduced.log_likelihood_ratio(pca.transform(set_.a), pca.transform(set_.b))
    found = fit_plda(set_.embeddings, set_.person, components=3).log_likelihood_ratio(set_.a, set_.b)
    np.testing.assert_allclose(found, expected)


def test_single_precision_embeddings_are_computed_in_double() -> None:
    set_ = people_pairs(dim=4)
    x, a, b = (part.astype(np.float32) for part in (set_.embeddings, set_.a, set_.b))
    found = fit_plda(x, set_.person).log_likelihood_ratio(a, b)
    double = fit_plda(x.astype(np.float64), set_.person)
    np.testing.assert_allclose(
        found, double.log_likelihood_ratio(a.astype(np.float64), b.astype(np.float64)), rtol=1e-12
    )
    assert found.dtype == np.float64


def test_what_cannot_be_fitted_is_named() -> None:
    set_ = people_pairs(dim=4, folds=1)
    x, person = set_.embeddings, set_.person
    with pytest.raises(FacegmError, match=r"PLDA: 3 images of 1 people; the fit needs 2 people"):
        fit_plda(x[:3], np.zeros(3, int))
    with pytest.raises(FacegmError, match=r"PLDA: 5 images of 5 people; .* several images of some"):
        fit_plda(x[:5], np.arange(5))
    broken = x.copy()
    broken[2, 1] = np.nan
    with pytest.raises(FacegmError, match="PLDA: NaN or infinity"):
        fit_plda(broken, person)
    few = np.isin(person, [0, 1])
    with pytest.raises(FacegmError, match=r"singular: \d+ images of 2 people in 12 dimensions; keep fewer .* ridge"):
        fit_plda(np.tile(x[few], 3) + 0, person[few])
    fit_plda(np.tile(x, 3), person, ridge=0.1)
    with pytest.raises(FacegmError, match="covariance within people is singular"):
        fit_plda(np.ones((6, 3)), np.repeat([0, 1], 3))
    around = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    with pytest.raises(FacegmError, match="2 people do not differ more than those of one"):
        fit_plda(np.tile(around, (2, 1)), np.repeat([0, 1], 4))
    with pytest.raises(FacegmError, match=r"expected embeddings \[images, dim\] and a label of each"):
        inspect.unwrap(fit_plda)(x, person[1:])


def test_embeddings_of_another_network_are_refused() -> None:
    set_ = people_pairs(dim=4)
    plda = fit_plda(set_.embeddings, set_.person)
    ratio = inspect.unwrap(Plda.log_likelihood_ratio)
    with pytest.raises(FacegmError, match="fitted on embeddings of 4 dimensions"):
        ratio(plda, np.ones((2, 3)), np.ones((2, 3)))
