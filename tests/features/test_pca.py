"""ModalityPCA against scikit-learn's PCA, against itself in chunks, and its refusals."""

import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from fuxictr_mm.features.derive.pca import CHUNK_ROWS, ModalityPCA


@parametrize_with_checks(
    [ModalityPCA(), ModalityPCA(n_components=1, whiten=True), ModalityPCA(n_components=0.5, normalize=True)]
)
def test_sklearn_contract(estimator, check):
    check(estimator)


def sklearn_pca(rows, n_components, *, whiten=False):
    """scikit-learn's PCA with the signs of ModalityPCA: its own follow another rule before version 1.5."""
    pca = PCA(n_components, whiten=whiten, svd_solver="full").fit(rows.astype(np.float64))
    largest = np.abs(pca.components_).argmax(axis=1)
    pca.components_ *= np.sign(pca.components_[np.arange(len(largest)), largest])[:, None]
    return pca


def make_rows(case: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    scales = np.linspace(3, 0.5, 12)
    if case == "wide":
        return rng.normal(size=(9, 30)) * np.linspace(3, 0.5, 30)
    rows = rng.normal(size=(500, 12)) * scales + rng.normal(size=12)
    if case == "rank_deficient":
        rows = rng.normal(size=(500, 4)) * [5, 4, 3, 2] @ rng.normal(size=(4, 12))
    if case == "constant_column":
        rows[:, 3] = 0.1
    if case == "float32":
        rows = rows.astype(np.float32)
    if case == "large_offset":
        rows = rows + 1e6
    if case == "many_chunks":
        rows = rng.normal(size=(2 * CHUNK_ROWS + 7, 12)) * scales
    return rows


CASES = ["tall", "wide", "rank_deficient", "constant_column", "float32", "large_offset", "many_chunks"]


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("n_components", [4, 0.8])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_sklearn(case, n_components, whiten):
    rows = make_rows(case)
    ours = ModalityPCA(n_components, whiten=whiten).fit(rows)
    theirs = sklearn_pca(rows, n_components, whiten=whiten)
    assert ours.n_components_ == theirs.n_components_
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(ours.explained_variance_ratio_, theirs.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(ours.singular_values_, theirs.singular_values_, rtol=1e-4)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-6)
    projector = ours.components_.T @ ours.components_
    np.testing.assert_allclose(projector, theirs.components_.T @ theirs.components_, atol=1e-4)
    np.testing.assert_allclose(ours.transform(rows), theirs.transform(rows.astype(np.float64)), atol=1e-3)
    assert ours.transform(rows).dtype == rows.dtype


@pytest.mark.parametrize("case", CASES)
def test_all_components_rebuild_the_rows(case):
    rows = make_rows(case)
    for pca in (ModalityPCA(), ModalityPCA(normalize=True), ModalityPCA(whiten=True, normalize=True)):
        pca.fit(rows)
        assert pca.n_components_ == min(rows.shape)
        np.testing.assert_allclose(pca.inverse_transform(pca.transform(rows)), rows, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(pca.components_ @ pca.components_.T, np.eye(pca.n_components_), atol=1e-9)


@given(cuts=st.lists(st.integers(1, 299), max_size=12, unique=True), case=st.sampled_from(["tall", "large_offset"]))
@settings(max_examples=40, deadline=None)
def test_any_partition_gives_the_same_pca(cuts, case):
    rows = make_rows(case)[:300]
    once = ModalityPCA(5, normalize=True).fit(rows)
    chunked = ModalityPCA(5, normalize=True)
    for chunk in np.split(rows, sorted(cuts)):
        chunked.partial_fit(chunk)
    assert chunked.n_samples_seen_ == 300
    np.testing.assert_allclose(chunked.mean_, once.mean_, rtol=1e-12)
    np.testing.assert_allclose(chunked.explained_variance_, once.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(chunked.components_, once.components_, atol=1e-8)
    np.testing.assert_allclose(chunked.transform(rows), once.transform(rows), atol=1e-7)


@pytest.mark.parametrize("case", [*CASES, "first_row_far_off"])
def test_equals_the_two_pass_form(case):
    """All rows in memory, centred, one product."""
    if case == "first_row_far_off":
        rows = make_rows("many_chunks")
        rows[0] += 1e3
    else:
        rows = make_rows(case)
    ours = ModalityPCA().fit(rows)
    centred = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
    variance, vectors = np.linalg.eigh(centred.T @ centred / (len(rows) - 1))
    variance, vectors = variance[::-1][: ours.n_components_], vectors[:, ::-1][:, : ours.n_components_]
    noise = 1e-11 if case == "large_offset" else 1e-12  # 1e6 standard deviations cost digits on both sides
    np.testing.assert_allclose(ours.explained_variance_, variance, rtol=noise, atol=noise * variance[0])
    keep = variance > 1e-9 * variance[0]
    cosines = np.abs((ours.components_[keep] * vectors.T[keep]).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-9)


@pytest.mark.parametrize("size", [300, 2 * CHUNK_ROWS + 7])
def test_float32_rows_are_accumulated_in_float64(size):
    rows = np.random.default_rng(5).normal(7, 1, size=(size, 12)).astype(np.float32)
    single, double = ModalityPCA(5).fit(rows), ModalityPCA(5).fit(rows.astype(np.float64))
    for name, values in single.to_arrays().items():
        assert np.array_equal(values, double.to_arrays()[name]), name


def test_order_in_memory_changes_nothing():
    rows = make_rows("many_chunks")
    pca, other = ModalityPCA(5).fit(rows), ModalityPCA(5).fit(np.asfortranarray(rows))
    assert np.array_equal(pca.components_, other.components_)
    assert np.array_equal(pca.transform(rows), other.transform(np.asfortranarray(rows)))


def test_goes_on_after_a_copy_and_leaves_the_original_alone():
    rows = make_rows("tall")
    first = ModalityPCA(4).partial_fit(rows[:200])
    second = pickle.loads(pickle.dumps(first)).partial_fit(rows[200:])
    assert (first.n_samples_seen_, second.n_samples_seen_) == (200, 500)
    np.testing.assert_allclose(
        first.explained_variance_, ModalityPCA(4).fit(rows[:200]).explained_variance_, rtol=1e-12
    )
    np.testing.assert_allclose(second.explained_variance_, ModalityPCA(4).fit(rows).explained_variance_, rtol=1e-12)


def test_what_it_holds_does_not_grow_with_the_rows():
    pca = ModalityPCA(4).partial_fit(make_rows("tall"))
    size = len(pickle.dumps(pca))
    for _ in range(20):
        pca.partial_fit(make_rows("many_chunks"))
    assert len(pickle.dumps(pca)) <= size + 16


def test_an_attribute_read_between_chunks_does_not_freeze_the_fit():
    rows = make_rows("tall")
    pca = ModalityPCA(3).partial_fit(rows[:100])
    early = pca.components_.copy()
    pca.partial_fit(rows[100:])
    assert not np.allclose(early, pca.components_, atol=1e-3)
    np.testing.assert_allclose(pca.components_, ModalityPCA(3).fit(rows).components_, atol=1e-9)


@pytest.mark.parametrize("case", ["tall", "many_chunks"])
def test_deterministic_with_fixed_signs(case):
    rows = make_rows(case)
    fits = [ModalityPCA(6).fit(rows).components_ for _ in range(5)]
    assert all(np.array_equal(fits[0], other) for other in fits)
    assert (np.take_along_axis(fits[0], np.abs(fits[0]).argmax(axis=1)[:, None], axis=1) > 0).all()
    np.testing.assert_allclose(fits[0], sklearn_pca(rows, 6).components_, atol=1e-8)


@pytest.mark.parametrize("whiten", [False, 0.5, True])
def test_normalized_rows_have_norm_one_on_average(whiten):
    rows = make_rows("tall") * 40
    plain = ModalityPCA(5, whiten=whiten).fit(rows)
    rms = np.sqrt((plain.transform(rows) ** 2).sum(axis=1).mean())
    assert plain.scale_ == pytest.approx(rms)
    reduced = ModalityPCA(5, whiten=whiten, normalize=True).fit_transform(rows)
    assert np.sqrt((reduced**2).sum(axis=1).mean()) == pytest.approx(1)
    np.testing.assert_allclose(reduced * rms, plain.transform(rows))


def test_a_power_of_whitening_lies_between_none_and_all():
    rows = make_rows("rank_deficient")
    plain, half, whole = (ModalityPCA(8, whiten=whiten).fit(rows) for whiten in (0, 0.5, 1.0))
    deviation = np.sqrt(plain.explained_variance_[:4])
    np.testing.assert_allclose(half.transform(rows)[:, :4], plain.transform(rows)[:, :4] / deviation**0.5)
    assert np.array_equal(half.transform(rows)[:, 4:], np.zeros((500, 4)))
    np.testing.assert_array_equal(whole.transform(rows), ModalityPCA(8, whiten=True).fit(rows).transform(rows))
    np.testing.assert_array_equal(plain.transform(rows), ModalityPCA(8).fit(rows).transform(rows))


def test_directions_without_variance_become_zero_not_inf():
    rows = make_rows("rank_deficient")
    reduced = ModalityPCA(8, whiten=True).fit(rows).transform(rows)
    np.testing.assert_allclose(reduced[:, :4].std(axis=0, ddof=1), 1)
    assert np.array_equal(reduced[:, 4:], np.zeros((500, 4)))


@pytest.mark.parametrize("n_components", [None, 2, 0.9])
@pytest.mark.parametrize("whiten", [False, True])
def test_constant_data_has_scale_one(n_components, whiten):
    rows = np.full((5000, 3), 0.1)
    pca = ModalityPCA(n_components, whiten=whiten, normalize=True)
    for chunk in np.array_split(rows, 7):
        pca.partial_fit(chunk)
    assert pca.scale_ == 1.0
    assert not pca.explained_variance_ratio_.any()
    assert not pca.transform(rows).any()


def test_survives_clone_pickle_and_arrays():
    rows = make_rows("float32")
    pca = ModalityPCA(3, whiten=True, normalize=True).partial_fit(rows)
    assert clone(pca).get_params() == pca.get_params()
    expected = pca.transform(rows)
    assert np.array_equal(pickle.loads(pickle.dumps(pca)).transform(rows), expected)
    restored = ModalityPCA.from_arrays(pca.to_arrays(), **pca.get_params())
    assert np.array_equal(restored.transform(rows), expected)
    with pytest.raises(ValueError, match="no scatter matrix: it can transform, not go on fitting"):
        restored.partial_fit(rows)
    assert np.array_equal(restored.fit(rows).transform(rows), ModalityPCA(**pca.get_params()).fit_transform(rows))


def test_names_of_the_outputs():
    names = ModalityPCA(2).fit(make_rows("tall")).get_feature_names_out()
    assert names.tolist() == ["modalitypca0", "modalitypca1"]


@pytest.mark.parametrize("size", [0, -1, 1.0, 1.5, 0.0, True, "4", float("nan")])
def test_refuses_a_size_that_means_nothing(size):
    with pytest.raises(ValueError, match=re.escape(f"n_components={size!r} must be a whole number >= 1")):
        ModalityPCA(size).fit(make_rows("tall"))


def test_refuses_more_components_than_the_rows_allow():
    sentence = re.escape(
        "n_components=10 must be between 1 and min(n_samples=9, n_features=30)=9; use n_components <= 9."
    )
    with pytest.raises(ValueError, match=sentence):
        ModalityPCA(10).fit(make_rows("wide"))
    with pytest.raises(ValueError, match=sentence):
        ModalityPCA(10).partial_fit(make_rows("wide")).transform(make_rows("wide"))


def test_refuses_one_row_and_unfitted_use():
    with pytest.raises(ValueError, match="n_samples=1 but a variance needs at least 2 rows"):
        ModalityPCA(1).fit(np.ones((1, 3)))
    with pytest.raises(NotFittedError):
        ModalityPCA(1).transform(np.ones((2, 3)))
    assert not hasattr(ModalityPCA(1), "components_")


def test_refuses_reduced_rows_of_another_width():
    pca = ModalityPCA(3).fit(make_rows("tall"))
    with pytest.raises(ValueError, match=re.escape("X has shape (2, 4) but 3 components per row are expected.")):
        pca.inverse_transform(np.ones((2, 4)))
