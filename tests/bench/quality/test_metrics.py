#!/usr/bin/env python3
"""The metrics on cases worked out by hand. Run it with the Python of the evaluation."""
import os
import sys
import unittest

import numpy as np

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "e2e"))
import reference_lisi  # noqa: E402

import baselines
import inputs
import metrics


class Annotation(unittest.TestCase):
    LABELS = ["a", "b"]

    def test_ece_is_the_gap_between_confidence_and_accuracy(self):
        # 0.9 sure and right 3 times of 4; 0.6 sure and right 1 time of 1
        confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.6])
        right = np.array([True, True, True, False, True])
        self.assertAlmostEqual(metrics.ece(confidence, right), 0.8 * 0.15 + 0.2 * 0.4)

    def test_a_confidence_on_a_bin_s_edge_is_in_the_lower_bin(self):
        bins = metrics.reliability(np.array([0.2, 0.21]), np.array([True, False]), bins=5)
        self.assertEqual([(c, a) for c, a, _ in bins], [(0.2, 1.0), (0.21, 0.0)])

    def test_full_confidence_in_every_right_answer_has_no_error(self):
        p = np.eye(2)[[0, 1, 1]]
        m = metrics.annotation(["a", "b", "b"], self.LABELS, p)
        self.assertEqual((m["accuracy"], m["macro_f1"], m["ece"], m["brier"], m["risk_area"]),
                         (1, 1, 0, 0, 0))

    def test_brier_sums_over_labels(self):
        self.assertAlmostEqual(metrics.brier(np.array([[0.7, 0.3]]), np.array([0])), 0.18)
        self.assertAlmostEqual(metrics.brier(np.array([[0.0, 1.0]]), np.array([0])), 2.0)

    def test_macro_f1_weighs_types_alike(self):
        # a: 3 cells, all found, one of b taken for a; b: 2 cells, one found
        p = np.eye(2)[[0, 0, 0, 0, 1]]
        m = metrics.annotation(["a", "a", "a", "b", "b"], self.LABELS, p)
        self.assertAlmostEqual(m["macro_f1"], (6 / 7 + 2 / 3) / 2)
        self.assertAlmostEqual(m["balanced_accuracy"], 0.75)
        self.assertEqual(m["confusion"]["cells"], [[3, 0], [1, 1]])

    def test_a_type_that_is_only_predicted_does_not_enter_the_mean(self):
        m = metrics.annotation(["a", "a"], self.LABELS, np.array([[1.0, 0], [0, 1.0]]))
        self.assertAlmostEqual(m["macro_f1"], 2 / 3)

    def test_coverage_takes_cells_of_one_confidence_together(self):
        coverage, accuracy = metrics.coverage_curve(np.array([0.9, 0.8, 0.8, 0.5]),
                                                    np.array([True, False, True, False]))
        np.testing.assert_allclose(coverage, [0.25, 0.75, 1.0])
        np.testing.assert_allclose(accuracy, [1, 2 / 3, 0.5])
        self.assertAlmostEqual(metrics.accuracy_at(coverage, accuracy, 0.5), 2 / 3)

    def test_a_novel_type_that_is_doubted_more_than_all_others_has_auroc_one(self):
        p = np.array([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45]])
        m = metrics.annotation(["a", "b", "c"], self.LABELS, p)
        self.assertEqual(m["unseen"], {"auroc": 1.0, "auroc of c": 1.0, "cells of c": 1})
        self.assertEqual(m["cells"], 2)

    def test_a_label_left_out_of_training_is_not_scored(self):
        m = metrics.annotation(["a", "b"], self.LABELS, np.array([[0.9, 0.1], [0.6, 0.4]]), ["b"])
        self.assertEqual((m["cells"], m["accuracy"], m["unseen"]["auroc"]), (1, 1.0, 1.0))

    def test_a_cell_without_a_prediction_is_wrong(self):
        m = metrics.annotation(["a", "a"], self.LABELS, np.array([[1.0, 0], [np.nan, np.nan]]))
        self.assertEqual((m["accuracy"], m["cells_without_prediction"]), (0.5, 1))


