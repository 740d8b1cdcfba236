"""Accuracy on labelled data sets: the same code for the float, integer and compiled model."""
