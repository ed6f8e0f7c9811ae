"""Separate-common-separate networks for motor-imagery EEG: the method, in torch and numpy alone."""
