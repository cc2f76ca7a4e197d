"""Adaptive quadrature in one to three continuous coordinates."""

from energax.partition.quadrature.method import Quadrature as Quadrature