class Embedding(unittest.TestCase):
    def setUp(self):
        rng = np.random.default_rng(0)
        self.kind = np.repeat(["a", "b"], 40)
        self.apart = rng.normal(size=(80, 5)).astype(np.float32)
        self.apart[:40, 0] += 100
        self.alike = rng.normal(size=(80, 5)).astype(np.float32)

    def test_two_far_clusters_score_one(self):
        m = metrics.embedding(self.apart, self.kind, np.tile(["x", "y"], 40))
        for key in ("knn_accuracy", "nmi", "ari", "graph_connectivity"):
            self.assertAlmostEqual(m[key], 1.0, places=5, msg=key)
        self.assertGreater(m["silhouette_label"], 0.95)
        # Batches are mixed: 1 but for the noise of 20 cells of a batch and type in five dimensions.
        self.assertGreater(m["silhouette_batch"], 0.8)

    def test_noise_scores_like_chance(self):
        m = metrics.embedding(self.alike, self.kind)
        self.assertLess(m["ari"], 0.1)
        self.assertLess(abs(m["knn_accuracy"] - 0.5), 0.2)
        self.assertNotIn("silhouette_batch", m)

    def test_a_type_with_too_few_cells_has_no_knn_accuracy(self):
        self.assertIsNone(metrics.knn_accuracy(self.alike[:6], np.array(list("aaaabb"))))


class Baselines(unittest.TestCase):
    def test_a_separable_case_is_learned_by_every_baseline(self):
        rng = np.random.default_rng(1)
        x = rng.random((60, 70)).astype(np.float32)
        truth = np.repeat(np.array(["a", "b"], dtype=object), 30)
        x[:30, :35] += 3
        for name, p in baselines.within(x, truth, ["a", "b"]).items():
            self.assertEqual(metrics.annotation(truth, ["a", "b"], p)["accuracy"], 1.0, name)

    def test_a_label_that_training_lacks_gets_no_probability(self):
        x = np.eye(4, dtype=np.float32)
        p = baselines.classify(x, list("aabb"), x, ["a", "b", "c"])
        np.testing.assert_allclose(p[:, 2], 0)
        np.testing.assert_allclose(p.sum(1), 1)


class Inputs(unittest.TestCase):
    def test_a_barcode_of_two_files_is_told_apart_by_its_file(self):
        table = {("x.h5ad", "A"): "one", ("y.h5ad", "A"): "two", ("x.h5ad", "B"): "three"}
        got = inputs.look_up(table, [("y.h5ad", "A"), ("", "B"), ("", "A"), ("z.h5ad", "B")])
        self.assertEqual(list(got), ["two", "three", "", ""])

    def test_rows_are_found_with_and_without_files(self):
        self.assertEqual(list(inputs.rows_of([("x", "A"), ("y", "A")], [("y", "A"), ("x", "Z")])),
                         [1, -1])
        self.assertEqual(list(inputs.rows_of([("x", "A")], [("", "A")])), [0])

    def test_a_gene_that_one_file_lacks_is_zero_there(self):
        a = inputs.Values([("x", "A")], ["g", "h"], np.array([[1, 2]], np.float32), None)
        b = inputs.Values([("y", "B")], ["h"], np.array([[3]], np.float32), None)
        np.testing.assert_array_equal(inputs.stacked([a, b], ["h", "g"]), [[2, 1], [3, 0]])
        self.assertEqual(inputs.together([a, b]).genes, ["h"])


class Mixing(unittest.TestCase):
    def test_lisi_is_that_of_scib_metrics(self):
        import scib_metrics
        from sklearn.neighbors import NearestNeighbors
        rng = np.random.default_rng(1)
        kinds = rng.integers(0, 3, 300)
        for shift in (0.0, 1.0, 4.0):
            x = rng.normal(size=(300, 8)) + shift * kinds[:, None]
            distances, indices = NearestNeighbors(n_neighbors=90).fit(x).kneighbors(x)
            near = scib_metrics.nearest_neighbors.NeighborsResults(indices=indices,
                                                                   distances=distances)
            self.assertAlmostEqual(reference_lisi.mixed(x, kinds),
                                   float(scib_metrics.ilisi_knn(near, kinds)), 3)
            self.assertAlmostEqual(reference_lisi.apart(x, kinds),
                                   float(scib_metrics.clisi_knn(near, kinds)), 3)


if __name__ == "__main__":
    unittest.main()
