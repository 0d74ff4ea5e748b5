"""Datasets: what annotators have labelled, in the formats that training reads, and back."""
