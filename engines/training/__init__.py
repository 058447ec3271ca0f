"""From worlds to weights: data sets, loops, calibration. Needs the ``train`` extra."""
