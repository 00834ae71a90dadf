#!/usr/bin/env python3
"""Every figure of perturb_metrics.py on a case worked out by hand, and beside cell-eval's own."""
import unittest

import numpy as np

import perturb_metrics as m


class Figures(unittest.TestCase):
    def test_a_constant_prediction_has_no_correlation(self):
        self.assertEqual(m.pearson_delta(np.zeros((1, 4)), np.array([[1., 2, 3, 0]])), [None])
        self.assertEqual(m.mean([None, 0.5, 1]), 0.75)
        self.assertIsNone(m.mean([None]))

    def test_what_all_perturbations_share_does_not_count_against_the_centroid(self):
        shared = np.array([5., -5, 5, -5])
        own = np.array([[1., 0, 0, -1], [0., 1, -1, 0]])
        self.assertGreater(m.mean(m.pearson_delta(shared + 0 * own, shared + own)), 0.9)
        self.assertEqual(m.pearson_centroid(shared + 0 * own, shared + own, shared), [None, None])
        self.assertAlmostEqual(m.mean(m.pearson_centroid(shared + own, shared + own, shared)), 1)

    def test_overlap_and_direction_look_at_the_genes_that_change(self):
        measured = np.array([[9., -8, 1, 0.5, 0]])
        predicted = np.array([[1., 0.5, -2, 0, 0]])
        self.assertEqual(m.overlap(predicted, measured, 2), [0.5])
        self.assertEqual(m.overlap(0 * predicted, measured, 2), [0])
        significant = np.array([[True, True, False, False, False]])
        self.assertEqual(m.direction_match(predicted, measured, significant), [0.5])
        self.assertEqual(m.direction_match(predicted, measured, ~significant & False), [None])
        self.assertEqual(m.mse(predicted, predicted + 2), [4])

    def test_centroid_accuracy_counts_those_that_are_farther(self):
        measured = np.array([[0., 0], [1, 0], [5, 0]])
        predicted = np.array([[0.4, 0], [0, 0], [5, 0]])
        self.assertEqual(m.centroid_accuracy(predicted, measured), [1, 0.5, 1])

    def test_changed_genes_are_those_whose_means_differ(self):
        rng = np.random.default_rng(1)
        control, perturbed = rng.normal(0, 1, (80, 6)), rng.normal(0, 1, (80, 6))
        perturbed[:, 2] += 3
        control[:, 5] = perturbed[:, 5] = 0
        self.assertEqual(m.changed(perturbed, control).tolist(), [False, False, True] + [False] * 3)

    def test_halves_are_of_the_same_cells(self):
        cells = np.arange(20.).reshape(10, 2)
        a, b = m.duplicate(cells, np.zeros(2), np.random.default_rng(0))
        np.testing.assert_allclose((a + b) / 2, cells.mean(0))

    def test_cell_eval_says_the_same_where_it_says_something(self):
        rng = np.random.default_rng(2)
        control = rng.normal(3, 1, (30, 8))
        cells = [rng.normal(3 + i, 1, (20, 8)) * np.linspace(0.5, 1.5, 8) for i in range(3)]
        measured = np.array([c.mean(0) for c in cells])
        predicted = measured + rng.normal(0, 0.3, measured.shape)
        base = control.mean(0)
        theirs = m.of_cell_eval(predicted, cells, ["A", "B", "C"], control,
                                ["G%d" % i for i in range(8)])
        ours = m.mean(m.pearson_delta(predicted - base, measured - base))
        self.assertAlmostEqual(theirs["pearson_delta"], ours, places=4)
        self.assertAlmostEqual(theirs["mse"], m.mean(m.mse(predicted, measured)), places=4)
        self.assertEqual(theirs["discrimination_l1"], 1)


if __name__ == "__main__":
    unittest.main()
