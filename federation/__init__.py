"""The federation of common layers: thin Flower apps around the method."""

from mfscsn.packages import check_packages

check_packages()
