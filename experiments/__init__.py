"""What a person runs; the only layer that may import all others."""

from mfscsn.packages import check_packages

check_packages()
