"""Tuning: MetaSchedule searches the blocking of our kernels by measuring them."""
