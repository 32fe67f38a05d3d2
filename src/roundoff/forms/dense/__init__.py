"""A classifier as a dense network: on a larger image it gives a map, each cell of which is the network on one crop."""

from roundoff.forms.dense.build import Densified, densify
from roundoff.forms.dense.proof import AtCrop, Crops, ExactCells, larger
from roundoff.forms.dense.receptive import Dense

__all__ = ["AtCrop", "Crops", "Dense", "Densified", "ExactCells", "densify", "larger"]
