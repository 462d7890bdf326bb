//! Whole-system tests on real clusters.
