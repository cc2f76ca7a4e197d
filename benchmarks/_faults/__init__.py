"""Trainings with a fault put in, each in a process of its own, and the verdict on how they end."""
